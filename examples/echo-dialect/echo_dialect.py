"""A whole dialect: how to start and drive ``echo_server``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from pydantic import JsonValue, SecretStr

from loopnest import Event, Message, NestedError, StartLoop
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place, Program
from loopnest_nested.session_keys import Keys


class Echo:
    """Drives servers that echo."""

    name = "echo"
    program = Program(version="0.1.0", module="echo_server")

    def command(self, host: str, port: int) -> Sequence[str]:
        return ["-m", "echo_server", host, str(port)]

    def environment(self, place: Place, port: int) -> Mapping[str, str]:
        return {"ECHO_DATA": place.data}

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        return {"ECHO_KEY": keys.session}

    def nested_id(self, conversation_id: str) -> str:
        return conversation_id

    async def alive(self, server: NestedServer) -> bool:
        try:
            return (await server.respond("GET", "/", timeout=2)).is_success
        except NestedError:
            return False

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:
        if await self.has_conversation(server, request.conversation_id):
            return
        await server.request("PUT", f"/{request.conversation_id}")
        if request.conversation and request.conversation.initial_message:
            await self.send(server, request.conversation_id, request.conversation.initial_message)

    def store(self, place: Place, conversation_id: str) -> str:
        return f"{place.data}/conversations"

    async def has_conversation(self, server: NestedServer, conversation_id: str) -> bool:
        response = await server.respond("GET", f"/{conversation_id}")
        if response.status_code not in (200, 404):
            raise server.refusal(response)
        return response.is_success

    async def agent_status(self, server: NestedServer, conversation_id: str | None) -> str | None:
        if conversation_id is None:
            return "ready" if await self.alive(server) else None
        return "idle" if await self.has_conversation(server, conversation_id) else None

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        if not isinstance(event, Message):
            raise NestedError("The echo server takes messages only.")
        return await server.request("POST", f"/{conversation_id}", json=event.text)

    async def quiesce(self, server: NestedServer, conversation_id: str | None) -> None:
        """Its agent never works."""

    async def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        for text in await server.request("GET", f"/{conversation_id}"):
            yield {"text": text}
