"""Drives one legacy OpenHands server over its HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue, SecretStr

from loopnest import Control, Conversation, Event, Message, NestedError, RawEvent, StartLoop
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place, Program
from loopnest_nested.dialects.openhands_v0 import agent
from loopnest_nested.dialects.openhands_v0.creation import creation, secrets_in, settings_of, tokens_of
from loopnest_nested.dialects.openhands_v0.mailbox import Mailboxes
from loopnest_nested.dialects.openhands_v0.patience import ask
from loopnest_nested.redaction import secrets_of
from loopnest_nested.session_keys import Keys

_MANAGER: Final = "openhands.server.conversation_manager.standalone_conversation_manager.StandaloneConversationManager"
_STATES: Final = {"run": "running", "pause": "paused", "interrupt": "stopped"}
#: Seconds between two looks for new events: the first after an event, the longest while nothing happens.
_FIRST_LOOK, _LONGEST_LOOK = 0.2, 1.0


class OpenHandsV0:
    """The dialect ``openhands-v0``, tried with openhands-ai 1.6.0."""

    name = "openhands-v0"
    # It needs more than its distributions: see the Dockerfile.
    program = Program(
        version="1.6.0",
        image_context=Path(__file__).parent / "image-context",
        version_argument="OPENHANDS_VERSION",
    )

    def __init__(self) -> None:
        self._mailboxes = Mailboxes()

    def command(self, host: str, port: int) -> Sequence[str]:  # noqa: ARG002 - the environment says which
        """The command line of the server, without the Python interpreter; it listens on all addresses."""
        return ("-m", "openhands.server")

    def environment(self, place: Place, port: int) -> Mapping[str, str]:
        """Run the agent where the server is, for one conversation that is never closed for being idle."""
        return {
            "port": str(port),
            "CONVERSATION_MANAGER_CLASS": _MANAGER,
            "ALLOW_SET_CONVERSATION_ID": "1",
            "SANDBOX_CLOSE_DELAY": "0",
            "RUNTIME": "local",
            "WORKSPACE_BASE": place.workspace,
            "FILE_STORE": "local",
            "FILE_STORE_PATH": place.data,
            "SKIP_DEPENDENCY_CHECK": "1",
            "SERVE_FRONTEND": "0",
            "ENABLE_V1": "0",
            "ENABLE_BROWSER": "false",  # without Chromium in the image the server would never be ready
            "DISABLE_VSCODE_PLUGIN": "true",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # fetched at import otherwise, with seconds of retries offline
            "PYTHONUNBUFFERED": "1",  # or a crash takes the last log lines with it
        }

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        """The key that clients show, and the one that the server signs with."""
        return {"SESSION_API_KEY": keys.session, "JWT_SECRET": keys.at_rest}

    def nested_id(self, conversation_id: str) -> str:
        """The server takes any id."""
        return conversation_id

    async def alive(self, server: NestedServer) -> bool:
        """Whether the server answers and accepts requests; False while it boots."""
        try:
            return (await server.respond("GET", "/alive", timeout=2)).status_code == 200
        except NestedError:
            return False

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:  # noqa: ARG002
        """Create the conversation with all that the request says, or resume the one that exists.

        ``settings`` is the flat ``Settings`` of the server's ``POST /api/settings``. A stopped conversation is
        resumed with the request's model, tokens and new secrets where it has any, as the old ones may have expired.

        Raises:
            NestedError: the server refused.
        """
        conversation = request.conversation or Conversation()
        server, path = server.hiding(secrets_of(request)), _path(request.conversation_id)
        known = await agent.conversation(server, path)
        if known and known.get("status") in {"STARTING", "RUNNING"}:
            return
        create = known is None or await _is_owed_its_beginning(server, path, conversation)
        body = creation(request.conversation_id, conversation) if create else {}
        await _configure(server, conversation)
        if create:
            await ask(server, "POST", "/api/conversations", json=body)
        else:
            await agent.resume(server, path, tuple(conversation.provider_tokens))

    def store(self, place: Place, conversation_id: str) -> str:
        """The conversation's events; its directory may be a mount that exists before the conversation."""
        return f"{place.data}/sessions/{conversation_id}/events"

    async def has_conversation(self, server: NestedServer, conversation_id: str) -> bool:
        """Whether the server has the conversation; also where it is stopped inside a server that runs."""
        return await agent.conversation(server, _path(conversation_id)) is not None

    async def agent_status(self, server: NestedServer, conversation_id: str | None) -> str | None:
        """What the agent does (``loading``, ``running``, ``awaiting_user_input``, ``paused``, ``error``, ...).

        None also where the conversation is stopped inside a server that runs. Of a bare loop, ``ready``.
        """
        if conversation_id is None:
            return "ready" if await self.alive(server) else None
        return await agent.state(server, _path(conversation_id))

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        """Deliver an event once the agent listens; all those of one conversation one by one.

        Within the server's rate limit, which it keeps by answering late: ten a second.
        """
        path = _path(conversation_id)
        return await self._mailboxes.of(server, path).deliver(server, path, _payload(event))

    async def quiesce(self, server: NestedServer, conversation_id: str | None) -> None:
        """Stop the conversation, which stores the agent's state; a bare loop has nothing to store."""
        if conversation_id is not None:
            await ask(server, "POST", f"{_path(conversation_id)}/stop")

    async def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        """The conversation's events so far, oldest first, and with ``follow`` all further ones until cancelled.

        Raises:
            NestedError: the server has no such conversation, or can't be asked (any more).
        """
        path, begin, pause = f"{_path(conversation_id)}/events", 0, _FIRST_LOOK
        while True:
            page: Any = await ask(server, "GET", path, params={"start_id": begin, "limit": 100})
            for event in page["events"]:
                yield event
                begin = event["id"] + 1
            if page["has_more"]:
                continue
            if not follow:
                return
            pause = _FIRST_LOOK if page["events"] else min(pause * 1.5, _LONGEST_LOOK)
            await asyncio.sleep(pause)


def _path(conversation_id: str) -> str:
    return f"/api/conversations/{conversation_id}"


def _payload(event: Event) -> dict[str, Any]:
    if isinstance(event, RawEvent):
        return event.payload
    if isinstance(event, Control):
        return {"action": "change_agent_state", "args": {"agent_state": _STATES[event.action]}}
    return _message(event)


def _message(given: Message) -> dict[str, Any]:
    if not given.run:
        raise NestedError("The legacy server starts its agent with every message: 'run' can't be false.")
    return {"action": "message", "args": {"content": given.text, "image_urls": list(given.image_urls)}}


async def _is_owed_its_beginning(server: NestedServer, path: str, conversation: Conversation) -> bool:
    """Whether a stopped conversation never got its first message, because the server died while the agent loaded."""
    if conversation.initial_message is None and conversation.replay is None:
        return False
    page: Any = await ask(server, "GET", f"{path}/events", params={"limit": 100})
    return not any(it.get("source") == "user" and it.get("action") == "message" for it in page["events"])


async def _configure(server: NestedServer, conversation: Conversation) -> None:
    """Tell the server what it needs before a conversation starts; all of it may be repeated."""
    if settings := settings_of(conversation):
        await ask(server, "POST", "/api/settings", json=settings)
    if tokens := tokens_of(conversation):
        await ask(server, "POST", "/api/add-git-providers", json=tokens)
    for secret in secrets_in(conversation):
        await _store(server, secret)


async def _store(server: NestedServer, secret: Mapping[str, Any]) -> None:
    try:
        await ask(server, "POST", "/api/secrets", json=secret)
    except NestedError as error:
        if error.http_status != 400 or "already exists" not in error.message:
            raise
