"""The journal of loops: changes are published, and failures and removals are recorded.

A record is a small file in the state directory. It is written for each loop that failed or was removed, as no plugin
knows that later, so that every process of the namespace (the host, its replicas on this machine, the command line)
gives the same explanation. Losing records loses explanations, never loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import Field, TypeAdapter

from loopnest._starts import Starts
from loopnest.aio import within
from loopnest.errors import LoopFailed, LoopnestError
from loopnest.files import SmallFiles, Stored, is_settled
from loopnest.models import Closed, Loop, LoopChange, LoopStatus, Model, Phase, utcnow
from loopnest.requests import StartLoop
from loopnest.validation import ConversationId, is_conversation_id

_log = logging.getLogger(__name__)
_Queue = asyncio.Queue[LoopChange | None]
Listener = Callable[[LoopChange], Awaitable[object]]
_SECOND: Final = 1_000_000_000


class Outcomes:
    """Records the outcomes of operations that no plugin knows later, and publishes every change."""

    def __init__(self, strategy: str, records: Records, starts: Starts, changes: Changes) -> None:
        self._strategy, self._records, self._starts, self._changes = strategy, records, starts, changes

    def start_begins(self, request: StartLoop) -> None:
        """Publish that a start was requested, and drop the reason for which the last one failed."""
        self._records.forget(request.conversation_id)
        name, owner = request.conversation_id, request.owner
        loop = Loop(conversation_id=name, owner=owner, status=LoopStatus.STARTING, strategy=self._strategy)
        self.publish(loop, Phase.REQUESTED)

    def start_failed(self, request: StartLoop, error: LoopnestError) -> None:
        """Keep and publish the reason; ``error`` then names the conversation."""
        error.conversation_id = request.conversation_id
        loop = failed(request, error, self._strategy)
        self._records.keep(loop)
        self.publish(loop, Phase.FAILED)

    def closed(self, known: Loop, closed: Closed, *, failure: LoopFailed | None) -> None:
        """Publish that a loop was closed, unless it was closed already.

        Args:
            known: the loop as it was before.
            failure: why it was closed, where something is wrong with it; kept for listings.
        """
        self._records.forget(known.conversation_id)
        stopped = _down(known, message=closed.message, exit_code=closed.exit_code)
        if closed.removed:
            self._records.keep(Removed(conversation_id=known.conversation_id, owner=known.owner))
            self.publish(stopped, Phase.REMOVED)
        elif failure:
            why = {"status": LoopStatus.FAILED, "reason": failure.reason, "message": failure.message}
            self.accept(LoopChange(loop=stopped.model_copy(update=why), phase=Phase.FAILED))
        elif not closed.already:
            self.publish(stopped, Phase.STOPPED)

    def accept(self, change: LoopChange) -> None:
        """Publish a change that a plugin emits. A failure is kept: the next process can't learn it from the plugin."""
        loop = change.loop.model_copy(update={"strategy": change.loop.strategy or self._strategy})
        change = change.model_copy(update={"loop": loop})
        if change.status is LoopStatus.FAILED:
            self._records.keep(loop.model_copy(update={"changed_at": change.at}))
        elif change.status is LoopStatus.RUNNING:
            self._records.forget(change.conversation_id)
        self._emit(change)

    def publish(self, loop: Loop, phase: Phase) -> None:
        """Publish that ``loop`` came to ``phase``."""
        self._emit(LoopChange(loop=loop, phase=phase))

    def _emit(self, change: LoopChange) -> None:
        self._starts.moved(change.conversation_id, change.phase)
        self._changes.emit(change)


def _down(known: Loop, *, message: str | None, exit_code: int | None) -> Loop:
    """A loop as it is once its nested server has ended."""
    unknown = dict.fromkeys(("url", "session_key", "agent_status", "phase", "reason"))
    facts: dict[str, object] = {
        "status": LoopStatus.STOPPED,
        "message": message,
        "exit_code": exit_code,
        "urls": {},
        "log_tail": (),
    }
    return known.model_copy(update=unknown | facts)


class Changes:
    """Numbers the changes of each conversation, and puts them into the queue of each listener and watcher.

    Args:
        limit: seconds that a listener has for one change, so that one that hangs still gets later changes.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._queues: set[_Queue] = set()
        self._counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, listeners: Mapping[str, Listener]) -> None:
        """Begin to call ``listeners``, by plugin name. None waits for another, and their errors are logged."""
        for name, listener in listeners.items():
            self._queues.add(queue := _Queue())
            self._tasks.add(asyncio.create_task(self._pump(name, listener, queue), name=f"loopnest-changes-{name}"))

    async def aclose(self) -> None:
        """Deliver the changes that are queued, for as long as one change may take, and end."""
        for queue in self._queues:
            queue.put_nowait(None)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._limit)
            for task in late:
                _log.warning("%s: not all changes could be delivered in time", task.get_name())
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._queues.clear()
        self._tasks.clear()

    def emit(self, change: LoopChange) -> None:
        """Queue ``change``; never blocks."""
        self._counts[change.conversation_id] += 1
        change = change.model_copy(update={"sequence": self._counts[change.conversation_id]})
        if change.status is None:
            del self._counts[change.conversation_id]
        for queue in self._queues:
            queue.put_nowait(change)

    @contextlib.asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[LoopChange]]:
        """Yield an iterator over every change from now on, until `aclose`."""
        self._queues.add(queue := _Queue())
        try:
            yield _drain(queue)
        finally:
            self._queues.discard(queue)

    async def _pump(self, name: str, listener: Listener, queue: _Queue) -> None:
        async for change in _drain(queue):
            try:
                await within(self._limit, listener(change))
            except Exception:  # noqa: BLE001 - a listener that fails must not keep changes from the others
                _log.exception("loop_changed of %r failed for %s (%s)", name, change.conversation_id, change.phase)


async def _drain(queue: _Queue) -> AsyncIterator[LoopChange]:
    while (change := await queue.get()) is not None:
        yield change


class Removed(Model):
    """That a loop was removed on purpose. It is not listed; its owner may close it again without an error."""

    conversation_id: ConversationId
    owner: str
    removed_at: datetime = Field(default_factory=utcnow)


Record = Loop | Removed
_RECORD: Final[TypeAdapter[Record]] = TypeAdapter(Record)


def failed(request: StartLoop, error: LoopnestError, strategy: str) -> Loop:
    """The record of a start that failed."""
    return Loop(
        conversation_id=request.conversation_id,
        owner=request.owner,
        status=LoopStatus.FAILED,
        strategy=strategy,
        reason=error.reason,
        message=error.message,
        exit_code=getattr(error, "exit_code", None),
        log_tail=getattr(error, "log_tail", ()),
        changed_at=utcnow(),
    )


class Records:
    """The records below ``directory``, each kept for ``retention`` seconds.

    Looking one up costs the same however many are kept, as a host does so for every event it sends.
    """

    def __init__(self, directory: Path, retention: float) -> None:
        self._directory, self._retention = directory, int(retention * _SECOND)
        self._files: SmallFiles[Record] = SmallFiles(directory, _RECORD.validate_json, _dump)
        self._failures: list[Loop] = []
        self._seen: int | None = None
        self._first_expires = 0

    def keep(self, record: Record) -> None:
        """Keep ``record`` for its conversation, or log why it can't be kept."""
        self._seen = None
        try:
            self._files.put(record.conversation_id, record)
        except OSError as error:
            _log.warning("The record of loop %s can't be written: %s", record.conversation_id, error)

    def forget(self, conversation_id: str) -> None:
        """Remove the record, as the conversation has a loop again."""
        try:
            self._files.drop(conversation_id)
            self._seen = None
        except OSError as error:
            _log.warning("The record of loop %s can't be removed: %s", conversation_id, error)

    def get(self, conversation_id: str) -> Record | None:
        """The record of this conversation."""
        stored = self._look(conversation_id) if is_conversation_id(conversation_id) else None
        return stored.value if stored else None

    def failures(self, conversation_ids: Iterable[str] | None) -> list[Loop]:
        """The failed loops of these conversations, or all."""
        if conversation_ids is None:
            return self._all_failures()
        return [record for key in conversation_ids if isinstance(record := self.get(key), Loop)]

    def _all_failures(self) -> list[Loop]:
        stamp = self._stamp()
        if stamp is None or stamp != self._seen or time.time_ns() >= self._first_expires:
            stored = [found for key in self._files.ids() if (found := self._look(key))]
            self._failures = [found.value for found in stored if isinstance(found.value, Loop)]
            oldest = min((found.written for found in stored), default=time.time_ns())
            self._first_expires = oldest + self._retention
            self._seen = stamp if stamp is not None and is_settled(stamp) else None
        return self._failures

    def _look(self, conversation_id: str) -> Stored[Record] | None:
        """The record of one conversation, unless it has expired."""
        with contextlib.suppress(OSError):  # a record that can't be read explains nothing; `keep` logs such disks
            stored = self._files.look(conversation_id)
            if stored is None or not self._is_expired(stored.written):
                return stored
            self.forget(conversation_id)
        return None

    def _is_expired(self, written: int) -> bool:
        """Whether a file is older than the retention, by this host's clock and by the one that dates files.

        A host whose clock is hours ahead must not drop the records of the others.
        """
        expires = written + self._retention
        return expires <= time.time_ns() and expires <= self._file_time()

    def _file_time(self) -> int:
        """What a file that is written now is dated."""
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".") as probe:
            return Path(probe.name).stat().st_mtime_ns

    def _stamp(self) -> int | None:
        with contextlib.suppress(OSError):
            return self._directory.stat().st_mtime_ns
        return None


def _dump(record: Record) -> bytes:
    """Without what must not be written down, or is of no use later."""
    return record.model_dump_json(exclude={"session_key", "url", "urls"}).encode()
