"""The hook implementations: read them top to bottom to know what the strategy does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import httpx

from loopnest import (
    Closed,
    Delivery,
    Event,
    Finding,
    Loop,
    LoopFailed,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
    owner_of,
)
from loopnest.specs import HostContext
from loopnest_nested.client import new_http_client
from loopnest_nested.dialects import get_dialect
from loopnest_process import logs
from loopnest_process.doctor import NO_ISOLATION, examine
from loopnest_process.lifecycle import Lifecycle
from loopnest_process.locks import FileLocks
from loopnest_process.parts import Parts
from loopnest_process.registry import Record, Registry
from loopnest_process.server_python import ServerPython
from loopnest_process.settings import ProcessSettings
from loopnest_process.view import View
from loopnest_process.watcher import Watcher

_log = logging.getLogger(__name__)


class ProcessStrategy:
    """Runs every loop in a child process on this machine, with no isolation at all."""

    Settings = ProcessSettings

    def __init__(self, settings: ProcessSettings) -> None:
        self._settings = settings
        self._dialect = get_dialect(settings.dialect)
        self._python = ServerPython(settings)
        self._http: httpx.AsyncClient
        self._parts: Parts
        self._lifecycle: Lifecycle
        self._view: View
        self._watcher: Watcher
        self._opened = False

    @hookimpl
    async def open_strategy(self, context: HostContext) -> None:
        """Find the loops that run already, and say loudly what this is not."""
        _log.warning(NO_ISOLATION)
        directory = context.state_dir / "process"
        self._http = new_http_client()
        self._parts = Parts(
            settings=self._settings,
            context=context,
            dialect=self._dialect,
            http=self._http,
            registry=Registry(directory / "loops", self._settings.workspaces),
            locks=FileLocks(directory / "locks"),
        )
        self._lifecycle = Lifecycle(self._parts, self._python)
        self._view = View(self._parts)
        self._watcher = Watcher(self._parts, self._lifecycle)
        self._opened = True
        await self._watcher.open()

    @hookimpl
    async def close_strategy(self) -> None:
        """Let go of everything; loops go on running."""
        if self._opened:
            await self._watcher.aclose()
            await self._http.aclose()

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        """Start, adopt or bring back the conversation's nested server, and make sure that it has the conversation."""
        return self._view.loop(await self._start(request, owner_of(request.user_id)))

    @hookimpl
    async def close_session(self, conversation_id: str, remove: bool) -> Closed:
        """Ask the nested server to stop, then end its process."""
        return await self._lifecycle.close(conversation_id, remove=remove)

    @hookimpl
    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """See every record as a loop."""
        return await self._view.loops(query.conversation_ids, probe=query.probe)

    @hookimpl
    async def send_event(self, conversation_id: str, event: Event) -> Delivery:
        """Deliver to the nested server, starting a stopped loop again where the settings say so."""
        record = await self._awake(conversation_id)
        response = await self._dialect.send(self._parts.server(record), conversation_id, event)
        return Delivery(conversation_id=conversation_id, response=response)

    @hookimpl
    async def loop_logs(self, conversation_id: str, tail: int, follow: bool) -> AsyncIterator[str] | None:
        """Read what the nested server printed since it was last started."""
        record = self._parts.registry.read(conversation_id)
        run = self._parts.registry.run(record) if record else None
        return logs.read(run, tail=tail, follow=follow) if run else None

    @hookimpl
    async def diagnose(self) -> Sequence[Finding]:
        """Say that nothing is isolated, and look for the nested server."""
        return await examine(self._python)

    async def _start(self, request: StartLoop, owner: str) -> Record:
        record = await self._lifecycle.start(request, owner)
        self._watcher.watch(record)
        return record

    async def _awake(self, conversation_id: str) -> Record:
        record = self._parts.registry.read(conversation_id)
        if record is None:
            raise LoopNotFound(conversation_id)
        if running := self._lifecycle.running(conversation_id, record.owner):
            return running
        if not self._settings.restart_on_send:
            raise LoopFailed("The loop is not running. Start it again.", reason=Reason.NOT_RUNNING)
        record = await self._start(StartLoop(conversation_id=conversation_id, bare=record.bare), record.owner)
        self._parts.tell(conversation_id, record.owner, "ready", status=LoopStatus.RUNNING)  # nobody else will
        return record
