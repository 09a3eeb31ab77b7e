"""The physical floor: the least that any program must do, with nothing around it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from bench.programs import line

API = "http://engine/v1.41"
EVENT = {"role": "user", "content": [{"type": "text", "text": "Good morning"}], "run": False}


class Driver:
    """The Engine API and the nested server's, over two pooled clients."""

    async def open(self, socket: str) -> None:
        self._engine = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=socket), base_url=API, timeout=120)
        self._http = httpx.AsyncClient(timeout=60, trust_env=False)
        self._servers: dict[str, tuple[str, str]] = {}

    async def start(self, key: str, image: str, environment: dict[str, str], memory: int) -> None:
        """Create and start a container, and wait until its server has imported itself."""
        body = {
            "Image": image,
            "Env": [f"{name}={value}" for name, value in environment.items()],
            "ExposedPorts": {"8000/tcp": {}},
            "Labels": {"dev.loopnest.bench": "floor"},
            "HostConfig": {
                "PortBindings": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}]},
                "Init": True,  # or TERM may not reach the server, and the stop takes its full limit
                "Memory": memory,
                "NanoCpus": 2_000_000_000,
            },
        }
        created = await self._engine.post("/containers/create", params={"name": key}, json=body)
        container = created.raise_for_status().json()["Id"]
        (await self._engine.post(f"/containers/{container}/start")).raise_for_status()
        found = (await self._engine.get(f"/containers/{container}/json")).json()
        url = f"http://127.0.0.1:{found['NetworkSettings']['Ports']['8000/tcp'][0]['HostPort']}"
        self._servers[key] = (container, url)
        while not await self._ready(url):
            await asyncio.sleep(0.005)

    async def _ready(self, url: str) -> bool:
        try:
            return (await self._http.get(f"{url}/ready")).status_code == 200
        except httpx.TransportError:
            return False

    async def converse(self, key: str, session_key: str, body: dict[str, Any]) -> None:
        """Create a conversation."""
        headers = {"X-Session-API-Key": session_key}
        answer = await self._http.post(f"{self._servers[key][1]}/api/conversations", json=body, headers=headers)
        answer.raise_for_status()

    async def close(self, key: str, session_key: str, conversation: str) -> None:
        """The nested server's own stop, then the engine's."""
        container, url = self._servers[key]
        headers = {"X-Session-API-Key": session_key}
        (await self._http.post(f"{url}/api/conversations/{conversation}/pause", headers=headers)).raise_for_status()
        (await self._engine.post(f"/containers/{container}/stop", params={"t": 10})).raise_for_status()

    async def remove(self, key: str) -> None:
        await self._engine.delete(f"/containers/{self._servers.pop(key)[0]}", params={"force": True, "v": True})

    async def send(self, url: str, key: str) -> None:
        """A bare pooled POST."""
        (await self._http.post(f"{url}/events", json=EVENT, headers={"X-Session-API-Key": key})).raise_for_status()

    async def get(self, url: str, key: str) -> None:
        """A bare pooled GET."""
        (await self._http.get(url, headers={"X-Session-API-Key": key})).raise_for_status()


if __name__ == "__main__":
    line.run(Driver)
