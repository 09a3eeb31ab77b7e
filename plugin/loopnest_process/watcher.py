"""Publishes the ends of loops that no process of loopnest asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from loopnest import LoopStatus, Phase, Reason
from loopnest_nested.ending import Ending
from loopnest_process.lifecycle import Lifecycle
from loopnest_process.logs import last_lines
from loopnest_process.parts import Parts
from loopnest_process.registry import WANTED_ALIVE, Record
from loopnest_process.view import INTERRUPTED, how_it_ended


class Watcher:
    """Watches the runs that this process knows of; each run once."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts, self._lifecycle = parts, lifecycle
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def open(self) -> None:
        """Watch the loops that run already, and end those whose start was interrupted.

        One whose lock is held is looked at again when it is free: its host may live, or be so freshly killed that a
        child that it was about to start still has the lock.
        """
        for record in await asyncio.to_thread(self._parts.registry.all):
            if record.state in WANTED_ALIVE:
                self.watch(record)
            elif record.state == "starting" and self._parts.locks.held(record.conversation_id):
                self._spawn(f"clear {record.conversation_id}", self._clear(record.conversation_id))
            elif record.state == "starting":
                await self._clear(record.conversation_id)

    async def aclose(self) -> None:
        """Look away; the loops go on."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def watch(self, record: Record) -> None:
        """Watch the current run of a loop."""
        if record.run and record.run not in self._tasks:
            self._spawn(record.run, self._watch(record))

    def _spawn(self, key: str, work: Coroutine[Any, Any, None]) -> None:
        self._tasks[key] = task = asyncio.create_task(work, name=f"loopnest-watch-{key}")
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    async def _watch(self, record: Record) -> None:
        run = self._parts.registry.run(record)
        assert run is not None
        await run.ended()
        now = self._parts.registry.read(record.conversation_id)
        if now is None or now.run != record.run or now.state not in WANTED_ALIVE:
            return  # a stop was requested, or it was started again: the process that did so publishes it
        end = how_it_ended(now, run)
        if end.status is LoopStatus.FAILED:
            self._publish(record, end, last_lines(run.log, 20, self._parts.secrets(record)))
        else:
            self._publish(record, end)

    async def _clear(self, conversation_id: str) -> None:
        async with self._parts.locks.hold(conversation_id):
            record = self._parts.registry.read(conversation_id)
            if record is not None and record.state == "starting":
                await self._lifecycle.undo(conversation_id)
                self._publish(record, Ending(LoopStatus.FAILED, None, Reason.INTERRUPTED, INTERRUPTED))

    def _publish(self, record: Record, end: Ending, lines: Sequence[str] = ()) -> None:
        phase = Phase.FAILED if end.status is LoopStatus.FAILED else Phase.STOPPED
        why = {"reason": end.reason, "message": end.message, "exit_code": end.exit_code, "log_tail": tuple(lines)}
        self._parts.publish(record.conversation_id, record.owner, phase, end.status, **why)
