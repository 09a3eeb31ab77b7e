"""Stop loops that are not in use, for any host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from loopnest._uses import Uses
from loopnest.errors import LoopnestError
from loopnest.manager import LoopManager
from loopnest.models import Loop, LoopQuery, LoopStatus
from loopnest.owners import EVERYONE
from loopnest.validation import check_conversation_id

_log = logging.getLogger(__name__)
#: Seconds between two looks, at the least and at the most.
_SHORTEST: Final = 1.0
_LONGEST: Final = 60.0
#: Seconds, at the most, between two writes of a use that goes on; and the part of the idle time, where that is less.
_INTERVAL: Final = 5.0
_SHARE: Final = 1 / 4
#: Seconds between two looks at whether another replica has stopped a loop.
_PAUSE: Final = 0.1
IsBusy = Callable[[Loop], Awaitable[bool]]
IdleTime = Callable[[Loop], Awaitable[float]]
Stop = Callable[[Loop], Awaitable[object]]


class IdleKeeper:
    """Stops loops that were neither used nor busy for a while; they come back when the host starts them again.

    The last use of each loop is kept in the state directory (``<state_dir>/<namespace>/uses``), so that it counts for
    all replicas that share the directory, and for the host that is started after this one. Replicas that don't share it
    can't see each other's uses: only what a loop says itself keeps them from stopping one that is used through another.
    A loop of which no use is known counts as used when it is first looked at.

    Args:
        after: seconds without use, the same in all replicas; None never stops a loop.
        is_busy: whether the loop's agent works, asked before a loop is stopped; by default from `Loop.agent_status`.
            It must not change anything. A loop whose nested server does not answer counts as busy.
        idle_time: seconds since the last use, as the loop's nested server gives it; called if the loop is not busy.
        stop: stops a loop; by default `LoopManager.close_session`.
    """

    def __init__(
        self,
        loops: LoopManager,
        after: float | None,
        is_busy: IsBusy | None = None,
        *,
        idle_time: IdleTime | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._loops, self._after = loops, after
        self._is_busy, self._idle_time = is_busy or self._agent_works, idle_time
        self._stop = stop or self._close
        directory = loops.settings.state_dir / loops.settings.namespace / "uses"
        self._uses = Uses(directory, min(_INTERVAL, (after or 0) * _SHARE))
        self._under_way: Counter[str] = Counter()
        self._stopping: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> IdleKeeper:
        if self._after is not None:
            self._tasks = [asyncio.ensure_future(self._run(self._after)), asyncio.ensure_future(self._keep_noting())]
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._uses.flush(+self._under_way)

    @contextlib.asynccontextmanager
    async def using(self, conversation_id: str) -> AsyncIterator[None]:
        """Keep the loop from being stopped while inside; waits first for a stop that goes on, here or elsewhere.

        Raises:
            InvalidRequest: no conversation can have this id.
        """
        check_conversation_id(conversation_id)
        self._under_way[conversation_id] += 1
        try:
            await self._begin(conversation_id)
            yield
        finally:
            self._under_way[conversation_id] -= 1
            if self._after is not None:
                self._uses.note(conversation_id)

    async def sweep(self) -> None:
        """Look at every running loop once."""
        running = LoopQuery(user_id=EVERYONE, statuses=frozenset({LoopStatus.RUNNING}))
        loops = {loop.conversation_id: loop for loop in await self._loops.list_loops(running)}
        self._under_way = +self._under_way
        self._uses.keep_only(loops.keys() | self._under_way.keys())
        await asyncio.gather(*(self._look(loop) for loop in loops.values() if self._is_due(loop)))

    async def _begin(self, conversation_id: str) -> None:
        """Note a use, and wait until no replica is stopping the loop.

        Where the use was written a moment ago, another replica can't be stopping the loop: it would have seen that.
        """
        while stop := self._stopping.get(conversation_id):
            await stop.wait()
        if self._after is not None and self._uses.note(conversation_id):
            while self._uses.is_stopping(conversation_id):  # noqa: ASYNC110 - another process, so there is no event
                await asyncio.sleep(_PAUSE)

    async def _look(self, loop: Loop) -> None:
        key = loop.conversation_id
        try:
            if await self._is_busy(loop):
                self._uses.note(key)
                return
            if self._idle_time:
                self._uses.see(key, await self._idle_time(loop))
            await self._stop_unused(loop)
        except LoopnestError as error:
            _log.warning("The idle loop %s could not be stopped: %s", key, error.message)
        except Exception:  # noqa: BLE001 - what one nested server answers must not end the sweeps
            _log.exception("Looking whether loop %s is idle failed", key)

    def _is_due(self, loop: Loop) -> bool:
        key = loop.conversation_id
        return self._after is not None and not self._under_way[key] and self._uses.idle_time(key) >= self._after

    async def _stop_unused(self, loop: Loop) -> None:
        """Stop a loop, unless it was used while it was asked, or another replica is stopping it."""
        key = loop.conversation_id
        with self._uses.stopping(key) as claimed:
            if not claimed or not self._is_due(loop):
                return
            over = self._stopping[key] = asyncio.Event()
            try:
                _log.info("Stopping loop %s, which is not in use", key)
                await self._stop(loop)
            finally:
                del self._stopping[key]
                over.set()

    async def _run(self, after: float) -> None:
        while True:
            await asyncio.sleep(min(max(after / 2, _SHORTEST), _LONGEST))
            try:
                await self.sweep()
            except LoopnestError as error:
                _log.warning("Idle loops are not looked for now: %s", error.message)

    async def _keep_noting(self) -> None:
        while True:
            await asyncio.sleep(max(self._uses.interval, _PAUSE))
            self._uses.flush(+self._under_way)

    async def _agent_works(self, loop: Loop) -> bool:
        probed = await self._loops.get_loop(loop.conversation_id, EVERYONE, probe=True)
        return probed.agent_status in (None, "running")

    async def _close(self, loop: Loop) -> None:
        await self._loops.close_session(loop.conversation_id, EVERYONE)
