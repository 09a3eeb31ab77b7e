"""What was last seen of each conversation, kept for when its loop is stopped.

One small file for each, in the state directory, which stays until a client deletes the conversation, whatever its
nested server lists. Losing them loses summaries, never conversations: a loop that is started again lists its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

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
        self._directory = directory
        self._cache: dict[UUID, tuple[tuple[int, int], Entry]] = {}

    def get(self, conversation_id: UUID) -> Entry | None:
        """What was last seen of a conversation."""
        path = self._path(conversation_id)
        try:
            status = path.stat()
        except FileNotFoundError:
            self._cache.pop(conversation_id, None)
            return None
        stamp = status.st_mtime_ns, status.st_ino  # two files written at once have the same time
        cached = self._cache.get(conversation_id)
        if cached is None or cached[0] != stamp:
            entry = _read(path)
            if entry is None:
                return None
            cached = self._cache[conversation_id] = (stamp, entry)
        return cached[1]

    def all(self) -> dict[UUID, Entry]:
        """Everything that was ever seen and not forgotten."""
        ids = [UUID(path.stem) for path in self._directory.glob("*.json")]
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
            self._cache.pop(key, None)
            with contextlib.suppress(FileNotFoundError):
                self._path(key).unlink()

    def _put(self, conversation_id: UUID, entry: Entry) -> None:
        if self.get(conversation_id) == entry:
            return
        content = json.dumps(vars(entry), ensure_ascii=False, allow_nan=False).encode()
        try:
            self._write(self._path(conversation_id), content)
        except OSError as error:
            _log.warning("Can't keep what was seen of conversation %s: %s", conversation_id, error)

    def _write(self, path: Path, content: bytes) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=self._directory, prefix=".")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).replace(path)

    def _path(self, conversation_id: UUID) -> Path:
        return self._directory / f"{conversation_id}.json"


def _read(path: Path) -> Entry | None:
    try:
        return Entry(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        _log.warning("Ignoring the summary %s, which another version may have written: %s", path, error)
        return None
