"""What commands print: tables for people, JSON for programs; data on standard output, all else on standard error."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

_STYLES: Final = {
    "running": "green",
    "starting": "yellow",
    "paused": "cyan",
    "stopped": "dim",
    "failed": "red",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
    "strategy": "green",
    "broken": "red",
    "unused": "dim",
}
#: Escape sequences, and all control characters but tab and line feed: agents must not drive the operator's terminal.
_CONTROL: Final = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[PX^_\]][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
#: Columns of a table that is no terminal's: a program that reads it must find every line whole.
_UNLIMITED: Final = 10_000
_GAP: Final = 2


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        spare: the order in which columns give way where the terminal is narrow, 1 first; 0 stays.
    """

    title: str
    spare: int = 0


def console(*, err: bool = False) -> Console:
    """Return a console for the stream as it is now; unlimited in width where it is no terminal."""
    stream = sys.stderr if err else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else _UNLIMITED, highlight=False, soft_wrap=False)


def printable(text: str) -> str:
    """Return ``text`` without what would drive a terminal."""
    return _CONTROL.sub("", text)


def styled(text: str, word: str) -> Text:
    """``text`` in the colour of a status, level or role."""
    return Text(text, style=_STYLES.get(word, ""))


def print_json(document: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_line(document: Any) -> None:
    """Print one JSON document on one line, at once."""
    typer.echo(json.dumps(document, ensure_ascii=False))


def plain(model: BaseModel, *, show_keys: bool = False) -> dict[str, Any]:
    """Return ``model`` as JSON data; session keys are left out, or shown as they are."""
    data: dict[str, Any] = model.model_dump(mode="json", exclude={"session_key"})
    key = getattr(model, "session_key", None)
    return {**data, "session_key": key.get_secret_value() if key else None} if show_keys else data


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[str | None]]) -> None:
    """Print ``rows``, without columns that are empty throughout, or for which the terminal is too narrow.

    The first column, which names things, is never cut.
    """
    cells = [[printable(cell or "") for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNLIMITED
    shown = _fitting(columns, cells, width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index in shown:
        least = max(_natural(columns, cells, 0)) if index == 0 else None
        table.add_column(columns[index].title.upper(), overflow="fold", no_wrap=index == 0, min_width=least)
    for row in cells:
        table.add_row(*(styled(row[index], row[index]) for index in shown))
    out = console()
    with out.capture() as captured:
        out.print(table, crop=False)
    for line in captured.get().splitlines():
        typer.echo(line.rstrip())


def age(since: datetime | None) -> str:
    """How long ago ``since`` was, in its largest unit."""
    if since is None:
        return ""
    seconds = max(0, int((datetime.now(timezone.utc) - since).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _fitting(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    shown = [index for index in range(len(columns)) if index == 0 or any(row[index] for row in cells)]
    spare = sorted((index for index in shown if columns[index].spare), key=lambda index: columns[index].spare)
    while spare and sum(max(_natural(columns, cells, index)) + _GAP for index in shown) > width:
        shown.remove(spare.pop(0))
    return shown


def _natural(columns: Sequence[Column], cells: Sequence[Sequence[str]], index: int) -> list[int]:
    return [len(columns[index].title), *(len(row[index]) for row in cells)]
