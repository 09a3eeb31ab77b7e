"""The table, the JSON, and the plot for the README."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from rich.table import Table

from bench.groups.listing import LIST
from bench.measure import OURS, Results, Row

_COLUMNS = ("work", "loops", "program", "median", "p95", "engine calls", "longest stall", "memory", "of ours", "")


def table(results: Results) -> Table:
    """One line for each program at each work; what others took is given in times what loopnest took."""
    drawn = Table(title="loopnest and its peers, in one run on one engine; milliseconds")
    for column in _COLUMNS:
        drawn.add_column(column, justify="left" if column in {"work", "program", ""} else "right")
    last = None
    for row in results.ordered():
        if last is not None and (last.group, last.work, last.size) != (row.group, row.work, row.size):
            drawn.add_section()
        drawn.add_row(*_cells(results, row), style="bold" if row.program == OURS else None)
        last = row
    return drawn


def markdown(results: Results) -> Iterator[str]:
    """The same table for the documentation."""
    columns = [*_COLUMNS[:-1], "note"]
    yield f"| {' | '.join(columns)} |"
    yield "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for row in results.ordered():
        yield f"| {' | '.join(_cells(results, row))} |"


def machine(engine: dict[str, Any], foreign: int, load: float) -> dict[str, Any]:
    """Where it was measured."""
    return {
        "at": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processors": os.cpu_count(),
        "memory": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": engine["Version"],
        "containers of others": foreign,
        "load before": round(load, 1),
    }


def as_json(results: Results, where: dict[str, Any]) -> str:
    rows = [{**row.as_dict(), "ratios": [vars(ratio) for ratio in results.ratios(row)]} for row in results.rows]
    return json.dumps({"machine": where, "remarks": results.remarks, "rows": rows}, indent=1)


def plot(results: Results, path: Path) -> None:
    """The cost of a listing against the number of loops."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for program, colour in ((OURS, "tab:blue"), ("upstream", "tab:red"), ("app server", "tab:orange")):
        rows = [it for it in results.rows if (it.group, it.work, it.program) == ("list", LIST, program) and it.samples]
        if rows:
            label = {OURS: "loopnest", "upstream": "openhands-ai 1.6.0, nested manager"}.get(
                program, "openhands-ai 1.11.0, sandbox service"
            )
            axes.plot([it.size for it in rows], [it.median for it in rows], "o-", color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="running loops", ylabel="milliseconds (median)")
    axes.set_title("Listing all loops with their status")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _cells(results: Results, row: Row) -> list[str]:
    ratio = _ratio(results, row)
    return [
        row.work,
        str(row.size),
        row.program,
        _ms(row.median) if row.samples else "",
        _ms(row.p95) if row.samples else "",
        "" if row.calls is None else f"{row.calls:g}",
        "" if row.stall is None else _stall(row),
        "" if row.memory is None else f"{row.memory / 2**20:.0f} MiB",
        ratio,
        row.note,
    ]


def _ratio(results: Results, row: Row) -> str:
    if row.program == OURS:
        return ""
    work = (row.group, row.work, row.size, OURS)
    ours = [it for it in results.rows if (it.group, it.work, it.size, it.program) == work]
    return next((str(ratio) for it in ours for ratio in results.ratios(it) if ratio.other == row.program), "")


def _stall(row: Row) -> str:
    own = f" ({_ms(row.own_stall)} own)" if row.own_stall is not None else ""
    return f"{_ms(row.stall or 0)}{own}"


def _ms(value: float) -> str:
    return (
        f"{value:,.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 0.1
        else f"{value:.3f}"
    )
