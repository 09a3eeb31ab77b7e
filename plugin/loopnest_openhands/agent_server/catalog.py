"""What was last seen of each conversation, kept for when its loop is stopped.

One small file for each, in the state directory, which stays until a client deletes the conversation, whatever its
nested server lists. Losing them loses summaries, never conversations: a loop that is started again lists its own.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from loopnest.files import SmallFiles

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """One conversation.

    Attributes:
        loop_id: the loop whose nested server has it; forks and children live where they were made.
        info: the nested server's ``ConversationInfo``; secrets are masked in it.
        lost: the nested server did not have it any more when it was last asked.
    """

    loop_id: str
    info: dict[str, Any]
    lost: bool = False


class Catalog:
    """The conversations of all loops, below ``directory``; replicas on one machine may share it."""

    def __init__(self, directory: Path) -> None:
        self._files: SmallFiles[Entry] = SmallFiles(directory, _load, _dump)

    def get(self, conversation_id: UUID) -> Entry | None:
        """What was last seen of a conversation."""
        return self._files.get(str(conversation_id))

    def all(self) -> dict[UUID, Entry]:
        """Everything that was ever seen and not forgotten."""
        ids = map(UUID, self._files.ids())
        return {key: entry for key in ids if (entry := self.get(key))}

    def of(self, loop_id: str) -> set[UUID]:
        """The conversations that live in one loop."""
        return {key for key, entry in self.all().items() if entry.loop_id == loop_id}

    def keep(self, loop_id: str, info: dict[str, Any]) -> None:
        """Note what was just seen, or log why that is impossible.

        Raises:
            ValueError, RecursionError: ``info`` can't be written as JSON.
        """
        self._put(UUID(info["id"]), Entry(loop_id, info))

    def lose(self, conversation_id: UUID) -> None:
        """Note that the nested server does not have a conversation any more."""
        if entry := self.get(conversation_id):
            self._put(conversation_id, dataclasses.replace(entry, lost=True))

    def forget(self, conversation_ids: Iterable[UUID]) -> None:
        """Drop conversations that a client deleted."""
        for key in conversation_ids:
            self._files.drop(str(key))

    def _put(self, conversation_id: UUID, entry: Entry) -> None:
        if self.get(conversation_id) == entry:
            return
        try:
            self._files.put(str(conversation_id), entry)
        except OSError as error:
            _log.warning("Can't keep what was seen of conversation %s: %s", conversation_id, error)


def _load(content: bytes) -> Entry:
    return Entry(**json.loads(content))


def _dump(entry: Entry) -> bytes:
    return json.dumps(vars(entry), ensure_ascii=False, allow_nan=False).encode()
