"""Drives one openhands-agent-server over its HTTP API."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx
import tenacity
from pydantic import JsonValue, SecretStr

from loopnest import Control, Conversation, Event, NestedError, RawEvent, Reason, StartLoop
from loopnest.aio import limited
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place, Program
from loopnest_nested.dialects.agent_server import history
from loopnest_nested.dialects.agent_server.checkout import check_out
from loopnest_nested.dialects.agent_server.creation import creation, message
from loopnest_nested.redaction import secrets_of
from loopnest_nested.session_keys import Keys

_T = TypeVar("_T")

#: Fixed for ever: conversations that exist are found by the ids derived from it.
_NAMESPACE: Final = uuid.UUID("6f2d8f4e-1c0b-5b7e-9a51-0d6c3b1f8e27")
_RUNNING: Final = "running"
#: Seconds for a new conversation: a fraction of one, but many on a machine that is starved.
_CREATE_LIMIT: Final = 120.0
#: Seconds for an event: the server takes it between two steps of the agent, and a step lasts as long as its tool. The
#: message is taken also where the client gave up waiting, so one that was given up must not be sent again.
_SEND_LIMIT: Final = 840.0
#: Seconds for the agent to end its step before it is interrupted, and then for the interruption.
_GRACE: Final = 2.0
_INTERRUPT_LIMIT: Final = 10.0


class AgentServer:
    """The dialect ``agent-server``, tried with openhands-agent-server 1.34 and 1.58.

    Where several processes create one conversation at the same moment, 1.58 makes one of it and takes the first
    message once; 1.34 takes it from each of them.
    """

    name = "agent-server"
    program = Program(
        version="1.58.0",
        module="openhands.agent_server",
        distributions=("openhands-agent-server", "openhands-sdk", "openhands-tools"),
        python=(3, 12),
        image_context=Path(__file__).parent / "image-context",
        version_argument="AGENT_SERVER_VERSION",
    )

    def command(self, host: str, port: int) -> Sequence[str]:
        """The command line of the server, without the Python interpreter."""
        return ("-m", "openhands.agent_server", "--host", host, "--port", str(port))

    def environment(self, place: Place, port: int) -> Mapping[str, str]:  # noqa: ARG002 - other dialects need the port
        """Keep all files where they belong, fetch nothing, and leave out what an agent alone does not need."""
        return {
            "OH_CONVERSATIONS_PATH": f"{place.data}/conversations",
            "OH_PERSISTENCE_DIR": f"{place.data}/settings",
            "OH_BASH_EVENTS_DIR": f"{place.data}/bash_events",
            "OH_WORKSPACE_PATH": place.workspace,
            # A path that can't exist, as the agent can write wherever the server can, and a file that can't be read
            # keeps the server from starting.
            "OPENHANDS_AGENT_SERVER_CONFIG_PATH": "/dev/null/agent-server.json",
            "OH_ENABLE_VSCODE": "0",
            "OH_PRELOAD_TOOLS": "0",
            "OH_ENABLE_BROWSER": "0",
            # No other server uses a loop's files, so after a crash there is none to wait for (45 s by default).
            "OH_LEASE_TTL_SECONDS": "0",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # fetched at import otherwise, with seconds of retries offline
            "OPENHANDS_SUPPRESS_BANNER": "1",
            "PYTHONUNBUFFERED": "1",  # or a crash takes the last log lines with it
        }

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        """The key that clients show, and the one that stored secrets survive a restart with."""
        return {"OH_SESSION_API_KEYS_0": keys.session, "OH_SECRET_KEY": keys.at_rest}

    def nested_id(self, conversation_id: str) -> str:
        """The server takes UUIDs only: an id that is one stays itself, any other gets one that follows from it."""
        try:
            return str(uuid.UUID(conversation_id))
        except ValueError:
            return str(uuid.uuid5(_NAMESPACE, conversation_id))

    async def alive(self, server: NestedServer) -> bool:
        """Whether the server answers and accepts requests; False while it boots."""
        try:
            return (await server.respond("GET", "/ready", timeout=2)).status_code == 200
        except NestedError:
            return False

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:
        """Create the conversation with all that the request says, or resume the one that exists.

        ``settings`` is merged over the body of the server's ``POST /api/conversations``. Custom secrets, and
        provider tokens (``GITHUB_TOKEN``, ...), are variables of the agent's terminal for commands that name them.

        Raises:
            NestedError: the server refused; ``clone-failed``: the repository could not be cloned.
        """
        conversation = request.conversation or Conversation()
        server = server.hiding(secrets_of(request))
        if await self._exists(server, request.conversation_id):
            return
        if conversation.replay is not None:
            raise NestedError("The agent server can't play recorded events back: start without 'replay'.")
        directory = await check_out(server, conversation, place)
        body = creation(request, self.nested_id(request.conversation_id), directory, await _usable_tools(server))
        created = await self._create(server, body)
        if created and conversation.initial_message and not conversation.initial_message.run:
            await self.send(server, request.conversation_id, conversation.initial_message)

    def store(self, place: Place, conversation_id: str) -> str:  # noqa: ARG002 - a loop has one conversation and its forks
        """The directory of all conversations of the loop."""
        return f"{place.data}/conversations"

    async def has_conversation(self, server: NestedServer, conversation_id: str) -> bool:
        """Whether the server has the conversation."""
        return await _status(server, self._path(conversation_id)) is not None

    async def agent_status(self, server: NestedServer, conversation_id: str | None) -> str | None:
        """What the agent does (``idle``, ``running``, ``paused``, ``finished``, ``error``, ...).

        Of a bare loop, ``ready``; None while it is not.
        """
        if conversation_id is None:
            return "ready" if await self.alive(server) else None
        return await _status(server, self._path(conversation_id))

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        """Deliver an event. Asking an agent to run that runs already is no error."""
        path = self._path(conversation_id)
        if isinstance(event, Control) and event.action == "run":
            return await _run(server, path)
        if isinstance(event, Control):
            return await server.request("POST", f"{path}/{event.action}", timeout=_SEND_LIMIT)
        payload = event.payload if isinstance(event, RawEvent) else message(event)
        try:
            return await server.request("POST", f"{path}/events", json=payload, timeout=_SEND_LIMIT)
        except NestedError as error:
            if error.http_status == 429:  # it has the message, but runs as many agents as it may
                return await _run(server, path)
            if error.reason == Reason.NESTED_TIMEOUT:
                raise _undecided(error) from error
            raise

    async def quiesce(self, server: NestedServer, conversation_id: str | None) -> None:
        """Let the agent end its step, or interrupt it after 2 seconds; either way it can go on later."""
        if conversation_id is not None:
            await _quiesce(server, self._path(conversation_id))
            return
        response = await server.respond("GET", "/api/conversations/search", params={"status": _RUNNING})
        ids = _read(server, response, lambda page: [item["id"] for item in page["items"]])
        await asyncio.gather(*(_quiesce(server, f"/api/conversations/{nested_id}") for nested_id in ids))

    def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        """The conversation's events so far, oldest first, and with ``follow`` all further ones until cancelled.

        Each comes once, also where the connection is lost in between.

        Raises:
            NestedError: the server has no such conversation, or can't be asked (any more).
        """
        nested_id = self.nested_id(conversation_id)
        return history.follow(server, nested_id) if follow else history.past(server, nested_id)

    def _path(self, conversation_id: str) -> str:
        return f"/api/conversations/{self.nested_id(conversation_id)}"

    async def _exists(self, server: NestedServer, conversation_id: str) -> bool:
        async for attempt in _attempts():
            with attempt:
                return await self.has_conversation(server, conversation_id)
        raise AssertionError  # the last attempt raises

    async def _create(self, server: NestedServer, body: dict[str, Any]) -> bool:
        """Whether it was created; the server answers 200 for one that it has already."""
        async for attempt in _attempts():
            with attempt:
                response = await server.respond("POST", "/api/conversations", json=body, timeout=_CREATE_LIMIT)
                if not response.is_success:
                    raise server.refusal(response)
                return response.status_code == 201
        raise AssertionError  # the last attempt raises


async def _status(server: NestedServer, path: str) -> str | None:
    response = await server.respond("GET", path)
    if response.status_code == 404:
        return None
    return _read(server, response, lambda info: str(info["execution_status"]))


def _read(server: NestedServer, response: httpx.Response, what: Callable[[Any], _T]) -> _T:
    """Read something out of a successful answer; any other answer is a refusal."""
    if not response.is_success:
        raise server.refusal(response)
    try:
        return what(response.json())
    except (ValueError, KeyError, TypeError):
        raise server.refusal(response) from None


async def _quiesce(server: NestedServer, path: str) -> None:
    """Pause one agent, or interrupt it: the server answers a pause only after the step."""
    if await _status(server, path) != _RUNNING:
        return
    try:
        await limited(_pause(server, path), _GRACE)
    except asyncio.TimeoutError:
        await server.request("POST", f"{path}/interrupt", timeout=_INTERRUPT_LIMIT)


async def _pause(server: NestedServer, path: str) -> None:
    await server.request("POST", f"{path}/pause")
    while await _status(server, path) == _RUNNING:  # noqa: ASYNC110 - the server tells by answering only
        await asyncio.sleep(0.05)


async def _usable_tools(server: NestedServer) -> list[str]:
    info = await server.request("GET", "/server_info")
    tools = info.get("usable_tools") if isinstance(info, dict) else None
    return [str(tool) for tool in tools] if isinstance(tools, list) else []


async def _run(server: NestedServer, path: str) -> JsonValue:
    """Start the agent, unless it runs already."""
    async for attempt in _attempts():
        with attempt:
            response = await server.respond("POST", f"{path}/run", timeout=_SEND_LIMIT)
            if not response.is_success and response.status_code != 409:
                raise server.refusal(response)
            return server.content(response)
    raise AssertionError  # the last attempt raises


def _attempts() -> Any:
    """For calls that may be repeated: try again for a few seconds where a moment later may be better."""
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(_passes),
        stop=tenacity.stop_after_attempt(6) | tenacity.stop_after_delay(10),
        wait=tenacity.wait_exponential(multiplier=0.05, max=2) + tenacity.wait_random(0, 0.1),
        reraise=True,
    )


def _passes(error: BaseException) -> bool:
    return isinstance(error, NestedError) and (
        error.reason == Reason.NESTED_UNREACHABLE or error.http_status in {429, 502, 503, 504}
    )


def _undecided(error: NestedError) -> NestedError:
    return NestedError(
        f"{error.message} The agent is in a long step; the server may still take the event after it, so look at "
        f"the conversation's events before sending it again.",
        reason=error.reason,
    )
