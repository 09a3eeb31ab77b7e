"""Tell everybody of every change of a loop, in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from loopnest.deadline import within
from loopnest.models import LoopChange

_log = logging.getLogger(__name__)
_Queue = asyncio.Queue[LoopChange | None]
Listener = Callable[[LoopChange], Awaitable[object]]


class Changes:
    """Numbers changes per conversation, and hands them to listeners and watchers, each of which has a queue.

    Args:
        limit: seconds that a listener has for one change, so that one that hangs still hears of later changes.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._queues: set[_Queue] = set()
        self._counts: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, listeners: Mapping[str, Listener]) -> None:
        """Begin to tell ``listeners``, by plugin name. None waits for another, and their errors are logged."""
        for name, listener in listeners.items():
            self._queues.add(queue := _Queue())
            self._tasks.add(asyncio.create_task(self._pump(name, listener, queue), name=f"loopnest-changes-{name}"))

    async def aclose(self) -> None:
        """Tell what is pending, for as long as one change may take, and end."""
        for queue in self._queues:
            queue.put_nowait(None)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=self._limit)
            for task in late:
                _log.warning("%s: not all changes were told in time", task.get_name())
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
        """Give every change from now on, until `aclose`."""
        self._queues.add(queue := _Queue())
        try:
            yield _drain(queue)
        finally:
            self._queues.discard(queue)

    async def _pump(self, name: str, listener: Listener, queue: _Queue) -> None:
        async for change in _drain(queue):
            try:
                await within(self._limit, listener(change))
            except Exception:  # noqa: BLE001 - what a listener does wrong must not end the others' news
                _log.exception("loop_changed of %r failed for %s (%s)", name, change.conversation_id, change.phase)


async def _drain(queue: _Queue) -> AsyncIterator[LoopChange]:
    while (change := await queue.get()) is not None:
        yield change
