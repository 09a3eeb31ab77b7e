"""What the standard library lacks for waiting: limits of time that always hold, and turns of the event loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

import anyio

_T = TypeVar("_T")
#: Seconds that a plugin may take to clean up once it was cancelled; after that, it is waited for no longer.
GRACE = 10.0


class Overdue(Exception):
    """The time is up."""


async def limited(answer: Awaitable[_T], seconds: float) -> _T:
    """`asyncio.wait_for` as it is since Python 3.12.

    Before, it swallowed a cancellation that came in the same moment as the answer (python/cpython#86296), so that the
    cancelled task went on.

    Raises:
        asyncio.TimeoutError: the time is up.
    """
    if sys.version_info >= (3, 12):
        return await asyncio.wait_for(answer, seconds)
    try:
        with anyio.fail_after(seconds):
            return await answer
    except TimeoutError as error:
        raise asyncio.TimeoutError from error


async def within(seconds: float, answer: Awaitable[_T]) -> _T:
    """Await ``answer`` for at most ``seconds``, then cancel it and let it clean up.

    Not `asyncio.wait_for`: that one waits for ever where a plugin swallows its cancellation, and a TimeoutError that
    the plugin raises looks like one of its own.

    Raises:
        Overdue: the time is up.
    """
    task = asyncio.ensure_future(answer)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        overdue = not task.done()
        if overdue:
            await _end(task)
    if overdue:
        raise Overdue
    return task.result()


async def _end(task: asyncio.Future[_T]) -> None:
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved, or asyncio would log it
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)


class Turns:
    """Lets one caller go on at each turn of the event loop, in the order of their calls.

    Fifty callers that each take a part of a millisecond in one turn stall all other tasks for as long as they take
    together; one caller in each turn does not.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def mine(self) -> None:
        """Return when it is this caller's turn."""
        waits = self._turn.locked()
        async with self._turn:
            if not waits:  # a caller that waited was woken in a turn of its own
                await asyncio.sleep(0)
