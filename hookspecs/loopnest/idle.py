"""Stop loops that nobody uses, for any host."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from loopnest.errors import LoopnestError
from loopnest.manager import LoopManager
from loopnest.models import Loop, LoopQuery, LoopStatus
from loopnest.owners import EVERYONE

_log = logging.getLogger(__name__)
#: Seconds between two looks, at the least and at the most.
_SHORTEST: Final = 1.0
_LONGEST: Final = 60.0
IsBusy = Callable[[Loop], Awaitable[bool]]


class IdleKeeper:
    """Closes loops that were neither used nor busy for a while; they come back when the host starts them again.

    What it knows is this process's own: after a restart of the host every loop counts as just used.

    Args:
        after: seconds without use; None never stops a loop.
        is_busy: whether the loop's agent works, asked before a loop is stopped; by default from `Loop.agent_status`.
            A loop whose nested server does not answer counts as busy.
    """

    def __init__(self, loops: LoopManager, after: float | None, is_busy: IsBusy | None = None) -> None:
        self._loops, self._after, self._is_busy = loops, after, is_busy or self._agent_works
        self._uses: Counter[str] = Counter()
        self._last: dict[str, float] = {}
        self._stopping: dict[str, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> IdleKeeper:
        if self._after is not None:
            self._task = asyncio.ensure_future(self._run(self._after))
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def using(self, conversation_id: str) -> AsyncIterator[None]:
        """Keep the loop from being stopped while inside; waits first for a stop that goes on."""
        while stop := self._stopping.get(conversation_id):
            await stop.wait()
        self._uses[conversation_id] += 1
        try:
            yield
        finally:
            self._uses[conversation_id] -= 1
            self._last[conversation_id] = time.monotonic()

    async def sweep(self) -> None:
        """Look at every running loop once."""
        running = LoopQuery(user_id=EVERYONE, statuses=frozenset({LoopStatus.RUNNING}))
        loops = {loop.conversation_id: loop for loop in await self._loops.list_loops(running)}
        self._uses = +self._uses
        self._last = {key: at for key, at in self._last.items() if key in loops}
        await asyncio.gather(*(self._look(loop) for loop in loops.values() if self._is_due(loop)))

    async def _look(self, loop: Loop) -> None:
        if await self._is_busy(loop):
            self._last[loop.conversation_id] = time.monotonic()
        elif self._is_due(loop):  # nobody came while it was asked
            await self._stop(loop.conversation_id)

    def _is_due(self, loop: Loop) -> bool:
        key, now = loop.conversation_id, time.monotonic()
        since = self._last.setdefault(key, now)
        return self._after is not None and not self._uses[key] and now - since >= self._after

    async def _stop(self, conversation_id: str) -> None:
        over = self._stopping[conversation_id] = asyncio.Event()
        try:
            _log.info("Stopping loop %s, which nobody uses", conversation_id)
            await self._loops.close_session(conversation_id, EVERYONE)
        except LoopnestError as error:
            _log.warning("The idle loop %s could not be stopped: %s", conversation_id, error.message)
        finally:
            del self._stopping[conversation_id]
            over.set()

    async def _run(self, after: float) -> None:
        while True:
            await asyncio.sleep(min(max(after / 2, _SHORTEST), _LONGEST))
            try:
                await self.sweep()
            except LoopnestError as error:
                _log.warning("Idle loops are not looked for now: %s", error.message)

    async def _agent_works(self, loop: Loop) -> bool:
        probed = await self._loops.get_loop(loop.conversation_id, EVERYONE, probe=True)
        return probed.agent_status in (None, "running")
