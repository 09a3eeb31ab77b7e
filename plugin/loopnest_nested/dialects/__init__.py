"""How to speak to each kind of nested server.

A dialect knows one kind of nested server: how to start its process and how to drive it over HTTP. It holds no state,
and knows nothing of containers or processes. Adding one is a module here and a line in `DIALECTS`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import JsonValue, SecretStr

from loopnest import ConfigurationError, Event, StartLoop
from loopnest_nested.client import NestedServer
from loopnest_nested.session_keys import Keys


@dataclass(frozen=True)
class Place:
    """Where a nested server keeps its files, as paths that it sees itself.

    Attributes:
        workspace: what the agent works on.
        data: the nested server's own files: conversations, settings.
    """

    workspace: str
    data: str


class Dialect(Protocol):
    """What a strategy must know of a kind of nested server."""

    name: str

    def command(self, host: str, port: int) -> Sequence[str]:
        """The command line of the server, without the Python interpreter (``-m module ...``)."""

    def environment(self, place: Place, port: int) -> Mapping[str, str]:
        """Variables for the server's process that anybody may see."""

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        """Variables for the server's process that nobody else may see."""

    def nested_id(self, conversation_id: str) -> str:
        """The id that the nested server knows the conversation by."""

    async def alive(self, server: NestedServer) -> bool:
        """Whether the server answers and accepts requests; False while it boots. Never raises."""

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:
        """Create the conversation with all that the request says, or resume the one that exists.

        Idempotent, also where two processes do it at once: the initial message is sent once.

        Raises:
            NestedError: the server refused; the message says what.
        """

    def store(self, place: Place, conversation_id: str) -> str:
        """The directory that has entries from the creation of the conversation on; it may be missing before."""

    async def has_conversation(self, server: NestedServer, conversation_id: str) -> bool:
        """Whether the server has the conversation, whatever its agent does.

        Raises:
            NestedError: it could not be asked.
        """

    async def agent_status(self, server: NestedServer, conversation_id: str | None) -> str | None:
        """What the agent does, in the server's own word; None where the server has no such conversation.

        Args:
            conversation_id: None for a bare loop, of which only the server's own state is asked.

        Raises:
            NestedError: it could not be asked.
        """

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        """Deliver an event.

        Raises:
            NestedError: the server refused, or could not be asked.
        """

    async def quiesce(self, server: NestedServer, conversation_id: str | None) -> None:
        """Ask the agent to stop working, so that the server can be stopped without losing anything.

        Args:
            conversation_id: None for a bare loop, in which all agents are asked.

        Raises:
            NestedError: the server refused, or could not be asked.
        """

    def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        """The conversation's events so far, oldest first, and with ``follow`` all further ones until cancelled."""


def get_dialect(name: str) -> Dialect:
    """Return the dialect called ``name``.

    Raises:
        ConfigurationError: there is none; the message lists those there are.
    """
    from loopnest_nested.dialects.agent_server import AgentServer  # noqa: PLC0415 - it imports this module
    from loopnest_nested.dialects.openhands_v0 import OpenHandsV0  # noqa: PLC0415 - it imports this module

    dialects: dict[str, Dialect] = {AgentServer.name: AgentServer(), OpenHandsV0.name: OpenHandsV0()}
    if name not in dialects:
        raise ConfigurationError(f"Unknown dialect {name!r}. Known: {', '.join(sorted(dialects))}.")
    return dialects[name]
