"""``tox -e bench``: measures loopnest, its peers and the physical floor in one run, on one engine, in turn."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bench import report
from bench.groups import GROUPS
from bench.stage import AGENT_SERVER, STANDIN, Stage

PEERS = ("upstream", "agent server", "app server")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loopnest-bench"


def main(
    group: Annotated[list[str] | None, typer.Option(help=f"One or more of: {', '.join(GROUPS)}.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write all samples here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw cost against number of loops here (PNG).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="One round and few loops: shows that it works.")] = False,
    rounds: Annotated[int | None, typer.Option(help="At most so many rounds.")] = None,
    loops: Annotated[str, typer.Option(help="Numbers of loops to list.")] = "1,10,100,1000",
    cycles: Annotated[int, typer.Option(help="Starts and closes in search of leaks.")] = 500,
    peers: Annotated[str, typer.Option(help="Which peers; empty for none.")] = ",".join(PEERS),
    cache: Annotated[Path, typer.Option(help="Where the peers are installed.")] = _CACHE,
) -> None:
    """Measure, and print a table."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through all that cleans up
    sizes = [1, 10] if quick else [int(size) for size in loops.split(",")]
    chosen = {peer.strip() for peer in peers.split(",") if peer.strip()}
    if unknown := chosen - set(PEERS):
        raise typer.BadParameter(f"unknown peers: {', '.join(sorted(unknown))}")
    load = os.getloadavg()[0]
    # Programs run in it: a peer may leave files of another user's in what it mounts.
    with (
        tempfile.TemporaryDirectory(prefix="loopnest-bench-", ignore_cleanup_errors=True) as directory,
        Stage(Path(directory), cache, sizes, 1 if quick else rounds, chosen, 60 if quick else cycles) as stage,
    ):
        _require_images(stage)
        where = report.machine(stage.engine.version(), len(stage.engine.containers()), load)
        try:
            for name in group or GROUPS:
                stage.say(f"[bold]{name}[/]")
                _run(stage, name)
        finally:  # a long run that is broken off has not been for nothing
            _write(stage, where, json, markdown, plot)
            _print(stage, where)


def _run(stage: Stage, name: str) -> None:
    try:
        GROUPS[name](stage)
    except Exception as error:  # noqa: BLE001 - the other groups have their turn
        stage.console.print_exception()
        stage.remark(f"{name} ended early: {error}")
    finally:
        stage.clear()


def _print(stage: Stage, where: dict[str, object]) -> None:
    console = Console(width=None if os.isatty(1) else 200)
    console.print(report.table(stage.results))
    console.print(", ".join(f"{key}: {value}" for key, value in where.items()))
    for remark in stage.results.remarks:
        console.print(f"[yellow]{remark}[/]", highlight=False)


def _write(stage: Stage, where: dict[str, object], json: Path | None, markdown: Path | None, plot: Path | None) -> None:
    results = stage.results
    if json:
        json.write_text(report.as_json(results, where))
    if markdown:
        markdown.write_text("\n".join(report.markdown(results)) + "\n")
    if plot:
        report.plot(results, plot)


def _require_images(stage: Stage) -> None:
    missing = [image for image in (STANDIN, AGENT_SERVER) if not stage.engine.images(image)]
    if missing:
        raise typer.BadParameter(f"the engine has no image {' and '.join(missing)}; '.ci/images' builds them")


if __name__ == "__main__":
    typer.run(main)
