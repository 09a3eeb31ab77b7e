"""What a host uses: `LoopManager`, with one typed method for each hook.

It does what no strategy should have to: it checks arguments and ownership, shares concurrent starts, keeps events in
order, limits how long plugins may take, and publishes every change.
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

from loopnest._hooks import Calls
from loopnest._journal import Changes, Outcomes, Records
from loopnest._lookup import Known, Lookup
from loopnest._pluggy import AsyncPluginManager
from loopnest._starts import Starts, join
from loopnest._transitions import Transitions
from loopnest.capabilities import Capability, declared
from loopnest.errors import InvalidRequest, LoopFailed, LoopNotFound, Reason
from loopnest.models import Closed, Delivery, Finding, Loop, LoopChange, LoopQuery, LoopStatus
from loopnest.owners import Everyone, new_owner, owns
from loopnest.requests import Control, Event, StartLoop
from loopnest.secret import host_secret
from loopnest.selection import new_plugin_manager, register, require_strategy, select
from loopnest.settings import Configuration, LoopnestSettings
from loopnest.specs import HostContext

UserId = str | Everyone | None


class LoopManager:
    """Runs agent loops where the configuration says.

    ::

        async with LoopManager.from_config() as loops:
            loop = await loops.start_loop(StartLoop(conversation_id="c1"), "alice")
            await loops.send_event("c1", Message(text="hello"), "alice")

    ``user_id`` is the user as the host authenticated it, None on hosts without users, `EVERYONE` for operators. Every
    method raises `InvalidRequest` for malformed arguments, `LoopNotFound` for loops that do not exist or that the user
    does not own, and `HookTimeout` where a plugin does not answer in time.
    """

    def __init__(self, plugins: AsyncPluginManager, settings: LoopnestSettings) -> None:
        self.plugins, self.settings = plugins, settings
        #: What the strategy declares that it can do beyond the four hooks.
        self.capabilities = declared(plugins.get_plugin(settings.strategy), settings.strategy)
        self._calls = Calls(plugins, settings)
        self._changes = Changes(settings.timeouts.other)
        self._starts = Starts()
        self._records = Records(self._state_dir / "records", settings.failed_retention)
        self._outcomes = Outcomes(settings.strategy, self._records, self._starts, self._changes)
        self._send_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._lookup = Lookup(self._calls, self._starts, self._records)
        self._transitions = Transitions(self._calls, self._lookup, self._starts, self._outcomes)
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
            emit=self._outcomes.accept,
            hooks=self.plugins.hook,
            one_shot=self._one_shot,
        )
        self._lookup.open()
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
        await self._transitions.end()
        try:
            await self._calls.close()
        finally:
            await self._changes.aclose()

    # --- the four hooks ---------------------------------------------------------------------------------------------

    async def start_loop(self, request: StartLoop, user_id: UserId = None, *, wait: bool = True) -> Loop:
        """Start the loop of a conversation, or return it where it runs already.

        Args:
            user_id: owns a loop that is new. An operator (`EVERYONE`) starts existing loops only.
            wait: False returns at once, with a loop in status ``starting``; changes and listings show how it ends.

        Raises:
            InvalidRequest: the strategy can't do what a field of the request asks for.
            LoopFailed: it could not be started; with the reason, exit code and last log lines where there are any.
        """
        self._check_honoured(request)
        known = await self._lookup.find(request.conversation_id)
        if known.owner is not None and not owns(user_id, known.owner):
            raise LoopNotFound(request.conversation_id)
        task = self._transitions.begin(request, known, known.owner or new_owner(user_id))
        if wait:
            return await join(task, request.conversation_id)
        if known.loop and known.loop.status is LoopStatus.RUNNING:
            return known.loop
        return self._starts.get(request.conversation_id) or await join(task, request.conversation_id)

    async def close_session(
        self, conversation_id: str, user_id: UserId = None, *, remove: bool = False, failure: LoopFailed | None = None
    ) -> Closed:
        """Stop a loop from any state; ``remove`` its container and workspace too, or list it with a ``failure``."""
        known = await self._lookup.find(conversation_id)
        if known.owner is None or not owns(user_id, known.owner):
            raise LoopNotFound(conversation_id)
        return await self._transitions.close(known, remove=remove, failure=failure)

    async def list_loops(self, query: LoopQuery | None = None) -> list[Loop]:
        """List loops: those the plugins know, starts that go on here, and starts that failed recently."""
        return await self._lookup.list(query or LoopQuery())

    async def send_event(self, conversation_id: str, event: Event, user_id: UserId = None) -> Delivery:
        """Deliver an event; those for one conversation arrive in the order of the calls.

        A stopped loop is started again first, unless ``loopnest.restart_on_send`` is off; a start that goes on in this
        process is waited for.

        A nested server may take a message only when the agent's tool has ended, which can be minutes. What steers the
        agent away from that tool (``pause``, ``interrupt``) overtakes what waits.

        Raises:
            NestedError: the nested server did not take it.
            LoopFailed: the loop does not run, and may not or could not be started, or another host is starting it.
        """
        if isinstance(event, Control) and event.action != "run":
            return await self._send(conversation_id, event, user_id)
        async with self._send_locks.setdefault(conversation_id, asyncio.Lock()):
            return await self._send(conversation_id, event, user_id)

    # --- around them ------------------------------------------------------------------------------------------------

    async def get_loop(self, conversation_id: str, user_id: UserId = None, *, probe: bool = False) -> Loop:
        """Return one loop."""
        known = await self._lookup.find(conversation_id, probe=probe)
        return known.visible_to(user_id)

    async def pause_loop(self, conversation_id: str, user_id: UserId = None) -> Loop:
        """Freeze a running loop, which keeps its memory; one that is paused is returned as it is.

        Raises:
            LoopFailed: ``not-running``.
            LoopnestError: ``unsupported``: the strategy can't pause loops.
        """
        return await self._transitions.set_paused(conversation_id, user_id, True)

    async def resume_loop(self, conversation_id: str, user_id: UserId = None) -> Loop:
        """Let a paused loop go on; one that runs is returned as it is.

        Raises:
            LoopFailed: ``not-running``: it is stopped, so start it.
            LoopnestError: ``unsupported``: the strategy can't pause loops.
        """
        return await self._transitions.set_paused(conversation_id, user_id, False)

    async def loop_logs(
        self, conversation_id: str, user_id: UserId = None, *, tail: int = 100, follow: bool = False
    ) -> AsyncIterator[str]:
        """Read the log of a loop's nested server; failed loops that are gone give the lines that were kept.

        Raises:
            LoopnestError: ``unsupported``: the strategy keeps no logs.
        """
        known = await self._lookup.find(conversation_id)
        shown = known.visible_to(user_id)
        lines = await self._calls.loop_logs(known.loop, tail, follow, shown.log_tail) if known.loop else None
        return lines if lines is not None else _iterate(shown.log_tail)

    async def diagnose(self) -> list[Finding]:
        """Ask every plugin what it lacks; needs no `__aenter__`."""
        return await self._calls.diagnose()

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[LoopChange]]:
        """Give every change of every loop from now on: ``async with loops.watch() as changes: async for ...``."""
        return self._changes.watch()

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _send(self, conversation_id: str, event: Event, user_id: UserId) -> Delivery:
        known = await self._lookup.find(conversation_id)
        known.visible_to(user_id)
        return await self._calls.send_event(await self._running(known), event)

    async def _running(self, known: Known) -> Loop:
        """Return the loop once it runs, started again if need be."""
        loop, shown = known.loop, known.shown
        assert shown is not None
        if loop and loop.status is LoopStatus.RUNNING:
            return loop
        if loop is None and shown.status is LoopStatus.FAILED:  # its start failed, and left nothing
            message, log_tail = shown.message or "The loop failed.", shown.log_tail
            raise LoopFailed(message, reason=shown.reason, exit_code=shown.exit_code, log_tail=log_tail)
        if shown.status is not LoopStatus.STARTING and not self.settings.restart_on_send:
            raise LoopFailed(
                f"The loop is {shown.status}, and 'loopnest.restart_on_send' is off. Start it again.",
                reason=Reason.NOT_RUNNING,
            )
        request = StartLoop(conversation_id=known.conversation_id)
        task = self._transitions.begin(request, known, shown.owner, resume=True)
        return await join(task, known.conversation_id)

    def _check_honoured(self, request: StartLoop) -> None:
        """Refuse what the strategy would ignore."""
        if request.image is not None and Capability.IMAGE not in self.capabilities:
            raise InvalidRequest(
                f"'image' can't be chosen: the strategy {self.settings.strategy!r} does not run images."
            )

    @property
    def _state_dir(self) -> Path:
        return self.settings.state_dir / self.settings.namespace


async def _iterate(lines: Sequence[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line
