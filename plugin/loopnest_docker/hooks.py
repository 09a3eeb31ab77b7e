"""The hook implementations: read them top to bottom to know what the strategy does."""

from __future__ import annotations

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
from loopnest_docker import container, logs
from loopnest_docker.doctor import examine
from loopnest_docker.engine import Engine
from loopnest_docker.facts import Facts
from loopnest_docker.image import ImageStore
from loopnest_docker.inventory import Inventory
from loopnest_docker.keeper import Keeper
from loopnest_docker.lifecycle import Lifecycle
from loopnest_docker.network import Network
from loopnest_docker.parts import Parts
from loopnest_docker.settings import DockerSettings
from loopnest_docker.view import View
from loopnest_nested import variables
from loopnest_nested.client import new_http_client, server_of
from loopnest_nested.dialects import get_dialect


class DockerStrategy:
    """Runs every loop in a Docker container of its own."""

    Settings = DockerSettings
    Specs = container.Specs
    CAPABILITIES = frozenset(Capability)

    def __init__(self, settings: DockerSettings) -> None:
        self._settings = settings
        self._dialect = get_dialect(settings.dialect)
        self._http: httpx.AsyncClient
        self._parts: Parts
        self._lifecycle: Lifecycle
        self._keeper: Keeper
        self._opened = False

    @hookimpl
    async def open_strategy(self, context: HostContext) -> None:
        """Connect; nothing is asked of the engine yet, so that a host starts while its engine is down."""
        settings = self._settings
        variables.check_settings(self._dialect, "loopnest.docker", settings)
        engine = Engine(settings.engine)
        self._http = new_http_client(settings.max_answer)
        self._parts = Parts(
            settings=settings,
            context=context,
            dialect=self._dialect,
            engine=engine,
            images=ImageStore(engine, settings),
            network=Network(engine, settings, context.namespace),
            inventory=Inventory(engine, context.namespace, self._on_death, settings.engine.max_age),
            view=View(settings, context, self._dialect, self._http, engine),
        )
        self._lifecycle = Lifecycle(self._parts)
        self._keeper = Keeper(self._parts, self._lifecycle)
        if not context.one_shot:  # which makes so few listings that following the engine's events would cost more
            await self._parts.inventory.open()
            self._keeper.open()
            self._lifecycle.filler.open()
        self._opened = True

    @hookimpl
    async def close_strategy(self) -> None:
        """Let go of everything; loops go on running."""
        if self._opened:
            await self._lifecycle.filler.aclose()
            await self._keeper.aclose()
            await self._parts.network.aclose()
            await self._parts.inventory.aclose()
            await self._http.aclose()
            await self._parts.engine.aclose()

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        """Create, adopt or bring back the conversation's container, and make sure that it has the conversation."""
        variables.check_request(self._dialect, request)
        return await self._lifecycle.start(request, request.owner)

    @hookimpl
    async def close_session(self, loop: Loop, remove: bool) -> Closed:
        """Ask the nested server to stop, then stop its container."""
        return await self._lifecycle.close(loop, remove=remove)

    @hookimpl
    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """See every container of the namespace as a loop."""
        containers = await self._parts.inventory.select(query.conversation_ids)
        return await self._parts.view.loops(containers, probe=query.probe)

    @hookimpl
    async def send_event(self, conversation_id: str, loop: Loop, event: Event) -> Delivery:
        """Deliver to the nested server."""
        response = await self._dialect.send(server_of(loop, self._http), conversation_id, event)
        return Delivery(conversation_id=conversation_id, response=response)

    @hookimpl
    async def pause_loop(self, loop: Loop) -> Loop:
        """Freeze the container's processes."""
        return await self._lifecycle.set_paused(loop, True)

    @hookimpl
    async def resume_loop(self, loop: Loop) -> Loop:
        """Let the container's processes go on."""
        return await self._lifecycle.set_paused(loop, False)

    def _on_death(self, container: Facts, exit_code: int | None) -> None:
        """Publish the end of a loop that this process is not closing."""
        if not self._lifecycle.busy(container):
            self._keeper.ended(container, exit_code)

    @hookimpl
    async def loop_logs(self, loop: Loop, tail: int, follow: bool) -> AsyncIterator[str]:
        """Read the container's log."""
        found = await self._lifecycle.find(loop.conversation_id, loop.owner)
        return logs.read(self._parts.engine, found.id, tail=tail, follow=follow)

    @hookimpl
    async def diagnose(self) -> Sequence[Finding]:
        """Look at the engine, the image, the network and the limits."""
        return await examine(self._settings)
