"""What became of loops that have nothing left on the engine: why a start failed, or that a loop was removed.

One small file for each, in the state directory, so that every process of the namespace (the host, its replicas on this
machine, the command line) gives the same explanation. Losing them loses explanations, never loops.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from pydantic import Field, TypeAdapter

from loopnest.errors import LoopnestError
from loopnest.files import SmallFiles, Stored, is_settled
from loopnest.models import Loop, LoopStatus, Model, StartLoop, utcnow
from loopnest.validation import ConversationId, is_conversation_id

_log = logging.getLogger(__name__)
_SECOND: Final = 1_000_000_000


class Removed(Model):
    """That a loop was removed on purpose. It is not listed; its owner may close it again without an error."""

    conversation_id: ConversationId
    owner: str
    removed_at: datetime = Field(default_factory=utcnow)


Record = Loop | Removed
_RECORD: Final[TypeAdapter[Record]] = TypeAdapter(Record)


def failed(request: StartLoop, error: LoopnestError, strategy: str) -> Loop:
    """The record of a start that failed."""
    return Loop(
        conversation_id=request.conversation_id,
        owner=request.owner,
        status=LoopStatus.FAILED,
        strategy=strategy,
        reason=error.reason,
        message=error.message,
        exit_code=getattr(error, "exit_code", None),
        log_tail=getattr(error, "log_tail", ()),
        changed_at=utcnow(),
    )


class Records:
    """Explanations that are kept for ``retention`` seconds below ``directory``.

    Looking one up costs the same however many are kept, as a host does so for every event it sends.
    """

    def __init__(self, directory: Path, retention: float) -> None:
        self._directory, self._retention = directory, int(retention * _SECOND)
        self._files: SmallFiles[Record] = SmallFiles(directory, _RECORD.validate_json, _dump)
        self._failures: list[Loop] = []
        self._seen: int | None = None
        self._first_expires = 0

    def keep(self, record: Record) -> None:
        """Keep ``record`` as the explanation for its conversation, or log why it can't be kept."""
        self._seen = None
        try:
            self._files.put(record.conversation_id, record)
        except OSError as error:
            _log.warning("Can't keep what became of loop %s: %s", record.conversation_id, error)

    def forget(self, conversation_id: str) -> None:
        """Drop the explanation, as the conversation has a loop again."""
        try:
            self._files.drop(conversation_id)
            self._seen = None
        except OSError as error:
            _log.warning("Can't forget what became of loop %s: %s", conversation_id, error)

    def get(self, conversation_id: str) -> Record | None:
        """What became of this conversation's loop."""
        stored = self._look(conversation_id) if is_conversation_id(conversation_id) else None
        return stored.value if stored else None

    def failures(self, conversation_ids: Iterable[str] | None) -> list[Loop]:
        """The failed loops of these conversations, or all."""
        if conversation_ids is None:
            return self._all_failures()
        return [record for key in conversation_ids if isinstance(record := self.get(key), Loop)]

    def _all_failures(self) -> list[Loop]:
        stamp = self._stamp()
        if stamp is None or stamp != self._seen or time.time_ns() >= self._first_expires:
            stored = [found for key in self._files.ids() if (found := self._look(key))]
            self._failures = [found.value for found in stored if isinstance(found.value, Loop)]
            oldest = min((found.written for found in stored), default=time.time_ns())
            self._first_expires = oldest + self._retention
            self._seen = stamp if stamp is not None and is_settled(stamp) else None
        return self._failures

    def _look(self, conversation_id: str) -> Stored[Record] | None:
        """What is kept of one conversation, unless its time is over."""
        with contextlib.suppress(OSError):  # what can't be read explains nothing, and `keep` logs such disks
            stored = self._files.look(conversation_id)
            if stored is None or not self._is_expired(stored.written):
                return stored
            self.forget(conversation_id)
        return None

    def _is_expired(self, written: int) -> bool:
        """Whether a file is older than the retention, by this host's clock and by the one that dates files.

        A host whose clock is hours ahead must not drop the records of the others.
        """
        expires = written + self._retention
        return expires <= time.time_ns() and expires <= self._file_time()

    def _file_time(self) -> int:
        """What a file that is written now is dated."""
        with tempfile.NamedTemporaryFile(dir=self._directory, prefix=".") as probe:
            return Path(probe.name).stat().st_mtime_ns

    def _stamp(self) -> int | None:
        with contextlib.suppress(OSError):
            return self._directory.stat().st_mtime_ns
        return None


def _dump(record: Record) -> bytes:
    """Without what must not be written down, or is of no use later."""
    return record.model_dump_json(exclude={"session_key", "url", "urls"}).encode()
