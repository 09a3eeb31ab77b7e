"""Locks that all processes of this machine share, and that die with their holder."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

_FIRST: Final = 0.01
_LONGEST: Final = 0.1


class FileLocks:
    """One lock for each name: an ``flock`` on a file below ``directory``, which is there only while it is held."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ours: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Hold the lock ``name``, once it is free.

        Another process is waited for by asking again, 10 to 100 ms apart: a thread that blocks in ``flock`` can't be
        cancelled.
        """
        async with self._ours.setdefault(name, asyncio.Lock()):
            pause = _FIRST
            while (handle := self._try(name)) is None:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, _LONGEST)
            try:
                yield
            finally:
                self._path(name).unlink(missing_ok=True)
                os.close(handle)

    def held(self, name: str) -> bool:
        """Whether the lock ``name`` is held."""
        try:
            handle = os.open(self._path(name), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not unheld(handle)
        finally:
            os.close(handle)

    def _try(self, name: str) -> int | None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(self._path(name), os.O_RDWR | os.O_CREAT, 0o600)
        if locked(handle) and self._is_current(name, handle):
            return handle
        os.close(handle)
        return None

    def _is_current(self, name: str, handle: int) -> bool:
        """Whether the file is still there: its last holder removes it."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(self._path(name).stat(), os.fstat(handle))
        return False

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.lock"


def locked(handle: int) -> bool:
    """Lock an open file if it is free; the lock ends when all copies of ``handle`` are closed."""
    return _flock(handle, fcntl.LOCK_EX)


def unheld(handle: int) -> bool:
    """Whether an open file is not locked; another process that asks the same is not taken for a holder."""
    return _flock(handle, fcntl.LOCK_SH)


def _flock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
