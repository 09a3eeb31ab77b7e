"""The interactive half of a conversation manager: it depends on where the loops run, as the other half does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from loopnest import Loop, LoopChange

Uploaded = tuple[list[str], list[dict[str, str]]]


class Side(Protocol):
    """What the host's clients and routes do with conversations. What it remembers can be asked for again."""

    #: What the host replays to clients before they join.
    file_store: Any
    #: Whether a start answers before the loop is up, so that it can be waited for.
    starts_at_once: bool

    async def open(self) -> None:
        """Begin, once the strategy is open."""

    async def aclose(self) -> None:
        """End."""

    def remember(self, conversation_id: str, user_id: str | None) -> None:
        """Note who uses a conversation."""

    def user_of(self, conversation_id: str) -> str | None:
        """Who used a conversation last; the host does not always say."""

    async def join(self, conversation_id: str, connection_id: str, settings: Any, user_id: str | None) -> None:
        """Let a client take part in a conversation whose loop was started."""

    async def leave(self, connection_id: str) -> None:
        """The client left."""

    async def expel(self, conversation_id: str) -> None:
        """Disconnect the clients of a conversation that is being closed."""

    def connections(self) -> dict[str, str]:
        """The conversation of each client of this host process."""

    def changed(self, change: LoopChange) -> None:
        """A loop changed."""

    async def describe(self, loops: Sequence[Loop], user_id: str | None) -> list[Any]:
        """The host's ``AgentLoopInfo`` of each loop."""

    async def attach(self, conversation_id: str, user_id: str | None) -> Any:
        """What the host's routes work with; None where the user has no such conversation."""

    async def detach(self, conversation: Any) -> None:
        """A route is done."""

    def agent_session(self, conversation_id: str) -> Any:
        """What the host reads of an agent; None where there is none."""

    async def complete(self, conversation_id: str, service_id: str, llm_config: Any, messages: list[Any]) -> str:
        """Ask a language model something beside the conversation."""

    async def list_files(self, conversation_id: str, path: str | None) -> list[str]:
        """The files below ``path`` of the workspace."""

    async def select_file(self, conversation_id: str, file: str) -> tuple[str | None, str | None]:
        """The text of a file and None, or None and what is wrong."""

    async def upload_files(self, conversation_id: str, uploads: list[tuple[str, bytes]]) -> Uploaded:
        """Store files; return which were, and which were not and why."""
