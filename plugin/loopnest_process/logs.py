"""Read the log of a run line by line, off the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import SecretStr

from loopnest_nested.lines import LONGEST, Lines
from loopnest_nested.redaction import redacted
from loopnest_process.child import Run

#: Seconds between looks for new lines. Files can't be waited for in a way that works everywhere, and one ``read`` that
#: finds nothing costs a microsecond.
_LOOK: Final = 0.1
_BLOCK: Final = 64 * 1024


async def read(run: Run, *, tail: int, follow: bool) -> AsyncIterator[str]:
    """Give the last ``tail`` lines, and with ``follow`` all further ones until the run ends."""
    try:
        file = await asyncio.to_thread(run.log.open, "rb")
    except FileNotFoundError:
        return
    with file:
        await asyncio.to_thread(_seek_tail, file, tail)
        async for line in _lines(file, run, follow):
            yield line


def last_lines(path: Path, count: int, secrets: Iterable[SecretStr] = ()) -> list[str]:
    """The last ``count`` lines without ``secrets``, oldest first, each cut to 500 characters."""
    try:
        with path.open("rb") as file:
            _seek_tail(file, count)
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    return [line[:500] for line in redacted(text, secrets).splitlines()]


async def _lines(file: BinaryIO, run: Run, follow: bool) -> AsyncIterator[str]:
    lines = Lines()
    while True:
        alive = follow and run.alive()  # before reading: what a run that ends says last is read too
        while chunk := await asyncio.to_thread(file.read, _BLOCK):
            for line in lines.feed(chunk):
                yield line
        if not alive:
            break
        await asyncio.sleep(_LOOK)
    for line in lines.end():
        yield line


def _seek_tail(file: BinaryIO, count: int) -> None:
    """Go to the begin of the last ``count`` lines, reading backwards as far as needed.

    Of lines that are very long, fewer are found: at most as many bytes are read as ``count`` of the longest lines have.
    """
    position = end = file.seek(0, os.SEEK_END)
    if count <= 0:
        return
    ends_line, newlines = 0, 0
    while position > max(0, end - (count + 1) * LONGEST):
        step = min(_BLOCK, position)
        position = file.seek(position - step)
        block = file.read(step)
        ends_line = ends_line or int(position + step == end and block.endswith(b"\n"))
        found = block.count(b"\n")
        if newlines + found - ends_line >= count:
            position += _begin(block, newlines + found - ends_line - count)
            break
        newlines += found
    file.seek(position)


def _begin(block: bytes, skipped: int) -> int:
    """Where the line begins in ``block`` that follows its newline after ``skipped`` others."""
    at = -1
    for _ in range(skipped + 1):
        at = block.index(b"\n", at + 1)
    return at + 1
