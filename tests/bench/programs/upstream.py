"""DockerNestedConversationManager of openhands-ai 1.6.0."""

from __future__ import annotations

import asyncio

import openhands.agenthub  # noqa: F401 - registers the agents
import socketio
from openhands.core.config import OpenHandsConfig
from openhands.server.conversation_manager.docker_nested_conversation_manager import DockerNestedConversationManager
from openhands.server.shared import server_config
from openhands.storage import get_file_store
from openhands.storage.data_models.settings import Settings
from pydantic import SecretStr

import docker
from bench.programs import line

SETTINGS = Settings(
    agent="CodeActAgent", llm_model="openai/gpt-4o", llm_api_key=SecretStr("sk-none"), llm_base_url="http://127.0.0.1:9"
)


class Driver:
    """One manager, with a limit on conversations that is never met."""

    async def open(self, store: str, image: str | None = None, engine: str | None = None) -> None:
        config = OpenHandsConfig()
        config.runtime, config.run_as_openhands, config.enable_browser = "docker", False, False
        config.file_store, config.file_store_path = "local", store
        config.jwt_secret = SecretStr("a secret of the benchmark")
        config.max_concurrent_conversations = 1_000_000
        config.sandbox.runtime_container_image = image
        client = docker.DockerClient(base_url=engine) if engine else docker.from_env()
        self._manager = DockerNestedConversationManager(
            sio=socketio.AsyncServer(async_mode="asgi"),
            config=config,
            server_config=server_config,
            file_store=get_file_store("local", store),
            docker_client=client,
        )

    async def list(self) -> int:
        return len(await self._manager.get_running_agent_loops())

    async def info(self) -> int:
        return len(await self._manager.get_agent_loop_info())

    async def get(self, key: str) -> bool:
        return await self._manager.is_agent_loop_running(key)

    async def start(self, key: str) -> str:
        """Until the conversation is created, which goes on behind the answer."""
        info = await self._manager.maybe_start_agent_loop(key, SETTINGS, None)
        while key in self._manager._starting_conversation_ids:
            await asyncio.sleep(0.005)
        return str(info.status)

    async def send(self, key: str) -> None:
        await self._manager.send_event_to_conversation(key, {"action": "message", "args": {"content": "Good morning"}})

    async def close(self, key: str) -> None:
        await self._manager.close_session(key)


if __name__ == "__main__":
    line.run(Driver)
