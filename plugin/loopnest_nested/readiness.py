"""Alive yet, or dead already."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_FIRST: Final = 0.01
_FACTOR: Final = 1.3
_LONGEST: Final = 0.1


async def until_alive(alive: Callable[[], Awaitable[bool]], died: Awaitable[_T], limit: float) -> _T | None:
    """Ask ``alive`` in a tight back-off (10 to 100 ms) until it says yes; stop at once when ``died`` answers.

    Args:
        died: says how the server ended, in anything but None; cancelled when it is not needed any more.
        limit: seconds.

    Returns:
        None once alive; what ``died`` returned, also where both came at the same moment.

    Raises:
        asyncio.TimeoutError: neither happened within ``limit`` seconds.
    """
    asking, dying = asyncio.ensure_future(_ask(alive)), asyncio.ensure_future(died)
    try:
        done, _ = await asyncio.wait({asking, dying}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if dying in done:
            return dying.result()
        if asking in done:
            asking.result()
            return None
        raise asyncio.TimeoutError
    finally:
        await _end(asking, dying)


async def _ask(alive: Callable[[], Awaitable[bool]]) -> None:
    pause = _FIRST
    while not await alive():
        await asyncio.sleep(pause)
        pause = min(pause * _FACTOR, _LONGEST)


async def _end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel until it helps: libraries below may swallow a cancellation that comes together with an answer."""
    for task in tasks:
        while not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_LONGEST)
        task.cancelled() or task.exception()  # retrieved
