"""From a container that runs to a nested server that has its conversation; or to the reason why not."""

from __future__ import annotations

import asyncio
import time

from loopnest import LoopFailed, NestedError, Reason, StartLoop
from loopnest.deadline import limited
from loopnest_docker.container import place_of
from loopnest_docker.facts import Facts
from loopnest_docker.failure import explain_early_end, log_tail
from loopnest_docker.history import History
from loopnest_docker.parts import Parts
from loopnest_nested.client import NestedServer
from loopnest_nested.readiness import until_alive


class Boot:
    """The boot of one container for one request; ``start_timeout`` counts from here.

    Args:
        is_new: this start made the container, so it has no conversation yet.
    """

    def __init__(self, parts: Parts, container: Facts, request: StartLoop, *, is_new: bool) -> None:
        self._parts, self._container, self._request, self._is_new = parts, container, request, is_new
        self._deadline = time.monotonic() + parts.settings.start_timeout
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
            server = await self._until_alive()
            await closed
        finally:
            closed.cancel()
        if self._container.conversation:
            await self._converse(server)
        self._parts.view.mark_ready(self._container)

    async def _until_alive(self) -> NestedServer:
        server = self._parts.view.server(self._container)
        if server is None:
            raise await self._explained()

        async def died() -> bool:
            await self._parts.inventory.until_dead(self._container.id)
            return True

        try:
            dead = await until_alive(lambda: self._parts.dialect.alive(server), died(), self._left())
        except asyncio.TimeoutError as error:
            raise await self._late("was not ready") from error
        if dead:
            raise await self._explained()
        return server

    async def _converse(self, server: NestedServer) -> None:
        try:
            await limited(self._ensure_conversation(server), self._left())
        except asyncio.TimeoutError as error:
            raise await self._late("did not create the conversation") from error
        except NestedError:
            self._parts.inventory.touch(self._container.id)
            now = (await self._parts.inventory.all()).get(self._container.id)
            if now is None or now.down:
                raise await self._explained() from None
            raise

    async def _ensure_conversation(self, server: NestedServer) -> None:
        if not self._is_new:
            await History(self._parts).check(self._container, server)
        await self._parts.dialect.ensure_conversation(server, self._request, place_of(self._parts.settings))

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())

    async def _explained(self) -> LoopFailed:
        secrets = self._parts.secrets(self._container)
        return await explain_early_end(self._parts.engine, self._container, secrets)

    async def _late(self, words: str) -> LoopFailed:
        return LoopFailed(
            f"The nested server {words} within {self._parts.settings.start_timeout:g} s "
            f"('loopnest.docker.start_timeout').",
            reason=Reason.START_TIMEOUT,
            log_tail=await log_tail(self._parts.engine, self._container.id, self._parts.secrets(self._container)),
        )
