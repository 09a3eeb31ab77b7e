"""The host as it hands itself to its conversation manager."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openhands.storage.locations import get_conversation_dir

#: What the first start of a conversation was asked for, until its nested server has it.
_PENDING: Final = "loopnest-start.json"


@dataclass
class Host:
    """The host's own objects, and what they know of a conversation.

    Attributes:
        users: by conversation, the user for whom it was last started: hooks see owners, but the host's store has users.
    """

    sio: Any
    config: Any
    file_store: Any
    server_config: Any
    monitoring: Any = None
    users: dict[str, str | None] = field(default_factory=dict)

    @property
    def store_path(self) -> Path | None:
        """Where the file store is on this machine; None where it is elsewhere."""
        if self.config.file_store != "local":
            return None
        return Path(os.path.realpath(Path(self.config.file_store_path).expanduser()))

    def directory(self, conversation_id: str, user_id: str | None) -> str:
        """The conversation's directory in the file store, ending in a slash."""
        return str(get_conversation_dir(conversation_id, user_id))

    async def knows(self, conversation_id: str, user_id: str | None) -> bool:
        """Whether the file store has anything of the user's conversation."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            await asyncio.to_thread(self.file_store.list, self.directory(conversation_id, user_id))
            return True
        return False

    async def init_data(self, conversation_id: str, user_id: str | None) -> Any:
        """What the host's stores have for a start: the user's settings, secrets and git provider tokens.

        Raises:
            ConnectionRefusedError: (socket.io's) the user has no settings.
        """
        from openhands.server.services import conversation_service  # noqa: PLC0415 - it imports us

        return await conversation_service.setup_init_conversation_settings(user_id, conversation_id, [])

    # --- what a start was asked for, kept until it is done, as this process may end before ---------------------------

    async def keep_pending(self, conversation_id: str, user_id: str | None, asked: dict[str, Any]) -> None:
        """Keep what the first start was asked for; nothing secret is in it."""
        path = self.directory(conversation_id, user_id) + _PENDING
        await asyncio.to_thread(self.file_store.write, path, json.dumps(asked))

    async def pending(self, conversation_id: str, user_id: str | None) -> dict[str, Any]:
        """Return it; empty where nothing is pending."""
        path = self.directory(conversation_id, user_id) + _PENDING
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            asked: dict[str, Any] = json.loads(await asyncio.to_thread(self.file_store.read, path))
            return asked
        return {}

    async def drop_pending(self, conversation_id: str, user_id: str | None) -> None:
        """Forget it."""
        path = self.directory(conversation_id, user_id) + _PENDING
        await asyncio.to_thread(self.file_store.delete, path)
