"""One run of a nested server: a child process that outlives the host that started it.

A shell supervises it: it writes its own process id, runs the server, and writes the server's exit code, so that any
host process can read how a run ended, also one of another host. It holds an ``flock`` on a file while it lives,
which shows every process whether it does: the kernel keeps that true, where process ids are used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from loopnest.aio import limited
from loopnest_process.locks import locked, unheld

#: Names the run in the environment of all its processes, to find those that outlive it.
_MARK: Final = "LOOPNEST_RUN"
#: The descriptor of the lock in the shell; the server does not get it.
_LOCK: Final = 9
#: Run as ``sh -c``, so that $0 is the first argument: the path of the run's files. The trap keeps the shell alive on
#: signals, without the server inheriting that, as ignored ones would be.
_SUPERVISOR: Final = f"""
trap : TERM INT HUP
echo $$ >"$0.pid"
cd "$1" && shift && "$@" {_LOCK}>&-
echo $? >"$0.exit"
"""
#: Seconds between looks where the kernel can't tell of the end of a process that is no child.
_LOOK: Final = 0.2
#: Seconds for the kernel to end what was killed.
_FIRM: Final = 5.0


@dataclass(frozen=True)
class Run:
    """A run called ``name``, whose files are in ``directory``."""

    directory: Path
    name: str

    @property
    def log(self) -> Path:
        """What the server printed, of this run only."""
        return self.directory / "log"

    @property
    def cwd(self) -> Path:
        """Where the server runs: a directory of its own, with nothing in it.

        Not where its agent works: it would import modules from there, and read ``.env``, ``config.toml`` and others;
        many projects have files of these names.
        """
        return self._file("cwd")

    def spawn(self, command: Sequence[str], environment: Mapping[str, str], cwd: str) -> None:
        """Start ``command``; its log is readable by this user only, and begins anew.

        Not `subprocess.Popen`, which wants its child to end before itself, nor asyncio's, which kills it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        assert not self._file("lock").exists(), "a run has one supervisor"
        fresh = self._file("fresh")
        handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            assert locked(handle), "a new file, which no other process opens"
            fresh.rename(self._file("lock"))  # no process can find it free before the supervisor has it
            os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _SUPERVISOR, str(self.directory / self.name), cwd, *command],
                {**environment, _MARK: self.name},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, str(self.log), flags, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                    (os.POSIX_SPAWN_DUP2, handle, _LOCK),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT),
            )
        finally:
            os.close(handle)

    def alive(self) -> bool:
        """Whether the run goes on. Where it does not, nothing of it is left to be reaped."""
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(self._file("lock"), os.O_RDWR)
            try:
                if not unheld(handle):
                    return True
            finally:
                os.close(handle)
            self._reap()
        return False

    @property
    def exit_code(self) -> int | None:
        """The server's exit code, 128 and the signal's number where one killed it; None where it was lost."""
        return self._number("exit")

    async def ended(self) -> None:
        """Wait until the run has ended."""
        while self.alive():
            pid = self._number("pid")
            if pid is None or not await _until_gone(pid):
                await asyncio.sleep(_LOOK if pid else 0.01)

    def listens(self, port: int) -> bool:
        """Whether a process of this run serves ``port``; another program may have taken it."""
        with contextlib.suppress(psutil.Error, OSError):
            return any(_listens(server, port) for server in self._servers())
        return False

    def ask_to_end(self) -> None:
        """Send SIGTERM to the server."""
        with contextlib.suppress(psutil.Error, OSError):
            for server in self._servers():
                server.terminate()

    def freeze(self) -> None:
        """Stop every process of the run from running, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let every process of the run go on."""
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        """Kill every process of the run, also those that left its session, and wait until it has ended."""
        await asyncio.to_thread(self._kill_all)
        try:
            await limited(self.ended(), _FIRM)
        except asyncio.TimeoutError:  # the supervisor was stopped (SIGSTOP), and can't end by itself
            if pid := self._number("pid"):
                os.killpg(pid, signal.SIGKILL)
                await self.ended()

    def forget(self) -> None:
        """Remove the files of a run that has ended, but not its log."""
        for kind in ("pid", "exit", "fresh", "lock"):
            self._file(kind).unlink(missing_ok=True)
        shutil.rmtree(self.cwd, ignore_errors=True)

    def _servers(self) -> list[psutil.Process]:
        pid = self._number("pid") if self.alive() else None
        return psutil.Process(pid).children(recursive=True) if pid else []

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to all processes but the supervisor; again to those that were forked meanwhile."""
        supervisor, reached = self._number("pid") if self.alive() else None, set[int]()
        while others := [it for it in self._marked() if it.pid != supervisor and it.pid not in reached]:
            for process in others:
                reached.add(process.pid)
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _kill_all(self) -> None:
        """Kill all but the supervisor, which then writes the exit code; repeat, as they may have forked meanwhile."""
        supervisor = self._number("pid") if self.alive() else None
        if supervisor:
            with contextlib.suppress(ProcessLookupError):
                os.kill(supervisor, signal.SIGCONT)  # a debugger, or an operator, may have stopped it
        while others := [process for process in self._marked() if process.pid != supervisor]:
            for process in others:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(others, timeout=_FIRM)

    def _marked(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(_MARK) == self.name and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def _reap(self) -> None:
        """Let go of the supervisor where it was our child; once, as its number may become another child's."""
        if pid := self._number("pid"):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)  # a moment: it let go of the lock, so it is all but gone
            self._file("pid").unlink(missing_ok=True)

    def _number(self, kind: str) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._file(kind).read_text())
        return None

    def _file(self, kind: str) -> Path:
        return self.directory / f"{self.name}.{kind}"


def _listens(server: psutil.Process, port: int) -> bool:
    try:
        connections = server.net_connections("tcp")
    except psutil.AccessDenied:
        return True  # it can't be known here
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


async def _until_gone(pid: int) -> bool:
    """Wait until the process ends; False where the kernel can't tell when that is."""
    if not hasattr(os, "pidfd_open"):
        return False
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
        return True
    finally:
        loop.remove_reader(handle)
        os.close(handle)
