"""From a container that runs to a nested server that has its conversation; or to the reason why not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from loopnest import LoopFailed, StartLoop
from loopnest_docker.container import place_of
from loopnest_docker.facts import Facts
from loopnest_docker.failure import explain_early_end, log_tail
from loopnest_docker.history import History
from loopnest_docker.parts import Parts
from loopnest_nested.boot import Boot
from loopnest_nested.client import NestedServer


class ContainerUnit:
    """A container as the boot of its nested server sees it (a `loopnest_nested.boot.Unit`)."""

    def __init__(self, parts: Parts, container: Facts) -> None:
        self._parts, self._container = parts, container

    def boot(self) -> Boot:
        """Begin the boot of the nested server."""
        return Boot(self, self._parts.settings.start_timeout, "loopnest.docker.start_timeout")

    async def server(self) -> NestedServer:
        """Return the nested server.

        Raises:
            LoopFailed: the container ended, or has no address.
        """
        server = self._parts.view.server(self._container)
        if server is None:
            raise await self.why_ended()
        return server

    async def alive(self) -> bool:
        """Whether the nested server answers."""
        server = self._parts.view.server(self._container)
        return server is not None and await self._parts.dialect.alive(server)

    async def until_ended(self) -> None:
        """Return once the container has ended, or is gone."""
        await self._parts.inventory.until_dead(self._container.id)

    async def has_ended(self) -> bool:
        """Whether the container has ended, or is gone."""
        self._parts.inventory.touch(self._container.id)
        now = (await self._parts.inventory.all()).get(self._container.id)
        return now is None or now.down

    async def why_ended(self) -> LoopFailed:
        """Ask the engine how the container ended."""
        return await explain_early_end(self._parts.engine, self._container, self._parts.secrets(self._container))

    async def log_tail(self) -> Sequence[str]:
        """The container's last log lines."""
        return await log_tail(self._parts.engine, self._container.id, self._parts.secrets(self._container))


class ContainerBoot:
    """The boot of one container for one request; ``start_timeout`` counts from here.

    Args:
        is_new: this start made the container, so it has no conversation yet.
    """

    def __init__(self, parts: Parts, container: Facts, request: StartLoop, *, is_new: bool) -> None:
        self._parts, self._container, self._request, self._is_new = parts, container, request, is_new
        self._unit = ContainerUnit(parts, container)
        self._boot = self._unit.boot()
        parts.requested.keep(request)

    async def finish(self) -> None:
        """Wait for the nested server while the network is being closed, then make sure that it has the conversation.

        Raises:
            LoopFailed: the container ended, or was not ready in time.
            NestedError: the nested server refused the conversation.
        """
        image = self._request.image or self._parts.images.default
        closed = asyncio.ensure_future(self._parts.network.ensure_closed(image))
        try:
            server = await self._unit.server()
            await self._boot.until_alive()
            await closed
        finally:
            closed.cancel()
        if self._container.conversation:
            await self._boot.until_created(self._ensure_conversation(server))
        self._parts.view.mark_ready(self._container)

    async def _ensure_conversation(self, server: NestedServer) -> None:
        if not self._is_new:
            await History(self._parts).check(self._container, server)
        await self._parts.dialect.ensure_conversation(server, self._request, place_of(self._parts.settings))
