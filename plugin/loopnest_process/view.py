"""A record seen as a loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any

from loopnest import Loop, LoopStatus, NestedError, Reason
from loopnest.aio import limited
from loopnest_nested.ending import Ending, ending
from loopnest_process.child import Run
from loopnest_process.parts import Parts
from loopnest_process.registry import WANTED_ALIVE, Record

FOREIGN = (
    "The loop was made by a host with another secret; hosts of one namespace must share 'loopnest.secret'. "
    "Close the loop with 'remove' to start afresh."
)
INTERRUPTED = "The host ended while the loop was starting. Start it again."


class View:
    """Turns records into loops."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def loops(self, conversation_ids: Iterable[str] | None, *, probe: bool) -> list[Loop]:
        """All loops, or those of ``conversation_ids`` that there are."""
        loops = await asyncio.to_thread(self._look, conversation_ids)
        return await asyncio.gather(*(self._probed(*pair) for pair in loops)) if probe else [loop for loop, _ in loops]

    def loop(self, record: Record) -> Loop:
        """See one record as a loop."""
        run = self._parts.registry.run(record)
        alive = run is not None and run.alive()
        if record.state in ("running", "stopping") and alive:
            return self._loop(record, LoopStatus.RUNNING, **self._access(record))
        if record.state == "paused" and alive:
            return self._loop(record, LoopStatus.PAUSED, **self._access(record))
        if record.state != "starting":
            end = how_it_ended(record, run)
            details = {"reason": end.reason, "exit_code": end.exit_code, "message": end.message}
            return self._loop(record, end.status, **details)
        if self._parts.locks.held(record.conversation_id):
            return self._loop(record, LoopStatus.STARTING)
        return self._loop(record, LoopStatus.FAILED, reason=Reason.INTERRUPTED, message=INTERRUPTED)

    def _look(self, conversation_ids: Iterable[str] | None) -> list[tuple[Loop, Record]]:
        return [(self.loop(record), record) for record in self._parts.registry.all(conversation_ids)]

    def _access(self, record: Record) -> dict[str, Any]:
        if self._parts.foreign(record):
            return {"reason": Reason.FOREIGN_SECRET, "message": FOREIGN}
        return {"url": self._parts.url(record), "session_key": self._parts.keys(record).session}

    def _loop(self, record: Record, status: LoopStatus, **details: Any) -> Loop:
        return Loop(
            conversation_id=record.conversation_id,
            owner=record.owner,
            status=status,
            strategy=self._parts.context.strategy,
            dialect=record.dialect,
            nested_id=None if record.bare else self._parts.dialect.nested_id(record.conversation_id),
            notes=record.notes,
            created_at=record.created_at,
            changed_at=record.changed_at,
            **details,
        )

    async def _probed(self, loop: Loop, record: Record) -> Loop:
        if loop.status is not LoopStatus.RUNNING or loop.url is None:
            return loop
        conversation_id = None if record.bare else record.conversation_id
        asked = self._parts.dialect.agent_status(self._parts.server(record), conversation_id)
        with contextlib.suppress(NestedError, asyncio.TimeoutError):
            status = await limited(asked, self._parts.settings.probe_timeout)
            return loop.model_copy(update={"agent_status": status})
        return loop.model_copy(
            update={"reason": Reason.NESTED_TIMEOUT, "message": "The nested server does not answer."}
        )


def how_it_ended(record: Record, run: Run | None) -> Ending:
    """How the last run of a loop ended: any state but ``running`` and ``paused`` says that a stop was requested."""
    return ending(run.exit_code if run else None, stop_requested=record.state not in WANTED_ALIVE)
