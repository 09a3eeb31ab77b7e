"""Processes that tests start: what they inherit, and how none of them is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

#: Begins the variables that configure loopnest, hosts and models, or name directories of the user's. And a server that
#: compiles all its modules anew takes three quarters of a minute to start.
_LEFT_OUT = (
    *("LOOPNEST_", "OH_", "LLM_", "OTEL_", "LMNR_", "OPENHANDS_OBSERVABILITY_"),
    *("XDG_", "PYTHONDONTWRITEBYTECODE"),
)


def inherited(home: Path) -> dict[str, str]:
    """The variables of this test run, without those that would change what a host does."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(_LEFT_OUT)}, **at_home(home)}


def at_home(home: Path) -> dict[str, str]:
    """Variables that give a server a home directory, and its agents terminals of their own.

    In the user's, shells run the user's ``.bashrc``: pyenv's lines there wait a minute once a shell was killed in them.
    """
    return {"HOME": str(home), "TMUX_TMPDIR": str(home)}


def end(process: subprocess.Popen[bytes], log: Path, how: signal.Signals = signal.SIGTERM) -> None:
    """Have a host end, and leave it no choice after a minute.

    Raises:
        AssertionError: it took that long.
    """
    if process.poll() is not None:
        return
    process.send_signal(how)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise AssertionError(f"The host did not end within a minute of {how.name}: {log.read_text()[-3000:]}") from None


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
