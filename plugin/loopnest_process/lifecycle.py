"""Start and close one loop, whatever state it is in and whichever process left it there.

Every change of a loop happens under its lock, which dies with its holder; so the holder may take up whatever the
last one left. A loop that is ``starting`` and whose lock is free was interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from loopnest import Closed, Loop, LoopFailed, LoopNotFound, LoopStatus, Reason, StartLoop
from loopnest.aio import limited
from loopnest_nested import session_keys
from loopnest_nested.ending import was_killed
from loopnest_nested.quiescing import UNREACHABLE, quiesce
from loopnest_process.boot import ProcessBoot
from loopnest_process.parts import Parts
from loopnest_process.registry import WANTED_ALIVE, Record
from loopnest_process.server_python import ServerPython
from loopnest_process.view import FOREIGN

_LOOK: Final = 0.05


class Lifecycle:
    """The only writer of records and the only one who starts and ends processes."""

    def __init__(self, parts: Parts, python: ServerPython) -> None:
        self._parts, self._python = parts, python

    def running(self, conversation_id: str, owner: str) -> Record | None:
        """The loop's record where it runs.

        Raises:
            LoopNotFound: another user owns it.
            LoopFailed: its keys can't be known here.
        """
        record = self._parts.registry.read(conversation_id)
        if record is None:
            return None
        if record.owner != owner:
            raise LoopNotFound(conversation_id)
        if self._parts.foreign(record):
            raise LoopFailed(FOREIGN, reason=Reason.FOREIGN_SECRET)
        return record if record.state == "running" and self._alive(record) else None

    def _alive(self, record: Record) -> bool:
        run = self._parts.registry.run(record)
        return run is not None and run.alive()

    async def start(self, request: StartLoop, owner: str) -> Record:
        """Start, bring back or adopt the loop.

        Raises:
            LoopNotFound: another user owns the conversation.
            LoopFailed, NestedError: it could not be started; nothing is left running.
        """
        if (record := self.running(request.conversation_id, owner)) is not None:
            return record
        python = await self._python.ensure(
            lambda phase, message: self._parts.publish(
                request.conversation_id, owner, phase, LoopStatus.STARTING, message=message
            )
        )
        async with self._parts.locks.hold(request.conversation_id):
            if (record := self.running(request.conversation_id, owner)) is not None:
                return record
            record = self._parts.registry.read(request.conversation_id) or self._new(request, owner)
            if record.state == "paused" and self._alive(record):
                return await self._set_paused(record, False)
            try:
                await self._end_runs(record)
                return await ProcessBoot(self._parts, python, request).run(record)
            except BaseException:
                await asyncio.shield(asyncio.ensure_future(self.undo(record.conversation_id)))
                raise

    def find(self, loop: Loop) -> Record:
        """Return the loop's record.

        Raises:
            LoopNotFound: it is gone, or another user owns the conversation by now.
        """
        record = self._parts.registry.read(loop.conversation_id)
        if record is None or record.owner != loop.owner:
            raise LoopNotFound(loop.conversation_id)
        return record

    async def set_paused(self, loop: Loop, paused: bool) -> Record:
        """Pause a running loop, or resume a paused one.

        Raises:
            LoopNotFound: it went away, or ended.
        """
        async with self._parts.locks.hold(loop.conversation_id):
            record = self.find(loop)
            if record.state not in WANTED_ALIVE or not self._alive(record):
                raise LoopNotFound(loop.conversation_id)
            return await self._set_paused(record, paused)

    async def _set_paused(self, record: Record, paused: bool) -> Record:
        """Where this process is killed halfway, the record says paused, and resuming what runs does no harm."""
        run = self._parts.registry.run(record)
        changed = record.model_copy(update={"state": "paused" if paused else "running"})
        assert run is not None
        if not paused:
            await asyncio.to_thread(run.thaw)
            return self._parts.registry.write(changed)
        changed = self._parts.registry.write(changed)
        await asyncio.to_thread(run.freeze)
        return changed

    async def close(self, loop: Loop, *, remove: bool) -> Closed:
        """Ask the agent to stop, stop its nested server, and remove everything where asked to.

        Raises:
            LoopNotFound: it is gone, or another user owns the conversation by now.
        """
        conversation_id = self.find(loop).conversation_id
        await self._interrupt(conversation_id)
        async with self._parts.locks.hold(conversation_id):
            record = self._parts.registry.read(conversation_id)
            if record is None or record.owner != loop.owner:  # the start that was interrupted cleaned up
                return Closed(conversation_id=conversation_id, removed=True)
            self._parts.registry.mark_closing(conversation_id, False)
            closed = await self._stop(record)
            if remove or not self._parts.has_conversation(record):
                await asyncio.to_thread(self._parts.registry.remove, record)
                self._parts.requested.forget(conversation_id)
                closed = closed.model_copy(update={"removed": True})
            return closed

    async def undo(self, conversation_id: str) -> None:
        """Leave nothing running of a start that failed, and nothing at all of one that was the first."""
        record = self._parts.registry.read(conversation_id)
        if record is None:
            return
        await self._end_runs(record)
        if self._parts.has_conversation(record):
            self._parts.registry.write(record.model_copy(update={"state": "stopped"}))
        else:
            await asyncio.to_thread(self._parts.registry.remove, record)
            self._parts.requested.forget(conversation_id)

    def _new(self, request: StartLoop, owner: str) -> Record:
        return Record(
            conversation_id=request.conversation_id,
            owner=owner,
            dialect=self._parts.dialect.name,
            nonce=session_keys.new_nonce(),
            fingerprint=session_keys.fingerprint(self._parts.context.secret),
            bare=request.conversation is None,
            notes=request.notes,
        )

    async def _interrupt(self, conversation_id: str) -> None:
        """End a start that goes on elsewhere by killing what it waits for, as its lock is its own."""
        registry = self._parts.registry
        while self._parts.locks.held(conversation_id):
            record = registry.read(conversation_id)
            if record is None or record.state != "starting":
                return
            registry.mark_closing(conversation_id, True)
            if run := registry.run(record):
                await run.kill()
            await asyncio.sleep(_LOOK)

    async def _stop(self, record: Record) -> Closed:
        """Stop the loop's process, and say how that went."""
        run = self._parts.registry.run(record)
        if run is None or not run.alive():
            await self._end_runs(record)
            self._parts.registry.write(record.model_copy(update={"state": "stopped"}))
            return Closed(
                conversation_id=record.conversation_id, already=True, exit_code=run.exit_code if run else None
            )
        self._parts.registry.write(record.model_copy(update={"state": "stopping"}))
        if record.state == "paused":  # a frozen process can't end when asked to
            await asyncio.to_thread(run.thaw)
        trouble = await self._quiesce(record) if record.state == "running" else None
        run.ask_to_end()
        with contextlib.suppress(asyncio.TimeoutError):
            await limited(run.ended(), self._parts.settings.stop_timeout)
        await run.kill()
        killed = was_killed(run.exit_code)
        self._parts.registry.write(record.model_copy(update={"state": "stopped"}))
        return Closed(
            conversation_id=record.conversation_id,
            graceful=not killed and trouble is None,
            exit_code=run.exit_code,
            message="The nested server did not end when asked to, and was killed." if killed else trouble,
        )

    async def _quiesce(self, record: Record) -> str | None:
        if self._parts.foreign(record):
            return UNREACHABLE
        conversation_id, server = None if record.bare else record.conversation_id, self._parts.server(record)
        return await quiesce(self._parts.dialect, server, conversation_id, self._parts.settings.stop_timeout)

    async def _end_runs(self, record: Record) -> None:
        if run := self._parts.registry.run(record):
            await run.kill()
