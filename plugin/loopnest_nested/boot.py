"""Booting a nested server: until it answers, then until it has its conversation, or why it does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence
from typing import Protocol

from loopnest import LoopFailed, NestedError, Reason
from loopnest.aio import limited
from loopnest_nested.readiness import until_alive


class Unit(Protocol):
    """What one nested server runs in, such as a container or a process, as its boot sees it."""

    async def alive(self) -> bool:
        """Whether the nested server answers. Never raises."""

    async def until_ended(self) -> None:
        """Return once the nested server has ended."""

    async def has_ended(self) -> bool:
        """Whether the nested server has ended."""

    async def why_ended(self) -> LoopFailed:
        """The error that explains an end before the loop was ready, with the last log lines."""

    async def log_tail(self) -> Sequence[str]:
        """The last log lines without secrets, oldest first; empty where they can't be read."""


class Boot:
    """The boot of one nested server.

    Args:
        limit: seconds for all of it.
        setting: the key that sets the limit, for messages.
        began: when the limit began to count, as `time.monotonic` gives it; now by default.
    """

    def __init__(self, unit: Unit, limit: float, setting: str, *, began: float | None = None) -> None:
        self._unit, self._limit, self._setting = unit, limit, setting
        self._deadline = (time.monotonic() if began is None else began) + limit

    async def until_alive(self) -> None:
        """Wait until the nested server answers.

        Raises:
            LoopFailed: it ended, or did not answer in time (``start-timeout``).
        """
        try:
            ended = await until_alive(self._unit.alive, self._ended(), self._left())
        except asyncio.TimeoutError as error:
            raise await self._late("was not ready") from error
        if ended:
            raise await self._unit.why_ended()

    async def until_created(self, creation: Awaitable[None]) -> None:
        """Await ``creation`` of the conversation.

        Raises:
            LoopFailed: the nested server ended, or was not done in time (``start-timeout``).
            NestedError: it refused the conversation.
        """
        try:
            await limited(creation, self._left())
        except asyncio.TimeoutError as error:
            raise await self._late("did not create the conversation") from error
        except NestedError:
            if await self._unit.has_ended():
                raise await self._unit.why_ended() from None
            raise

    async def _ended(self) -> bool:
        await self._unit.until_ended()
        return True

    async def _late(self, what: str) -> LoopFailed:
        message = f"The nested server {what} within {self._limit:g} s ('{self._setting}')."
        return LoopFailed(message, reason=Reason.START_TIMEOUT, log_tail=await self._unit.log_tail())

    def _left(self) -> float:
        """Seconds; a nested server that answers late still gets one for its conversation."""
        return max(1.0, self._deadline - time.monotonic())
