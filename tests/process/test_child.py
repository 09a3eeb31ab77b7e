"""A run of a nested server, whatever becomes of it and of who started it."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from pathlib import Path

import psutil
import pytest

from loopnest_process.child import Run

from ..processes import kill_processes_of

ENVIRONMENT = {"PATH": os.environ["PATH"]}
#: Ends cleanly on SIGTERM, once it said that it is there.
POLITE = "import signal, sys; signal.signal(15, lambda *_: sys.exit(7)); print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True)\nwhile True: signal.pause()"


@pytest.fixture
def spawn(tmp_path):
    def start(*command, name="run-1", environment=ENVIRONMENT):
        run = Run(tmp_path, name)
        run.spawn(command, environment, str(tmp_path))
        return run

    yield start
    kill_processes_of(tmp_path)


def python(source):
    return sys.executable, "-c", source


async def said(run, word="up"):
    while word not in run.log.read_text():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("code", [0, 3])
async def test_a_run_tells_its_exit_code(spawn, code):
    run = spawn("sh", "-c", f"exit {code}")
    await run.ended()
    assert not run.alive()
    assert run.exit_code == code


async def test_a_killed_server_tells_the_signal(spawn):
    run = spawn(*python("import os; os.kill(os.getpid(), 9)"))
    await run.ended()
    assert run.exit_code == 128 + signal.SIGKILL


async def test_a_program_that_is_not_there_ends_the_run(spawn):
    run = spawn("/nowhere/python")
    await run.ended()
    assert run.exit_code == 127
    assert "not found" in run.log.read_text()


async def test_a_run_is_asked_to_end(spawn):
    run = spawn(*python(POLITE))
    await said(run)
    assert run.alive()
    run.ask_to_end()
    await run.ended()
    assert run.exit_code == 7


async def test_a_deaf_run_is_killed_and_tells_so(spawn):
    run = spawn(*python(DEAF))
    await said(run)
    run.ask_to_end()
    await run.kill()
    assert not run.alive()
    assert run.exit_code == 128 + signal.SIGKILL


async def test_killing_reaches_what_left_the_session(spawn, tmp_path):
    daemon = "import os, signal; os.setsid(); open('daemon', 'w').write(str(os.getpid())); signal.pause()"
    run = spawn("sh", "-c", f'{sys.executable} -c "{daemon}" & while ! [ -s daemon ]; do :; done; echo up; wait')
    await said(run)
    pid = int((tmp_path / "daemon").read_text())
    assert psutil.pid_exists(pid)
    await run.kill()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_killing_a_run_that_ended_is_no_error(spawn):
    run = spawn("true")
    await run.ended()
    await run.kill()
    assert run.exit_code == 0


async def test_a_supervisor_that_was_stopped_is_killed_all_the_same(spawn, monkeypatch):
    monkeypatch.setattr("loopnest_process.child._FIRM", 0.2)
    run = spawn(*python(POLITE))
    await said(run)
    os.kill(int((run.directory / "run-1.pid").read_text()), signal.SIGSTOP)
    await asyncio.wait_for(run.kill(), 5)
    assert not run.alive()


async def test_signals_to_the_supervisor_do_not_end_it(spawn):
    run = spawn(*python(POLITE))
    await said(run)
    supervisor = int((run.directory / "run-1.pid").read_text())
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(supervisor, number)
    run.ask_to_end()
    await run.ended()
    assert run.exit_code == 7


async def test_the_server_does_not_ignore_signals_that_the_host_ignores(spawn):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = spawn(*python("import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"))
        await run.ended()
    finally:
        signal.signal(signal.SIGINT, before)
    assert run.log.read_text() == "True\n"


async def test_the_server_gets_its_environment_and_nothing_of_the_host(spawn, monkeypatch):
    monkeypatch.setenv("HOST_SECRET", "sk-host")
    run = spawn("env", environment={**ENVIRONMENT, "MINE": "a b"})
    await run.ended()
    assert "MINE=a b" in run.log.read_text().splitlines()
    assert "sk-host" not in run.log.read_text()


async def test_the_server_inherits_no_open_files(spawn, tmp_path):
    with (tmp_path / "file of the host").open("w"):
        run = spawn("ls", "-l", "/proc/self/fd")
        await run.ended()
    assert "file of the host" not in run.log.read_text()
    assert ".lock" not in run.log.read_text()


async def test_the_log_is_for_this_user_only_and_begins_anew(spawn):
    await spawn("echo", "first").ended()
    run = spawn("echo", "second", name="run-2")
    await run.ended()
    assert run.log.read_text() == "second\n"
    assert stat.S_IMODE(run.log.stat().st_mode) == 0o600


async def test_nothing_is_left_to_be_reaped(spawn):
    run = spawn("true")
    await run.ended()
    assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []


async def test_a_run_that_never_was_is_not_alive(tmp_path):
    run = Run(tmp_path, "never")
    assert not run.alive()
    assert run.exit_code is None
    await run.ended()
    await run.kill()


async def test_a_run_outlives_who_started_it_and_anybody_sees_how_it_ends(tmp_path):
    source = f"""
        import asyncio, os, pathlib
        from loopnest_process.child import Run
        Run(pathlib.Path({str(tmp_path)!r}), "run-1").spawn({python(POLITE)!r}, {ENVIRONMENT!r}, "/")
        os.kill(os.getpid(), 9)
    """
    script = "\n".join(line.strip() for line in source.strip().splitlines())
    starter = await asyncio.create_subprocess_exec(*python(script))
    assert await starter.wait() == -signal.SIGKILL
    run = Run(tmp_path, "run-1")
    await said(run)
    assert run.alive()
    ending = asyncio.ensure_future(run.ended())
    run.ask_to_end()
    await ending
    assert run.exit_code == 7


async def test_the_end_is_seen_where_the_kernel_can_t_tell(spawn, monkeypatch):
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    run = spawn(*python(POLITE))
    await said(run)
    ending = asyncio.ensure_future(run.ended())
    await asyncio.sleep(0)
    run.ask_to_end()
    await ending
    assert run.exit_code == 7


async def test_only_what_the_run_serves_counts_as_its_port(spawn):
    run = spawn(*python("import socket, signal; s = socket.create_server(('127.0.0.1', 0)); "
                        "print('up', s.getsockname()[1], flush=True); signal.pause()"))  # fmt: skip
    await said(run)
    port = int(run.log.read_text().split()[1])
    assert run.listens(port)
    assert not run.listens(port + 1)
    await run.kill()
    assert not run.listens(port)


def test_a_run_can_t_be_started_twice(spawn, tmp_path):
    spawn(*python(DEAF))
    with pytest.raises(AssertionError, match="one supervisor"):
        Run(Path(tmp_path), "run-1").spawn(("true",), ENVIRONMENT, "/")
