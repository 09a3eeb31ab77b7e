"""Wait for a plugin, but not for ever."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable
from typing import TypeVar

import anyio

_T = TypeVar("_T")
#: Seconds that a plugin may take to clean up once it was cancelled; after that, nobody waits for it.
GRACE = 10.0


class Overdue(Exception):
    """The time is up."""


async def limited(answer: Awaitable[_T], seconds: float) -> _T:
    """`asyncio.wait_for` as it is since Python 3.12.

    Before, it swallowed a cancellation that came at the moment the answer did, and who was to end went on for ever.

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
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # retrieved: nobody else will
    task.cancel()
    await asyncio.wait({task}, timeout=GRACE)
