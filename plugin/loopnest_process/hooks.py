"""The hook implementations: read them top to bottom to know what the strategy does."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

import httpx

from loopnest import (
    Capability,
    Closed,
    Delivery,
    Event,
    Finding,
    Loop,
    LoopQuery,
    StartLoop,
    hookimpl,
)
from loopnest.specs import HostContext
from loopnest_nested import variables
from loopnest_nested.client import new_http_client, server_of
from loopnest_nested.dialects import get_dialect
from loopnest_process import logs
from loopnest_process.doctor import NO_ISOLATION, examine
from loopnest_process.lifecycle import Lifecycle
from loopnest_process.locks import FileLocks
from loopnest_process.parts import Parts
from loopnest_process.registry import Registry
from loopnest_process.server_python import ServerPython
from loopnest_process.settings import ProcessSettings
from loopnest_process.view import View
from loopnest_process.watcher import Watcher

_log = logging.getLogger(__name__)


class ProcessStrategy:
    """Runs every loop in a child process on this machine, with no isolation at all."""

    Settings = ProcessSettings
    CAPABILITIES = frozenset(Capability) - {Capability.IMAGE}

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
        variables.check_settings(self._dialect, "loopnest.process", self._settings)
        _log.warning(NO_ISOLATION)
        directory = context.state_dir / "process"
        self._http = new_http_client(self._settings.max_answer)
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
        variables.check_request(self._dialect, request)
        record = await self._lifecycle.start(request, request.owner)
        self._watcher.watch(record)
        return self._view.loop(record)

    @hookimpl
    async def close_session(self, loop: Loop, remove: bool) -> Closed:
        """Ask the nested server to stop, then end its process."""
        return await self._lifecycle.close(loop, remove=remove)

    @hookimpl
    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """See every record as a loop."""
        return await self._view.loops(query.conversation_ids, probe=query.probe)

    @hookimpl
    async def send_event(self, conversation_id: str, loop: Loop, event: Event) -> Delivery:
        """Deliver to the nested server."""
        response = await self._dialect.send(server_of(loop, self._http), conversation_id, event)
        return Delivery(conversation_id=conversation_id, response=response)

    @hookimpl
    async def pause_loop(self, loop: Loop) -> Loop:
        """Stop the loop's processes from running."""
        return self._view.loop(await self._lifecycle.set_paused(loop, True))

    @hookimpl
    async def resume_loop(self, loop: Loop) -> Loop:
        """Let the loop's processes go on."""
        return self._view.loop(await self._lifecycle.set_paused(loop, False))

    @hookimpl
    async def loop_logs(self, loop: Loop, tail: int, follow: bool) -> AsyncIterator[str] | None:
        """Read what the nested server printed since it was last started."""
        run = self._parts.registry.run(self._lifecycle.find(loop))
        return logs.read(run, tail=tail, follow=follow) if run else None

    @hookimpl
    async def diagnose(self) -> Sequence[Finding]:
        """Say that nothing is isolated, and look for the nested server."""
        return await examine(self._python)
