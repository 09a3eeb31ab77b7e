"""When each loop was last used, kept where every replica can see it."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Set
from pathlib import Path

_log = logging.getLogger(__name__)


class Uses:
    """The last use of each loop: the modification time of an empty file of its own below ``directory``.

    Replicas that share the directory see each other's uses, and a restarted host those before its restart. What this
    process knows itself counts as well, by the monotonic clock; nothing else does while the directory can't be read
    or written, which is logged.

    Args:
        interval: seconds within which further uses of a loop are not written again.
    """

    def __init__(self, directory: Path, interval: float) -> None:
        self.interval = interval
        self._directory = directory
        self._noted: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._seen: dict[str, float] = {}
        self._usable = True

    def note(self, conversation_id: str) -> bool:
        """Note that a loop is being used; return whether that was written, rather than left to the next `flush`."""
        now = self._noted[conversation_id] = time.monotonic()
        if now - self._written.get(conversation_id, -math.inf) < self.interval:
            return False
        self._write(conversation_id)
        return True

    def see(self, conversation_id: str, seconds: float) -> None:
        """Remember, in this process only, that a loop itself says to have been used so many seconds ago."""
        self._seen[conversation_id] = time.monotonic() - seconds

    def flush(self, under_way: Iterable[str]) -> None:
        """Write the uses that are under way, and those that were not written when they were noted."""
        now = time.monotonic()
        self._noted.update((key, now) for key in under_way)
        for key, noted in self._noted.items():
            if noted > self._written.get(key, -math.inf):
                self._write(key)

    def idle_time(self, conversation_id: str) -> float:
        """Seconds since the last use; a loop of which no use is known counts as used now."""
        known = [table[conversation_id] for table in (self._noted, self._seen) if conversation_id in table]
        ages = [time.monotonic() - at for at in known]
        if (written := self._read(conversation_id)) is not None:
            ages.append(max(0.0, time.time() - written))
        if not ages:
            self.note(conversation_id)
        return min(ages, default=0.0)

    def keep_only(self, conversation_ids: Set[str]) -> None:
        """Forget all other loops, as they don't run."""
        for table in (self._noted, self._written, self._seen):
            for key in table.keys() - conversation_ids:
                del table[key]
        with self._checking(), contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name not in conversation_ids:
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def stopping(self, conversation_id: str) -> Iterator[bool]:
        """Let other replicas see, while inside, that a loop is being stopped; False where another one stops it.

        A replica that dies inside is not seen any more. Check `idle_time` inside: a use that was noted before is seen
        there, and a later one sees `is_stopping`.
        """
        handle = None
        with self._checking():
            handle = os.open(self._path(conversation_id), os.O_RDWR | os.O_CREAT, 0o600)
        if handle is None:
            yield True
            return
        try:
            yield _lock(handle, fcntl.LOCK_EX)
        finally:
            os.close(handle)

    def is_stopping(self, conversation_id: str) -> bool:
        """Whether any replica is stopping a loop."""
        try:
            handle = os.open(self._path(conversation_id), os.O_RDONLY)
        except OSError:
            return False
        try:
            return not _lock(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)

    def _write(self, conversation_id: str) -> None:
        self._written[conversation_id] = time.monotonic()
        path, now = self._path(conversation_id), time.time_ns()
        with self._checking():
            try:
                os.utime(path, ns=(now, now))
            except FileNotFoundError:
                self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
                path.touch(mode=0o600)
            self._usable = True

    def _read(self, conversation_id: str) -> float | None:
        with self._checking(), contextlib.suppress(FileNotFoundError):
            return self._path(conversation_id).stat().st_mtime
        return None

    @contextlib.contextmanager
    def _checking(self) -> Iterator[None]:
        """Log failures, but only the first until a use can be written again."""
        try:
            yield
        except OSError as error:
            if self._usable:
                _log.warning("Uses of loops are not shared with other replicas, nor kept for the next host: %s", error)
            self._usable = False

    def _path(self, conversation_id: str) -> Path:
        return self._directory / conversation_id


def _lock(handle: int, kind: int) -> bool:
    """Lock an open file until it is closed; False where another lock excludes that."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # as on file systems without locks
        _log.warning("Replicas can't see that a loop is being stopped: %s", error)
    return True
