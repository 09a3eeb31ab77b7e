"""Bring loops up and down."""

from __future__ import annotations

import asyncio

from loopnest import Closed, Loop, LoopFailed, LoopNotFound, LoopStatus, NestedError, Reason, StartLoop
from loopnest_docker.closing import Closer
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

    async def find(self, conversation_id: str, owner: str | None = None) -> Facts:
        """Return the container of a conversation; ``owner`` None means whoever's.

        Raises:
            LoopNotFound: there is none, or it is somebody else's.
        """
        containers = await self._parts.inventory.of(conversation_id)
        if containers and owner in (None, containers[0].loop.owner):
            return containers[0]
        raise LoopNotFound(conversation_id)

    async def start(self, request: StartLoop, owner: str) -> Loop:
        """Bring the loop up from whatever state it is in.

        Raises:
            LoopNotFound: the conversation is somebody else's.
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

    async def awake(self, conversation_id: str) -> Facts:
        """Return the container of a loop that runs, starting a stopped one again where the settings say so.

        Raises:
            LoopFailed: it is still starting, or stopped and not to be started, or could not be.
        """
        container = await self.find(conversation_id)
        if self._parts.view.is_ready(container):
            return container
        if container.up:
            loop = await self._parts.view.loop(container)
            if loop.status is LoopStatus.STARTING:
                raise LoopFailed(
                    loop.message or "The loop is still starting.", reason=loop.reason or Reason.NOT_RUNNING
                )
            return container
        if not self._parts.settings.restart_on_send:
            raise LoopFailed(
                f"The loop is {container.state}, and 'loopnest.docker.restart_on_send' is off.",
                reason=Reason.NOT_RUNNING,
            )
        await self.start(StartLoop(conversation_id=conversation_id), container.loop.owner)
        return await self.find(conversation_id)

    async def close(self, conversation_id: str, *, remove: bool) -> Closed:
        """Stop the loop from any state."""
        return await self.closer.close(await self.find(conversation_id), remove=remove)
