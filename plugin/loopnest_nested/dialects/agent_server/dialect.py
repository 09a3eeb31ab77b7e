"""Drives one openhands-agent-server over its HTTP API."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from pydantic import JsonValue, SecretStr

from loopnest import Control, Event, Message, NestedError, RawEvent, StartLoop
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place
from loopnest_nested.session_keys import Keys

#: Fixed for ever: conversations that exist are found by the ids derived from it.
_NAMESPACE: Final = uuid.UUID("6f2d8f4e-1c0b-5b7e-9a51-0d6c3b1f8e27")


class AgentServer:
    """The dialect ``agent-server``."""

    name = "agent-server"

    def command(self, host: str, port: int) -> Sequence[str]:
        return ("-m", "openhands.agent_server", "--host", host, "--port", str(port))

    def environment(self, place: Place, port: int) -> Mapping[str, str]:
        return {
            "OH_CONVERSATIONS_PATH": f"{place.data}/conversations",
            "OH_PERSISTENCE_DIR": f"{place.data}/settings",
            "OH_BASH_EVENTS_DIR": f"{place.data}/bash_events",
            "OH_WORKSPACE_PATH": place.workspace,
            "OPENHANDS_AGENT_SERVER_CONFIG_PATH": f"{place.data}/agent-server.json",
            "OH_ENABLE_VSCODE": "0",
            "OH_PRELOAD_TOOLS": "0",
            "OH_ENABLE_BROWSER": "0",
            "OH_LEASE_TTL_SECONDS": "0",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "OPENHANDS_SUPPRESS_BANNER": "1",
        }

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        return {"OH_SESSION_API_KEYS_0": keys.session, "OH_SECRET_KEY": keys.at_rest}

    def nested_id(self, conversation_id: str) -> str:
        try:
            return str(uuid.UUID(conversation_id))
        except ValueError:
            return str(uuid.uuid5(_NAMESPACE, conversation_id))

    async def alive(self, server: NestedServer) -> bool:
        try:
            return (await server.respond("GET", "/ready", timeout=2)).status_code == 200
        except NestedError:
            return False

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:
        if await self.agent_status(server, request.conversation_id) is not None:
            return
        agent: dict[str, Any] = {"kind": "Agent", "tools": [{"name": "terminal"}, {"name": "file_editor"}]}
        if request.llm:
            agent["llm"] = {"model": request.llm.model, "base_url": request.llm.base_url, "usage_id": "agent"}
            if request.llm.api_key:
                agent["llm"]["api_key"] = request.llm.api_key.get_secret_value()
        body: dict[str, Any] = {
            "conversation_id": self.nested_id(request.conversation_id),
            "agent": agent,
            "workspace": {"kind": "LocalWorkspace", "working_dir": place.workspace},
            "autotitle": False,
        }
        if request.initial_message:
            body["initial_message"] = _message(request.initial_message)
        await server.request("POST", "/api/conversations", json=body)

    async def agent_status(self, server: NestedServer, conversation_id: str) -> str | None:
        try:
            info = await server.request("GET", self._path(conversation_id))
        except NestedError as error:
            if error.http_status == 404:
                return None
            raise
        return str(info["execution_status"]) if isinstance(info, dict) else None

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        path = self._path(conversation_id)
        if isinstance(event, Control):
            return await server.request("POST", f"{path}/{event.action}")
        payload = event.payload if isinstance(event, RawEvent) else _message(event)
        return await server.request("POST", f"{path}/events", json=payload)

    async def quiesce(self, server: NestedServer, conversation_id: str) -> None:
        await server.request("POST", f"{self._path(conversation_id)}/pause")

    async def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        page_id: str | None = None
        while True:
            params = {"limit": 100} | ({"page_id": page_id} if page_id else {})
            page: Any = await server.request("GET", f"{self._path(conversation_id)}/events/search", params=params)
            for item in page["items"]:
                yield item
            page_id = page["next_page_id"]
            if not page_id:
                return

    def _path(self, conversation_id: str) -> str:
        return f"/api/conversations/{self.nested_id(conversation_id)}"


def _message(message: Message) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": message.text}]
    if message.image_urls:
        content.append({"type": "image", "image_urls": list(message.image_urls)})
    return {"role": "user", "content": content, "run": message.run}
