"""Small files, one for each id, that the processes of a machine share."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
#: Nanoseconds within which two changes of a file or a directory may carry the same time.
_TICK: Final = 100_000_000


@dataclass(frozen=True)
class Stored(Generic[_T]):
    """What a file had in it.

    Attributes:
        value: None where the file can't be understood, as another version of the program may have written it.
        written: when, in nanoseconds, by the clock that dates files.
        settled: a later change of the file is sure to carry another time.
    """

    value: _T | None
    written: int
    inode: int
    settled: bool


class SmallFiles(Generic[_T]):
    """Values below ``directory``, one file for each id. Ids must be safe as file names.

    A file that has not changed since it was read is not read again. A file is replaced as a whole, so that a reader
    gets the old value or the new one. Only this user may read the files.

    Args:
        load: makes a value of a file's content; it raises ValueError or TypeError where it can't.
        dump: makes the content.
        name: the path of a file below the directory, with ``{}`` for the id.
    """

    def __init__(
        self, directory: Path, load: Callable[[bytes], _T], dump: Callable[[_T], bytes], name: str = "{}.json"
    ) -> None:
        self._directory, self._load, self._dump, self._name = directory, load, dump, name
        self._read: dict[str, Stored[_T]] = {}

    def ids(self) -> list[str]:
        """The ids of all files."""
        before, after = (len(part) for part in self._name.split("{}"))
        found = (str(path.relative_to(self._directory)) for path in self._directory.glob(self._name.format("*")))
        return [name[before : len(name) - after] for name in found if not name.startswith(".")]

    def get(self, key: str) -> _T | None:
        """The value of ``key``; None where there is none, or none that can be understood."""
        stored = self.look(key)
        return stored.value if stored else None

    def look(self, key: str) -> Stored[_T] | None:
        """The value of ``key`` and when it was written; None where there is no file.

        Raises:
            OSError: the file can't be read.
        """
        path = self.path(key)
        try:
            now = path.stat()
            known = self._read.get(key)
            if known and known.settled and (known.inode, known.written) == (now.st_ino, now.st_mtime_ns):
                return known
            value, settled = self._load_file(path), is_settled(now.st_mtime_ns)
        except FileNotFoundError:
            self._read.pop(key, None)
            return None
        self._read[key] = stored = Stored(value, now.st_mtime_ns, now.st_ino, settled)
        return stored

    def put(self, key: str, value: _T) -> None:
        """Keep ``value``, now.

        Raises:
            OSError: it can't be written.
        """
        path, content = self.path(key), self._dump(value)
        for directory in (self._directory, path.parent):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise

    def drop(self, key: str) -> None:
        """Remove the file of ``key``, if there is one.

        Raises:
            OSError: it can't be removed.
        """
        self._read.pop(key, None)
        with contextlib.suppress(FileNotFoundError):
            self.path(key).unlink()

    def path(self, key: str) -> Path:
        """Where the value of ``key`` is kept."""
        return self._directory / self._name.format(key)

    def _load_file(self, path: Path) -> _T | None:
        try:
            return self._load(path.read_bytes())
        except (ValueError, TypeError) as error:
            _log.warning("Ignoring %s, which another version may have written: %s", path, error)
            return None


def is_settled(changed: int) -> bool:
    """Whether a later change of what carries the time ``changed`` (in nanoseconds) is sure to carry another one."""
    return time.time_ns() - changed > _TICK
