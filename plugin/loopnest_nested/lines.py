"""Splitting a nested server's log into lines, which its agent may make as long as it likes."""

from __future__ import annotations

from typing import Final

#: Bytes of a line that are kept; what follows is dropped.
LONGEST: Final = 64 * 1024


class Lines:
    """Splits chunks of a log at newlines, in time linear in their length and in constant memory."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[str]:
        """Return the lines that ``chunk`` ends."""
        first, *others = chunk.split(b"\n")
        self._keep(first)
        if not others:
            return []
        *middle, last = others
        ended = [bytes(self._rest), *middle]
        self._rest = bytearray()
        self._keep(last)
        return [_decoded(line) for line in ended]

    def end(self) -> list[str]:
        """Return the last line where no newline ended it."""
        return [_decoded(bytes(self._rest))] if self._rest else []

    def _keep(self, part: bytes) -> None:
        self._rest += part[: LONGEST - len(self._rest)]


def _decoded(line: bytes) -> str:
    return line[:LONGEST].decode(errors="replace").rstrip("\r")
