"""Short-lived containers of our own: they do on the engine's machine what its API can't."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from loopnest_docker import naming
from loopnest_docker.engine import Engine, EngineConflict, NotOnEngine, complete

#: Seconds that one may run.
_TIMEOUT: Final = 30


class Helpers:
    """Runs the helper containers of one namespace and removes them, also those that a killed process left."""

    def __init__(self, engine: Engine, namespace: str) -> None:
        self._engine, self._namespace = engine, namespace

    async def run(self, body: dict[str, Any]) -> tuple[int, str]:
        """Create, start and remove a container; return its exit code and output.

        Raises:
            EngineError: it could not be created or started, or did not end.
        """
        async with self._created(body) as container_id:
            await self._engine.call("start", container_id)
            ended = await self._engine.call("wait", container_id, timeout=_TIMEOUT)
            output: bytes = await self._engine.call("logs", container_id)
            return int(ended["StatusCode"]), output.decode(errors="replace")

    async def create(self, body: dict[str, Any]) -> None:
        """Create and remove a container without starting it.

        Raises:
            EngineError: the engine refused, for example because the source of a mount is missing.
        """
        async with self._created(body):
            pass

    async def remove_old(self, age: float = 2 * _TIMEOUT) -> None:
        """Remove helpers that a killed process left: those created more than ``age`` seconds ago."""
        labels = [f"{naming.NAMESPACE}={self._namespace}", f"{naming.ROLE}={naming.HELPER}"]
        for helper in await self._engine.call("containers", all=True, filters={"label": labels}):
            if self._engine.now().timestamp() - helper["Created"] >= age:
                await self._remove(helper["Id"])

    @contextlib.asynccontextmanager
    async def _created(self, body: dict[str, Any]) -> Any:
        labels = {naming.NAMESPACE: self._namespace, naming.ROLE: naming.HELPER}
        made: list[dict[str, str]] = []
        try:
            create = self._engine.call("create_container_from_config", {**body, "Labels": labels})
            await complete(create, made.append)
            yield made[0]["Id"]
        finally:
            for container in made:
                await asyncio.shield(self._remove(container["Id"]))

    async def _remove(self, container_id: str) -> None:
        with contextlib.suppress(NotOnEngine, EngineConflict):  # another process was faster
            await self._engine.call("remove_container", container_id, force=True, v=True)
