"""The agent server's own Docker mode (DockerConversationRegistry), or loopnest in its place, as a served application.

Requests are made to the application in this process, without a socket: its network costs it nothing.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

import httpx

from bench.programs import line

KEY = "outer-key"


class Driver:
    """Configured by the environment, as the servers are."""

    async def open(self) -> None:
        app = self._application()
        self._lifespan = app.router.lifespan_context(app)
        await self._lifespan.__aenter__()
        transport = httpx.ASGITransport(app=app)
        headers = {"X-Session-API-Key": KEY}
        self._http = httpx.AsyncClient(transport=transport, base_url="http://outer", headers=headers, timeout=300)

    def _application(self) -> Any:
        if "--loopnest" in sys.argv:
            from loopnest_openhands.agent_server import app

            return app()
        from openhands.agent_server.api import create_app
        from openhands.agent_server.config import get_default_config

        return create_app(get_default_config())

    async def start(self, key: str, body: dict[str, Any]) -> str:
        answer = await self._http.post("/api/conversations", json={**body, "conversation_id": key})
        return str(self._checked(answer).json()["id"])

    async def send(self, key: str, event: dict[str, Any]) -> None:
        self._checked(await self._http.post(f"/api/conversations/{key}/events", json=event))

    async def proxied(self, key: str) -> None:
        self._checked(await self._http.get(f"/api/conversations/{key}/agent_final_response"))

    async def close(self, key: str) -> None:
        self._checked(await self._http.delete(f"/api/conversations/{key}/runtime"))

    async def remove(self, key: str) -> None:
        self._checked(await self._http.delete(f"/api/conversations/{uuid.UUID(key)}"))

    async def shut(self) -> None:
        await self._lifespan.__aexit__(None, None, None)

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        if not answer.is_success:
            raise RuntimeError(f"{answer.status_code}: {answer.text[:500]}")
        return answer


if __name__ == "__main__":
    line.run(Driver)
