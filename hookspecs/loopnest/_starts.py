"""The starts that go on in this process: one for each conversation, shared by all callers that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from loopnest.errors import LoopFailed, LoopNotFound, Reason
from loopnest.models import Loop, LoopStatus, Phase, utcnow
from loopnest.requests import StartLoop


@dataclass
class _Start:
    owner: str
    since: datetime
    task: asyncio.Task[Loop]
    phase: Phase = Phase.REQUESTED


class Starts:
    """Shares one running start among all callers for the same conversation.

    A caller that is cancelled does not end the start, as others may wait for it too; `cancel` does.
    """

    def __init__(self) -> None:
        self._running: dict[str, _Start] = {}

    def begin(self, request: StartLoop, run: Callable[[StartLoop], Awaitable[Loop]]) -> asyncio.Task[Loop]:
        """Return the start of this conversation that goes on, or a new one.

        Raises:
            LoopNotFound: another user starts a conversation of this id.
        """
        start = self._running.get(request.conversation_id)
        if start is None:
            task = asyncio.ensure_future(run(request))
            start = _Start(request.owner, utcnow(), task)
            self._running[request.conversation_id] = start
            task.add_done_callback(lambda done: self._ended(request.conversation_id, done))
        if start.owner != request.owner:
            raise LoopNotFound(request.conversation_id)
        return start.task

    def moved(self, conversation_id: str, phase: Phase) -> None:
        """Note how far a start has come."""
        if start := self._running.get(conversation_id):
            start.phase = phase

    def get(self, conversation_id: str) -> Loop | None:
        """The start of this conversation as a loop in status ``starting``."""
        start = self._running.get(conversation_id)
        return self._as_loop(conversation_id, start) if start else None

    def of(self, conversation_ids: Iterable[str] | None) -> list[Loop]:
        """The starts of these conversations, or all, as loops in status ``starting``."""
        found = map(self.get, list(self._running) if conversation_ids is None else conversation_ids)
        return [start for start in found if start]

    async def cancel(self, conversation_id: str | None = None) -> bool:
        """End the start of this conversation, or all of them, and wait until it has cleaned up."""
        keys = list(self._running) if conversation_id is None else [conversation_id]
        tasks = [self._running[key].task for key in keys if key in self._running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return bool(tasks)

    def _ended(self, conversation_id: str, task: asyncio.Task[Loop]) -> None:
        del self._running[conversation_id]
        if not task.cancelled():
            task.exception()  # retrieved: with wait=False no caller does, and the failure was published

    @staticmethod
    def _as_loop(conversation_id: str, start: _Start) -> Loop:
        return Loop(
            conversation_id=conversation_id,
            owner=start.owner,
            status=LoopStatus.STARTING,
            phase=start.phase,
            created_at=start.since,
            changed_at=start.since,
        )


async def join(task: asyncio.Task[Loop], conversation_id: str) -> Loop:
    """Wait for a shared start without owning it.

    Raises:
        LoopFailed: it failed, or a close of the loop ended it.
    """
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.cancelled():
            raise
        raise LoopFailed(
            f"The loop of {conversation_id} was closed while it was starting.",
            reason=Reason.INTERRUPTED,
            conversation_id=conversation_id,
        ) from None
