"""Finding what tests started, so that none of it is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil


def processes_of(directory: Path) -> Iterator[psutil.Process]:
    """Every process that works, or was told to work, on files below ``directory``."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, FileNotFoundError):  # older ones let that through
            if any(str(directory) in part for part in [*process.cmdline(), process.cwd()]):
                yield process


def kill_processes_of(directory: Path) -> None:
    """Kill them all, and reap those that are ours."""
    for process in processes_of(directory):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(10)
