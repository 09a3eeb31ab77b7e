"""What a host uses: `LoopManager`, with one typed method for each hook.

It does what no strategy should have to: it checks arguments and ownership, shares concurrent starts, keeps events in
order, limits how long plugins may take, and tells everybody of every change.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from weakref import WeakValueDictionary

from loopnest.asyncpluggy import AsyncPluginManager
from loopnest.calls import Calls
from loopnest.changes import Changes
from loopnest.errors import LoopFailed, LoopnestError, LoopNotFound, Reason
from loopnest.listing import merge
from loopnest.models import (
    Closed,
    Control,
    Delivery,
    Event,
    Finding,
    Loop,
    LoopChange,
    LoopQuery,
    LoopStatus,
    StartLoop,
)
from loopnest.outcomes import Outcomes
from loopnest.owners import EVERYONE, Everyone, owns
from loopnest.records import REMOVED, Records
from loopnest.secret import host_secret
from loopnest.selection import new_plugin_manager, register, require_strategy, select
from loopnest.settings import Configuration, LoopnestSettings
from loopnest.specs import HostContext
from loopnest.starts import Starts, join
from loopnest.turns import Turns
from loopnest.validation import check_conversation_id

_log = logging.getLogger(__name__)
UserId = str | Everyone | None


class LoopManager:
    """Runs agent loops where the configuration says.

    ::

        async with LoopManager.from_config() as loops:
            loop = await loops.start_loop(StartLoop(conversation_id="c1", user_id="alice", ...))
            await loops.send_event("c1", Message(text="hello"), "alice")

    ``user_id`` is the user as the host authenticated it, None on hosts without users, `EVERYONE` for operators. Every
    method raises `InvalidRequest` for malformed arguments, `LoopNotFound` for loops that do not exist or belong to
    somebody else, and `HookTimeout` where a plugin does not answer in time.
    """

    def __init__(self, plugins: AsyncPluginManager, settings: LoopnestSettings) -> None:
        self.plugins, self.settings = plugins, settings
        self._calls = Calls(plugins, settings)
        self._changes = Changes(settings.timeouts.other)
        self._starts = Starts()
        self._records = Records(self._state_dir / "records", settings.failed_retention)
        self._outcomes = Outcomes(settings.strategy, self._records, self._starts, self._changes)
        self._send_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._life_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._turns = Turns()
        self._closing = False
        self._one_shot = False

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        strategy: str | None = None,
        overrides: Sequence[str] | None = None,
        one_shot: bool = False,
    ) -> LoopManager:
        """Build it from the configuration file and the environment (see `loopnest.settings`).

        Args:
            one_shot: this process ends after a few calls, so plugins should not begin work in the background.

        Raises:
            ConfigurationError: with what is wrong, where, and what to do about it.
        """
        manager = cls(*select(Configuration.read(path), strategy=strategy, overrides=overrides))
        manager._one_shot = one_shot
        if os.environ.get("LOOPNEST_TRACE"):
            trace = logging.getLogger("loopnest.trace")
            manager.plugins.trace.root.setwriter(lambda line: trace.info(line.rstrip()))
            manager.plugins.enable_tracing()
        return manager

    @classmethod
    def from_plugins(
        cls, strategy: object, *overrides: object, settings: LoopnestSettings | None = None, one_shot: bool = False
    ) -> LoopManager:
        """Build it from plugin objects: for tests, and for hosts that choose in code; ``one_shot`` as above."""
        settings = settings or LoopnestSettings()
        plugins = new_plugin_manager()
        register(plugins, strategy, settings.strategy, type(strategy).__name__)
        require_strategy(plugins, settings.strategy)
        for override in reversed(overrides):
            name = plugins.get_canonical_name(override)
            register(plugins, override, name, name)
        manager = cls(plugins, settings)
        manager._one_shot = one_shot
        return manager

    # --- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> LoopManager:
        """Open the strategy, then the overrides."""
        context = HostContext(
            strategy=self.settings.strategy,
            namespace=self.settings.namespace,
            secret=await asyncio.to_thread(host_secret, self.settings),
            state_dir=self._state_dir,
            emit=self._outcomes.heard,
            hooks=self.plugins.hook,
            one_shot=self._one_shot,
        )
        self._changes.open(self._calls.listeners())
        try:
            await self._calls.open(context)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the starts that go on here, and close the plugins. Loops go on running. Twice is no error."""
        if self._closing:
            return
        self._closing = True
        await self._starts.cancel()
        try:
            await self._calls.close()
        finally:
            await self._changes.aclose()

    # --- the four hooks ---------------------------------------------------------------------------------------------

    async def start_loop(self, request: StartLoop) -> Loop:
        """Start the loop of a conversation, or return it where it runs already; see `StartLoop`.

        Raises:
            LoopFailed: it could not be started; with the reason, exit code and last log lines where there are any.
        """
        known = await self._find(request.conversation_id)
        if known and not owns(request.user_id, known.owner):
            raise LoopNotFound(request.conversation_id)
        task = self._starts.begin(request, lambda it: self._start(it, known))
        if request.wait:
            return await join(task, request.conversation_id)
        if known and known.status is LoopStatus.RUNNING:
            return known
        return self._starts.get(request.conversation_id) or await join(task, request.conversation_id)

    async def close_session(
        self, conversation_id: str, user_id: UserId = None, *, remove: bool = False, failure: LoopFailed | None = None
    ) -> Closed:
        """Stop a loop from any state; ``remove`` its container and workspace too, or list it with a ``failure``."""
        known = await self._find(conversation_id)
        if known is None or not owns(user_id, known.owner):
            raise LoopNotFound(conversation_id)
        interrupted = await self._starts.cancel(conversation_id)
        async with self._life_locks.setdefault(conversation_id, asyncio.Lock()):
            if known.status in (LoopStatus.STARTING, LoopStatus.RUNNING, LoopStatus.PAUSED):
                self._outcomes.tell(known, "stopping", known.status)
            try:
                closed = await self._calls.close_session(conversation_id, user_id, remove)
            except LoopNotFound:
                if not interrupted and known.status is not LoopStatus.FAILED and known.phase != REMOVED:
                    raise
                closed = Closed(conversation_id=conversation_id, already=not interrupted, removed=True)
            self._outcomes.closed(known, closed, remove=remove, failure=failure)
            return closed

    async def list_loops(self, query: LoopQuery | None = None) -> list[Loop]:
        """List loops: those the plugins know, starts that go on here, and starts that failed recently."""
        return [loop for loop in await self._list(query or LoopQuery()) if loop.phase != REMOVED]

    async def send_event(self, conversation_id: str, event: Event, user_id: UserId = None) -> Delivery:
        """Deliver an event; those for one conversation arrive in the order of the calls.

        A nested server may take a message only when the agent's tool has ended, which can be minutes. What steers the
        agent away from that tool (``pause``, ``interrupt``) overtakes what waits.

        Raises:
            NestedError: the nested server did not take it.
            LoopFailed: the loop does not run.
        """
        if isinstance(event, Control) and event.action != "run":
            return await self._send(conversation_id, event, user_id)
        async with self._send_locks.setdefault(conversation_id, asyncio.Lock()):
            return await self._send(conversation_id, event, user_id)

    # --- around them ------------------------------------------------------------------------------------------------

    async def get_loop(self, conversation_id: str, user_id: UserId = None, *, probe: bool = False) -> Loop:
        """Return one loop."""
        loop = await self._find(conversation_id, probe=probe)
        if loop is None or loop.phase == REMOVED or not owns(user_id, loop.owner):
            raise LoopNotFound(conversation_id)
        return loop

    async def loop_logs(
        self, conversation_id: str, user_id: UserId = None, *, tail: int = 100, follow: bool = False
    ) -> AsyncIterator[str]:
        """Read the log of a loop's nested server; failed loops that are gone give the lines that were kept."""
        loop = await self.get_loop(conversation_id, user_id)
        lines = await self._calls.loop_logs(conversation_id, user_id, tail, follow)
        return lines if lines is not None else _iterate(loop.log_tail)

    async def diagnose(self) -> list[Finding]:
        """Ask every plugin what it lacks; needs no `__aenter__`."""
        return await self._calls.diagnose()

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[LoopChange]]:
        """Give every change of every loop from now on: ``async with loops.watch() as changes: async for ...``."""
        return self._changes.watch()

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _send(self, conversation_id: str, event: Event, user_id: UserId) -> Delivery:
        await self.get_loop(conversation_id, user_id)
        return await self._calls.send_event(conversation_id, event, user_id)

    async def _list(self, query: LoopQuery) -> list[Loop]:
        await self._turns.mine()  # every hook's call looks its loop up here first
        unfiltered = query.model_copy(update={"statuses": None})
        listed = await self._calls.list_loops(unfiltered)
        asked = query.conversation_ids
        return query.select(merge(listed, self._starts.of(asked), self._records.of(asked)))

    async def _find(self, conversation_id: str, *, probe: bool = False) -> Loop | None:
        check_conversation_id(conversation_id)
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({conversation_id}), probe=probe)
        return next(iter(await self._list(query)), None)

    async def _start(self, request: StartLoop, known: Loop | None) -> Loop:
        lock = self._life_locks.setdefault(request.conversation_id, asyncio.Lock())
        waits = lock.locked()
        async with lock:
            if waits:  # for somebody who closes the loop: what was known is history
                known = await self._find(request.conversation_id)
            if known is not None and known.status is LoopStatus.RUNNING:
                return await self._call_start(request)
            self._outcomes.start_begins(request)
            loop = await self._call_start(request)
            self._outcomes.tell(loop, "ready", loop.status)
            return loop

    async def _call_start(self, request: StartLoop) -> Loop:
        try:
            return self._owned(request, await self._calls.start_loop(request))
        except LoopNotFound:
            raise
        except LoopnestError as error:
            self._outcomes.start_failed(request, error)
            raise
        except Exception as error:
            _log.exception("start_loop of %s raised", request.conversation_id)
            failure = LoopFailed(f"A plugin failed: {type(error).__name__}.", reason=Reason.INTERNAL)
            self._outcomes.start_failed(request, failure)
            raise failure from error
        except asyncio.CancelledError:
            if self._closing:
                stopped = LoopFailed("The host stopped meanwhile.", reason=Reason.INTERRUPTED)
                self._outcomes.start_failed(request, stopped)
            raise

    def _owned(self, request: StartLoop, loop: Loop) -> Loop:
        """Somebody else may have taken the conversation since it was looked up; the plugin then says whose it is."""
        if not owns(request.user_id, loop.owner):
            raise LoopNotFound(request.conversation_id)
        return loop

    @property
    def _state_dir(self) -> Path:
        return self.settings.state_dir / self.settings.namespace


async def _iterate(lines: Sequence[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line
