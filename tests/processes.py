"""Finding what tests started, so that none of it is left."""

from __future__ import annotations

import contextlib
import os
import time
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
    """Kill them all, wait until they ended, and reap those that are ours."""
    killed = list(processes_of(directory))
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    for process in killed:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, 0)
        # Init may take seconds to reap what others left; a zombie holds nothing.
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
