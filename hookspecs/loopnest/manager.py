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
from loopnest.errors import InvalidRequest, LoopFailed, LoopnestError, LoopNotFound, Reason
from loopnest.listing import merge
from loopnest.models import (
    CONVERSATION_ID,
    EVERYONE,
    Closed,
    Control,
    Delivery,
    Event,
    Everyone,
    Finding,
    Loop,
    LoopChange,
    LoopQuery,
    LoopStatus,
    StartLoop,
    owner_of,
    owns,
)
from loopnest.records import REMOVED, Records, died, failed, removed
from loopnest.secret import host_secret
from loopnest.selection import new_plugin_manager, register, require_strategy, select
from loopnest.settings import Configuration, LoopnestSettings
from loopnest.specs import HostContext
from loopnest.starts import Starts, join

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
        self._send_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._life_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
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
            emit=self._heard,
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

    async def close_session(self, conversation_id: str, user_id: UserId = None, *, remove: bool = False) -> Closed:
        """Stop a loop from any state; with ``remove``, remove its container and workspace too."""
        known = await self._find(conversation_id)
        if known is None or not owns(user_id, known.owner):
            raise LoopNotFound(conversation_id)
        interrupted = await self._starts.cancel(conversation_id)
        async with self._lock(self._life_locks, conversation_id):
            if known.status in (LoopStatus.STARTING, LoopStatus.RUNNING, LoopStatus.PAUSED):
                self._emit_for(known, "stopping", known.status)
            try:
                closed = await self._calls.close_session(conversation_id, user_id, remove)
            except LoopNotFound:
                if not interrupted and known.status is not LoopStatus.FAILED and known.phase != REMOVED:
                    raise
                closed = Closed(conversation_id=conversation_id, already=not interrupted, removed=True)
            self._tell_closed(known, closed, remove)
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
        async with self._lock(self._send_locks, conversation_id):
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
        unfiltered = query.model_copy(update={"statuses": None})
        listed = await self._calls.list_loops(unfiltered)
        loops = merge(listed, self._starts.all().values(), self._records.all().values())
        return query.select(loops)

    async def _find(self, conversation_id: str, *, probe: bool = False) -> Loop | None:
        if not isinstance(conversation_id, str) or not CONVERSATION_ID.match(conversation_id):
            raise InvalidRequest(
                f"'conversation_id' must be 1 to 64 letters, digits, '-' or '_', beginning with a letter or digit, "
                f"not {conversation_id!r:.80}."
            )
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({conversation_id}), probe=probe)
        return next(iter(await self._list(query)), None)

    async def _start(self, request: StartLoop, known: Loop | None) -> Loop:
        lock = self._lock(self._life_locks, request.conversation_id)
        waits = lock.locked()
        async with lock:
            if waits:  # for somebody who closes the loop: what was known is history
                known = await self._find(request.conversation_id)
            if known is not None and known.status is LoopStatus.RUNNING:
                return await self._call_start(request)
            self._records.forget(request.conversation_id)
            starting = Loop(
                conversation_id=request.conversation_id,
                owner=owner_of(request.user_id),
                status=LoopStatus.STARTING,
            )
            self._emit_for(starting, "requested", LoopStatus.STARTING)
            loop = await self._call_start(request)
            self._emit_for(loop, "ready", loop.status)
            return loop

    async def _call_start(self, request: StartLoop) -> Loop:
        try:
            return self._owned(request, await self._calls.start_loop(request))
        except LoopNotFound:
            raise
        except LoopnestError as error:
            self._explain(request, error)
            raise
        except Exception as error:
            _log.exception("start_loop of %s raised", request.conversation_id)
            failure = LoopFailed(f"A plugin failed: {type(error).__name__}.", reason=Reason.INTERNAL)
            self._explain(request, failure)
            raise failure from error
        except asyncio.CancelledError:
            if self._closing:
                self._explain(request, LoopFailed("The host stopped meanwhile.", reason=Reason.INTERRUPTED))
            raise

    def _owned(self, request: StartLoop, loop: Loop) -> Loop:
        """Somebody else may have taken the conversation since it was looked up; the plugin then says whose it is."""
        if not owns(request.user_id, loop.owner):
            raise LoopNotFound(request.conversation_id)
        return loop

    def _explain(self, request: StartLoop, error: LoopnestError) -> None:
        """Keep and tell why a start failed."""
        error.conversation_id = request.conversation_id
        loop = failed(request, error, self.settings.strategy)
        self._records.keep(loop)
        self._emit_for(loop, "failed", LoopStatus.FAILED)

    def _tell_closed(self, known: Loop, closed: Closed, remove: bool) -> None:
        self._records.forget(known.conversation_id)
        if closed.removed or remove:
            self._records.keep(removed(known))  # so that closing twice is no error
            if known.phase != REMOVED:
                self._emit_for(known, REMOVED, None, closed.message)
        elif not closed.already:
            self._emit_for(known, "stopped", LoopStatus.STOPPED, closed.message)

    def _heard(self, change: LoopChange) -> None:
        """A plugin reports a change; that a loop died is kept, as the next process can't know it from the plugin."""
        if change.status is LoopStatus.FAILED:
            self._records.keep(died(change, self.settings.strategy))
        elif change.status is LoopStatus.RUNNING:
            self._records.forget(change.conversation_id)
        self._emit(change)

    def _emit(self, change: LoopChange) -> None:
        self._starts.moved(change.conversation_id, change.phase)
        self._changes.emit(change)

    def _emit_for(self, loop: Loop, phase: str, status: LoopStatus | None, message: str | None = None) -> None:
        change = LoopChange(
            conversation_id=loop.conversation_id,
            owner=loop.owner,
            phase=phase,
            status=status,
            message=message or loop.message,
        )
        if status is LoopStatus.FAILED:
            why = {"reason": loop.reason, "exit_code": loop.exit_code, "log_tail": loop.log_tail}
            change = change.model_copy(update=why)
        self._emit(change)

    @property
    def _state_dir(self) -> Path:
        return self.settings.state_dir / self.settings.namespace

    @staticmethod
    def _lock(locks: WeakValueDictionary[str, asyncio.Lock], key: str) -> asyncio.Lock:
        return locks.setdefault(key, asyncio.Lock())


async def _iterate(lines: Sequence[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line
