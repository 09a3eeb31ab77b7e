"""The ``loopnest`` command: its global options, and where its commands are.

Commands are imported when they run, so that help and completion are instant.
"""

from __future__ import annotations

import importlib
import logging
import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_group

from loopnest_cli.options import JSON_MARK, Options, new_app


class _Command(NamedTuple):
    module: str
    help: str


COMMANDS: Final = {
    "demo": _Command("demo", "Run a real agent in a loop of its own, watch it work, and clean up."),
    "plugins": _Command("diagnosis", "List the installed plugins, and what each is used for."),
    "doctor": _Command("diagnosis", "Look at what loopnest needs, and say what to do."),
    "config": _Command("configuration", "Show the effective configuration, check it, or print an example."),
    "image": _Command("images", "Build, pull or list the images of nested servers."),
    "start": _Command("loops", "Start the loop of a conversation, or resume it."),
    "list": _Command("loops", "List loops."),
    "send": _Command("loops", "Send a message, or steer the agent."),
    "events": _Command("streams", "Show what happened in a conversation, and follow it."),
    "logs": _Command("streams", "Show the log of a loop's nested server, and follow it."),
    "pause": _Command("loops", "Freeze a loop, which keeps its memory."),
    "resume": _Command("loops", "Let a paused loop go on."),
    "close": _Command("loops", "Stop a loop; with --remove, remove its container and workspace."),
    "serve": _Command("serve", "Serve a host whose conversations run as loops."),
}
EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 the work failed, or doctor found an error; 2 the command line, the configuration or an "
    "argument is wrong; 3 no such loop or image; 4 the engine can't be reached; 130 interrupted, 143 terminated."
)
_FORMAT: Final = "%(levelname)s %(name)s: %(message)s"
#: What typer itself turns into a message and an exit code; the last is the base of all usage errors.
_TYPERS_OWN: Final[tuple[type[BaseException], ...]] = (
    typer.Exit,
    typer.Abort,
    BrokenPipeError,
    typer.BadParameter.__mro__[2],
)


class _Commands(TyperGroup):
    """Knows all commands by name, and imports the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command by its stub, and return the real one."""
        name, stub, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and stub else stub, rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; what it raises becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except _TYPERS_OWN:
            raise
        except Exception as error:  # noqa: BLE001 - reported, with the traceback on request
            failures = importlib.import_module("loopnest_cli.failures")
            verbosity = ctx.obj.verbosity if ctx.obj else 0
            raise typer.Exit(
                failures.report(error, as_json=ctx.meta.get(JSON_MARK, False), verbosity=verbosity)
            ) from None


def load(name: str) -> Any:
    """Import the command called ``name``."""
    module = importlib.import_module(f"loopnest_cli.{COMMANDS[name].module}")
    return get_group(module.app).commands[name]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loopnest {version('loopnest')}")
        raise typer.Exit


app = new_app(cls=_Commands, no_args_is_help=True, epilog=EXIT_CODES)
for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.help)(lambda: None)


@app.callback()
def root(
    ctx: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="PATH", help="A TOML file with a [loopnest] table.  [default: loopnest.toml]"),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", metavar="NAME", help="Instead of the configured strategy.")
    ] = None,
    verbosity: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Log on standard error; -vv more.")
    ] = 0,
    show_version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Run agent loops where the configuration says: in containers, in processes, or elsewhere.

    Every command acts for the operator, who sees the loops of all users. Data goes to standard output, progress and
    errors to standard error.
    """
    ctx.obj = Options(config, strategy, verbosity)
    levels = [logging.WARNING, logging.INFO, logging.DEBUG]
    logging.basicConfig(level=levels[min(verbosity, 2)], format=_FORMAT)
    if os.environ.get("LOOPNEST_TRACE"):
        logging.getLogger("loopnest.trace").setLevel(logging.INFO)


def main() -> None:
    """Run the command line."""
    app(prog_name="loopnest")
