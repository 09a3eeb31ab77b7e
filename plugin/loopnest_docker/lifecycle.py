"""Bring loops up and down."""

from __future__ import annotations

import asyncio
import contextlib

from loopnest import Closed, Loop, LoopFailed, LoopNotFound, NestedError, StartLoop
from loopnest_docker.closing import Closer
from loopnest_docker.engine import EngineConflict
from loopnest_docker.facts import Facts
from loopnest_docker.filler import Filler
from loopnest_docker.parts import Parts
from loopnest_docker.starting import Start


class Lifecycle:
    """Starts and closes loops, one `Start` or `Closer` at a time for each conversation."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.closer = Closer(parts)
        self._gate = asyncio.Semaphore(parts.settings.engine.starts)
        self._starting: set[str] = set()
        self.filler = Filler(parts, lambda: bool(self._starting))

    def busy(self, container: Facts) -> bool:
        """Whether this process is starting the container's loop, or ending it."""
        return container.loop.conversation_id in self._starting or self.closer.expects(container)

    async def find(self, conversation_id: str, owner: str) -> Facts:
        """Return the container of a conversation.

        Raises:
            LoopNotFound: there is none, or another user owns it.
        """
        containers = await self._parts.inventory.of(conversation_id)
        if containers and owner == containers[0].loop.owner:
            return containers[0]
        raise LoopNotFound(conversation_id)

    async def start(self, request: StartLoop, owner: str) -> Loop:
        """Bring the loop up from whatever state it is in.

        Raises:
            LoopNotFound: another user owns the conversation.
            LoopFailed, EngineError: it could not be started.
        """
        conversation_id = request.conversation_id
        known = await self._parts.inventory.of(conversation_id)
        container = await self.find(conversation_id, owner) if known else None
        if container is None or not self._parts.view.is_ready(container):
            self._starting.add(conversation_id)
            try:
                container = await Start(self._parts, self.closer, self._gate, request, owner).run(container)
            except NestedError as error:
                raise LoopFailed(error.message, reason=error.reason) from error
            finally:
                self._starting.discard(conversation_id)
                self.filler.poke()
        return await self._parts.view.loop(container)

    async def set_paused(self, loop: Loop, paused: bool) -> Loop:
        """Pause or unpause the loop's container, and return the loop as it is then."""
        container = await self.find(loop.conversation_id, loop.owner)
        with contextlib.suppress(EngineConflict):  # another replica was faster, or the container ended
            await self._parts.engine.call("pause" if paused else "unpause", container.id)
        self._parts.inventory.touch(container.id)
        return await self._parts.view.loop(await self.find(loop.conversation_id, loop.owner))

    async def close(self, loop: Loop, *, remove: bool) -> Closed:
        """Stop the loop from any state."""
        return await self.closer.close(await self.find(loop.conversation_id, loop.owner), remove=remove)
