"""loopnest with the Docker strategy."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from bench.programs import line
from loopnest import EVERYONE, Conversation, Llm, LoopManager, LoopnestSettings, LoopQuery, Message, StartLoop
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings

LLM = Llm(model="openai/gpt-4o", api_key="sk-none", base_url="http://127.0.0.1:9/v1")


class Driver:
    """One manager; opened again for another engine address or other settings."""

    def __init__(self) -> None:
        self._loops: LoopManager | None = None

    async def open(self, namespace: str, secret: str, state: str, docker: dict[str, Any]) -> None:
        await self.shut()
        settings = LoopnestSettings(namespace=namespace, secret=secret, state_dir=Path(state))
        self._strategy = DockerStrategy(DockerSettings(**docker))
        self._loops = LoopManager.from_plugins(self._strategy, settings=settings)
        await self._loops.__aenter__()

    async def shut(self) -> None:
        if self._loops:
            await self._loops.aclose()
            self._loops = None

    async def nothing(self, seconds: float) -> None:
        """What the machine does to an event loop that has nothing to do."""
        await asyncio.sleep(seconds)

    async def list(self, probe: bool = False) -> int:
        return len(await self._loops.list_loops(LoopQuery(user_id=EVERYONE, probe=probe)))

    async def keys(self) -> Any:
        return [loop.conversation_id for loop in await self._loops.list_loops(LoopQuery(user_id=EVERYONE))]

    async def get(self, key: str) -> str:
        return str((await self._loops.get_loop(key)).status)

    async def start(self, key: str, cold: bool = False) -> str | None:
        """With ``cold``, pass the pool by: a variable of one's own can't be given to a container that runs."""
        environment = {"OF_THIS_LOOP": SecretStr("1")} if cold else {}
        request = StartLoop(conversation_id=key, conversation=Conversation(llm=LLM), environment=environment)
        return (await self._loops.start_loop(request)).origin

    async def send(self, key: str) -> None:
        await self._loops.send_event(key, Message(text="Good morning", run=False))

    async def close(self, key: str, remove: bool = False) -> bool:
        return (await self._loops.close_session(key, remove=remove)).graceful

    async def server(self, key: str) -> dict[str, str]:
        """Where the nested server is, and its conversation's path there."""
        loop = await self._loops.get_loop(key)
        path = f"{loop.url}/api/conversations/{loop.nested_id}"
        return {"url": path, "key": loop.session_key.get_secret_value()}

    async def pooled(self, size: int) -> None:
        """Return when so many containers wait in the pool."""
        while len(await self._strategy._parts.inventory.slots("token")) < size:
            await asyncio.sleep(0.05)


if __name__ == "__main__":
    line.run(Driver)
