"""The adapter's own plugin, in front of the strategy: what the host's configuration says of containers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from loopnest import (
    Closed,
    Delivery,
    Event,
    Finding,
    HostContext,
    Loop,
    LoopChange,
    LoopQuery,
    StartLoop,
    async_wrapper,
    hookimpl,
)
from loopnest_openhands.legacy import releases, sandbox
from loopnest_openhands.legacy.current import get_host
from loopnest_openhands.legacy.settings import HostSettings
from loopnest_openhands.legacy.upstream import UpstreamContainers


class HostPlugin:
    """Lets the conversation's directory of the host be where the nested server writes, and receives changes."""

    Settings = HostSettings

    def __init__(self, settings: HostSettings) -> None:
        self.settings = settings
        self.listeners: list[Callable[[LoopChange], None]] = []
        self._upstream: UpstreamContainers | None = None

    @hookimpl
    def open_strategy(self, context: HostContext) -> None:
        """Look for upstream's containers where they can be: beside those of the Docker strategy."""
        host = get_host()
        secret = host.config.jwt_secret if host else None
        if host and secret and self.settings.upstream_containers and context.strategy == "docker":
            url = host.config.sandbox.local_runtime_url
            self._upstream = UpstreamContainers(secret, context.strategy, url)

    @hookimpl
    async def close_strategy(self) -> None:
        """Let go of them; they go on running."""
        if self._upstream:
            await self._upstream.aclose()

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop | None:
        """Bring upstream's container up where the conversation has one; a new one is the strategy's to make."""
        if not self._upstream or not (found := await self._upstream.find(request.conversation_id)):
            return None
        return await self._upstream.start(found, request)

    @hookimpl
    async def close_session(self, conversation_id: str, remove: bool) -> Closed | None:
        """Close upstream's container of the conversation."""
        if self._upstream and (found := await self._upstream.find(conversation_id)):
            return await self._upstream.close(found, remove=remove)
        return None

    @hookimpl
    async def send_event(self, conversation_id: str, event: Event) -> Delivery | None:
        """Deliver to upstream's container of the conversation."""
        if not self._upstream or not (found := await self._upstream.find(conversation_id)):
            return None
        return Delivery(conversation_id=conversation_id, response=await self._upstream.send(found, event))

    @hookimpl(wrapper=True)
    @async_wrapper
    async def list_loops(self, query: LoopQuery) -> AsyncGenerator[Any, Any]:
        """Add upstream's containers to the strategy's."""
        listed = yield
        theirs = await self._upstream.loops() if self._upstream else []
        yield [*listed, *(loop for loop in theirs if query.matches(loop))]

    @hookimpl(optionalhook=True)
    async def configure_container(self, request: StartLoop, spec: Any) -> None:
        """Mount the conversation's directory, and honour the host's ``[sandbox]`` table."""
        host = get_host()
        if host is None:
            return
        sandbox.apply(host.config.sandbox, spec)
        store = host.store_path
        if store is None:
            return
        directory = host.directory(request.conversation_id, host.users.get(request.conversation_id))
        await asyncio.to_thread(_open_to_all, store / directory)
        source = (self.settings.store_on_engine or store) / directory
        spec.binds.append(f"{source}:{sandbox.nested_store(spec)}/sessions/{request.conversation_id}:rw")

    @hookimpl
    def loop_changed(self, change: LoopChange) -> None:
        """Tell the listeners."""
        for listener in self.listeners:
            listener(change)

    @hookimpl
    def diagnose(self) -> Sequence[Finding]:
        """Look at the installed release of the host."""
        return releases.examine()


def _open_to_all(directory: Path) -> None:
    """Let whoever the nested server runs as write here, and the host remove it all: directories are the host's own."""
    for path in (directory, directory / "events", directory / "event_cache"):
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_uid == os.getuid():
            path.chmod(0o777)
