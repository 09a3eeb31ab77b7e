"""Keeps many who begin at once from keeping the event loop."""

from __future__ import annotations

import asyncio


class Turns:
    """Lets one go on at each turn of the event loop, in the order in which they came.

    What fifty do at once, each for a part of a millisecond, is one stall for everything else; what they do one in each
    turn is none.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def mine(self) -> None:
        """Return when it is this caller's turn."""
        waits = self._turn.locked()
        async with self._turn:
            if not waits:  # who waited was woken in a turn of its own
                await asyncio.sleep(0)
