"""Stop a loop's container: gracefully, then by force, and always within a limit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Iterator
from typing import Any

from docker.errors import APIError, NotFound

import docker
from loopnest import Closed
from loopnest_docker import stop_request
from loopnest_docker.engine import EngineConflict, NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.parts import Parts
from loopnest_nested.ending import is_clean, was_killed
from loopnest_nested.quiescing import UNREACHABLE, quiesce

_log = logging.getLogger(__name__)


class Closer:
    """Ends containers, and knows which ends are its own doing."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._expected: dict[str, object] = {}

    def expects(self, container: Facts) -> bool:
        """Whether this process is ending the container itself."""
        return container.id in self._expected

    def started(self, container_id: str) -> None:
        """Note that the container runs again: its next end is not one that was expected before."""
        self._expected.pop(container_id, None)

    async def close(self, container: Facts, *, remove: bool) -> Closed:
        """Ask the agent to stop, stop the container, and remove it where asked to; then say what happened."""
        with self._expecting(container):
            closed = await self._discard_created(container) or await self._stop(container)
            if remove and not closed.removed:
                await self.remove(container)
            return closed.model_copy(update={"removed": remove or closed.removed})

    async def remove(self, container: Facts, *, force: bool = True) -> bool:
        """Remove the container and its anonymous volumes.

        Args:
            force: also where it runs. A container that is gone, or being removed, counts as removed.

        Returns:
            Whether it was removed. False only without ``force``: it runs, or another process is removing it.
        """
        with self._expecting(container):
            try:
                await self._parts.engine.call("remove_container", container.id, force=force, v=True)
            except NotOnEngine:
                pass
            except EngineConflict:
                if not force:
                    return False
            finally:
                self._parts.inventory.touch(container.id)
        self._parts.view.forget(container)
        self._parts.requested.forget(container.loop.conversation_id)
        return True

    async def stop(self, container: Facts, *, seconds: float) -> None:
        """Stop the container's process, by force after ``seconds``; a process that has ended is left as it is."""
        limit = math.ceil(seconds)

        def work(client: docker.APIClient) -> None:
            """In one piece, so that no cancellation leaves a noted request without its stop."""
            state = client.inspect_container(container.id)["State"]
            if state["Running"]:
                _note(client, container.id, state)
            client.stop(container.id, timeout=limit)

        with self._expecting(container), contextlib.suppress(NotOnEngine):
            await self._parts.engine.run(work, limit=limit + self._parts.settings.engine.timeout)
        self._parts.view.forget(container)
        self._parts.inventory.touch(container.id)

    async def _discard_created(self, container: Facts) -> Closed | None:
        """Remove a container that never ran, which ends the start that made it; None where it ran or runs by now."""
        if container.state == "created" and await self.remove(container, force=False):
            return Closed(conversation_id=container.loop.conversation_id, removed=True)
        return None

    async def _stop(self, container: Facts) -> Closed:
        conversation_id = container.loop.conversation_id
        if container.down:
            await self._note_request(container)
            return Closed(conversation_id=conversation_id, already=True, exit_code=container.exit_code)
        trouble = await self._quiesce(container)
        await self.stop(container, seconds=self._parts.settings.close_timeout)
        now = (await self._parts.inventory.all()).get(container.id)
        code = now.exit_code if now else None
        graceful = trouble is None and not was_killed(code)
        return Closed(conversation_id=conversation_id, graceful=graceful, exit_code=code, message=trouble)

    async def _note_request(self, container: Facts) -> None:
        """Have a loop that failed listed as stopped, as its owner has closed it."""
        if container.down and not is_clean(container.exit_code):
            with contextlib.suppress(NotOnEngine):
                await self._parts.engine.run(
                    lambda client: _note(client, container.id, client.inspect_container(container.id)["State"])
                )
            self._parts.view.forget(container)

    async def _quiesce(self, container: Facts) -> str | None:
        """Ask the agent to stop; return what went wrong with that, which never keeps the container running."""
        if container.state == "paused":  # a frozen process can't end when asked to
            with contextlib.suppress(EngineConflict, NotOnEngine):
                await self._parts.engine.call("unpause", container.id)
            return None
        server = self._parts.view.server(container)
        if server is None or self._parts.view.foreign(container):
            return UNREACHABLE
        limit = self._parts.settings.close_timeout
        return await quiesce(self._parts.dialect, server, container.conversation, limit)

    @contextlib.contextmanager
    def _expecting(self, container: Facts) -> Iterator[None]:
        token = self._expected[container.id] = object()
        try:
            yield
        finally:
            # The engine's event comes a moment after the call that caused it.
            asyncio.get_running_loop().call_later(5, self._forget, container.id, token)

    def _forget(self, container_id: str, token: object) -> None:
        if self._expected.get(container_id) is token:
            del self._expected[container_id]


def _note(client: docker.APIClient, container_id: str, state: dict[str, Any]) -> None:
    """Note the request; a stop that can't be noted, as on a full disk, is a stop all the same."""
    try:
        stop_request.note(client, container_id, state)
    except NotFound:
        raise
    except APIError as error:
        _log.warning("The request to stop %s could not be noted: %s", container_id[:12], error.explanation)
