"""What became of loops that have nothing left on the engine: why a start failed, or that a loop was removed.

One small file for each, in the state directory, so that every process of the namespace (the host, its replicas on this
machine, the command line) gives the same explanation. Losing them loses explanations, never loops.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from loopnest.errors import LoopnestError
from loopnest.models import Loop, LoopChange, LoopStatus, StartLoop, utcnow
from loopnest.owners import owner_of

#: Phase of a loop that was removed on purpose.
REMOVED: Final = "removed"
_log = logging.getLogger(__name__)
#: Nanoseconds within which two changes of a directory may carry the same time.
_TICK: Final = 100_000_000


def removed(loop: Loop) -> Loop:
    """The record of a loop that was removed on purpose; it is listed to nobody."""
    return Loop(
        conversation_id=loop.conversation_id,
        owner=loop.owner,
        status=LoopStatus.STOPPED,
        phase=REMOVED,
        changed_at=utcnow(),
    )


def failed(request: StartLoop, error: LoopnestError, strategy: str) -> Loop:
    """The record of a start that failed."""
    return Loop(
        conversation_id=request.conversation_id,
        owner=owner_of(request.user_id),
        status=LoopStatus.FAILED,
        strategy=strategy,
        reason=error.reason,
        message=error.message,
        exit_code=getattr(error, "exit_code", None),
        log_tail=getattr(error, "log_tail", ()),
        changed_at=utcnow(),
    )


def died(change: LoopChange, strategy: str) -> Loop:
    """The record of a loop whose death a plugin told of."""
    return Loop(
        conversation_id=change.conversation_id,
        owner=change.owner,
        status=LoopStatus.FAILED,
        strategy=strategy,
        reason=change.reason,
        message=change.message,
        exit_code=change.exit_code,
        log_tail=change.log_tail,
        changed_at=change.at,
    )


class Records:
    """Loops that are no more, kept for ``retention`` seconds below ``directory``."""

    def __init__(self, directory: Path, retention: float) -> None:
        self._directory, self._retention = directory, retention
        self._cache: dict[str, tuple[float, Loop]] = {}
        self._seen: int | None = None

    def keep(self, loop: Loop) -> None:
        """Keep ``loop`` as the explanation for its conversation, or log why it can't be kept."""
        self._seen = None
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, temporary = tempfile.mkstemp(dir=self._directory, prefix=".")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(loop.model_dump_json(exclude={"session_key", "url"}))
            Path(temporary).replace(self._path(loop.conversation_id))
        except OSError as error:
            _log.warning("Can't keep what became of loop %s: %s", loop.conversation_id, error)

    def forget(self, conversation_id: str) -> None:
        """Drop the explanation, as the conversation has a loop again."""
        try:
            self._path(conversation_id).unlink()
            self._seen = None
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.warning("Can't forget what became of loop %s: %s", conversation_id, error)

    def all(self) -> dict[str, Loop]:
        """The explanations that have not expired, by conversation."""
        stamp = self._stamp()
        if stamp is None or stamp != self._seen:
            self._cache = {path.stem: read for path in self._paths() if (read := _read(path))}
            settled = stamp is not None and time.time_ns() - stamp > _TICK
            self._seen = stamp if settled else None
        oldest = time.time() - self._retention
        for conversation_id in [key for key, (at, _) in self._cache.items() if at < oldest]:
            del self._cache[conversation_id]
            self.forget(conversation_id)
        return {key: loop for key, (_, loop) in self._cache.items()}

    def _stamp(self) -> int | None:
        with contextlib.suppress(OSError):
            return self._directory.stat().st_mtime_ns
        return None

    def _paths(self) -> list[Path]:
        return list(self._directory.glob("*.json")) if self._directory.is_dir() else []

    def _path(self, conversation_id: str) -> Path:
        return self._directory / f"{conversation_id}.json"


def _read(path: Path) -> tuple[float, Loop] | None:
    """The time a record was written, and the record; None where another process just dropped it."""
    try:
        return path.stat().st_mtime, Loop.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        _log.warning("Ignoring the record %s, which another version may have written: %s", path, error)
        return None
