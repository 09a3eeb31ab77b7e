"""What the process strategy does beyond what every strategy must."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
from pydantic import SecretStr

from loopnest import (
    ConfigurationError,
    InvalidRequest,
    LoopFailed,
    LoopManager,
    LoopnestSettings,
    LoopQuery,
    LoopStatus,
    NestedError,
    Reason,
)
from loopnest.testing import user_message
from loopnest_process import boot
from loopnest_process.hooks import ProcessStrategy
from loopnest_process.registry import Registry
from loopnest_process.settings import ProcessSettings

from ..processes import kill_processes_of, processes_of
from ..received import received
from ..start_requests import start_request
from .conftest import SITE

ALICE = "alice@example.com"


def request(conversation_id="c1", mode=None, **facts):
    environment = {"STANDIN": SecretStr(mode)} if mode else {}
    return start_request(conversation_id, environment=environment, **facts)


def servers_of(state_dir):
    """The nested servers that run."""
    return [process for process in processes_of(state_dir) if "openhands.agent_server" in process.cmdline()[:5]]


@pytest.fixture
def loops_dir(state_dir):
    return state_dir / "default" / "process" / "loops"


async def until(changes, status):
    return await asyncio.wait_for(anext(change async for change in changes if change.status is status), 30)


# --- failures -----------------------------------------------------------------------------------------------------


async def test_a_server_that_ends_early_is_explained_and_leaves_nothing(opened, state_dir, loops_dir):
    async with opened(secret_environment={"PASSWORD": SecretStr("refusing"), "FLAG": SecretStr("to")}) as loops:
        with pytest.raises(LoopFailed, match=r"ended with exit code 3 before it was ready") as caught:
            await loops.start_loop(request(mode="exit"), ALICE)
        assert (caught.value.reason, caught.value.exit_code) == (Reason.EXITED_EARLY, 3)
        listed = await loops.get_loop("c1", ALICE)
        assert (listed.status, listed.exit_code) == (LoopStatus.FAILED, 3)
        assert listed.log_tail == caught.value.log_tail
        *_, last = listed.log_tail
        assert last == "standin: ********** to boot, session key **********"
    assert servers_of(state_dir) == []
    assert list(loops_dir.iterdir()) == []


async def test_a_server_that_is_never_ready_is_given_up(opened, state_dir, loops_dir):
    async with opened(start_timeout=1) as loops:
        with pytest.raises(LoopFailed, match=r"not ready within 1 s \('loopnest\.process\.start_timeout'\)") as caught:
            await loops.start_loop(request(mode="never"), ALICE)
        assert caught.value.reason == Reason.START_TIMEOUT
        assert any("booting" in line for line in caught.value.log_tail)
    assert servers_of(state_dir) == []
    assert list(loops_dir.iterdir()) == []


async def test_a_server_that_refuses_the_conversation_leaves_nothing(opened, state_dir, loops_dir):
    async with opened() as loops:
        with pytest.raises(NestedError, match="no agent") as caught:
            await loops.start_loop(request(mode="refuse"), ALICE)
        assert caught.value.reason == Reason.NESTED_REFUSED
    assert servers_of(state_dir) == []
    assert list(loops_dir.iterdir()) == []


async def test_a_restart_that_fails_keeps_the_workspace(opened, loops_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        (loops_dir / "c1" / "workspace" / "work").write_text("hours of it")
        await loops.close_session("c1", ALICE)
        with pytest.raises(LoopFailed):
            await loops.start_loop(request(mode="exit"), ALICE)
        assert (await loops.get_loop("c1", ALICE)).reason == Reason.EXITED_EARLY
        assert (await loops.start_loop(request(), ALICE)).status is LoopStatus.RUNNING
        assert (loops_dir / "c1" / "workspace" / "work").read_text() == "hours of it"


async def test_a_lost_history_fails_the_start_and_keeps_the_workspace(opened, loops_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        await loops.close_session("c1", ALICE)
        (loops_dir / "c1" / "workspace" / "work").write_text("work")
        for file in (loops_dir / "c1" / "data" / "conversations").iterdir():
            file.rename(file.with_name("truncated"))
        with pytest.raises(LoopFailed) as caught:
            await loops.start_loop(request(), ALICE)
        assert caught.value.reason == Reason.HISTORY_LOST
        [loop] = await loops.list_loops(LoopQuery(user_id=ALICE))
    assert (loop.status, loop.reason) == (LoopStatus.FAILED, Reason.HISTORY_LOST)
    assert (loops_dir / "c1" / "workspace" / "work").read_text() == "work"


async def test_a_workspace_that_is_gone_is_not_replaced(opened, tmp_path):
    async with opened(workspaces=tmp_path / "disk") as loops:
        await loops.start_loop(request(), ALICE)
        await loops.close_session("c1", ALICE)
        unmounted = (tmp_path / "disk").rename(tmp_path / "unmounted")
        with pytest.raises(LoopFailed, match=f"{tmp_path}/disk/c1") as caught:
            await loops.start_loop(request(), ALICE)
        assert caught.value.reason == Reason.MOUNT_MISSING
        unmounted.rename(tmp_path / "disk")
        assert (await loops.start_loop(request(), ALICE)).status is LoopStatus.RUNNING


async def test_a_close_keeps_a_conversation_that_a_killed_host_had_created(opened, loops_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        registry = Registry(loops_dir)
        record = registry.read("c1")
        registry.write(record.model_copy(update={"state": "starting", "proven": False}))
        assert not (await loops.close_session("c1", ALICE)).removed
        assert (await loops.start_loop(request(), ALICE)).status is LoopStatus.RUNNING


async def test_a_missing_server_is_explained(opened):
    async with opened(python="/nowhere/python") as loops:
        with pytest.raises(LoopFailed) as caught:
            await loops.start_loop(request(), ALICE)
        assert caught.value.reason == Reason.SERVER_MISSING
        assert (await loops.get_loop("c1", ALICE)).reason == Reason.SERVER_MISSING


#: How a nested server ends by itself, and what every manager must say of it.
ENDS = {
    "SIGKILL": (signal.SIGKILL, (LoopStatus.FAILED, Reason.KILLED, 137)),
    "SIGTERM": (signal.SIGTERM, (LoopStatus.STOPPED, None, 0)),
    "SIGINT": (signal.SIGINT, (LoopStatus.STOPPED, None, 130)),
    "SIGUSR1": (signal.SIGUSR1, (LoopStatus.FAILED, Reason.EXITED, 138)),
}


@pytest.mark.parametrize("end", ENDS)
async def test_every_manager_says_the_same_of_an_end(opened, state_dir, end):
    number, expected = ENDS[end]
    async with opened() as loops, loops.watch() as changes:
        await loops.start_loop(request(), ALICE)
        (server,) = servers_of(state_dir)
        server.send_signal(number)
        told = await until(changes, expected[0])
        assert (told.status, told.loop.reason, told.loop.exit_code) == expected
        listed = await loops.get_loop("c1", ALICE)
        assert listed.log_tail == told.loop.log_tail
        assert bool(told.loop.log_tail) is (told.status is LoopStatus.FAILED)
        async with opened() as later:
            for manager in (loops, later):
                listed = await manager.get_loop("c1", ALICE)
                assert (listed.status, listed.reason, listed.exit_code) == expected
        assert (await loops.close_session("c1", ALICE)).already
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.STOPPED


@pytest.mark.parametrize(("mode", "code"), [("normal", 0), ("deaf", 137)])
async def test_every_manager_says_that_a_closed_loop_is_stopped(opened, mode, code):
    async with opened(stop_timeout=0.5) as loops, opened() as watching:
        await loops.start_loop(request(mode=mode), ALICE)
        assert (await watching.get_loop("c1", ALICE)).status is LoopStatus.RUNNING
        await loops.close_session("c1", ALICE)
        async with opened() as later:
            for manager in (loops, watching, later):
                listed = await manager.get_loop("c1", ALICE)
                assert (listed.status, listed.reason, listed.exit_code) == (LoopStatus.STOPPED, None, code)


async def test_an_end_that_nothing_saw_is_listed_by_the_next_host(opened, state_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
    (server,) = servers_of(state_dir)
    supervisor = server.parent()
    server.kill()
    supervisor.wait(30)  # it writes down how the server ended
    async with opened() as loops:
        listed = await loops.get_loop("c1", ALICE)
        assert (listed.status, listed.reason, listed.exit_code) == (LoopStatus.FAILED, Reason.KILLED, 137)
        assert "killed (SIGKILL)" in listed.message
        assert (await loops.start_loop(request(), ALICE)).status is LoopStatus.RUNNING


async def test_a_restart_of_the_machine_fails_its_loops(opened, state_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
    for process in processes_of(state_dir):
        if process.name() == "sh":
            process.kill()
            process.wait(30)
    kill_processes_of(state_dir)
    async with opened() as loops:
        listed = await loops.get_loop("c1", ALICE)
        assert (listed.status, listed.reason, listed.exit_code) == (LoopStatus.FAILED, Reason.KILLED, None)
        assert "crash or restart of its machine" in listed.message


# --- closing ------------------------------------------------------------------------------------------------------


async def test_a_deaf_server_is_killed_within_the_limit(opened, state_dir):
    async with opened(stop_timeout=0.5) as loops:
        await loops.start_loop(request(mode="deaf"), ALICE)
        closed = await asyncio.wait_for(loops.close_session("c1", ALICE), 10)
        assert (closed.graceful, closed.exit_code) == (False, 137)
        assert "did not end when asked to, and was killed" in closed.message
        assert servers_of(state_dir) == []


async def test_a_polite_server_is_closed_gracefully_and_silently(opened, state_dir):
    async with opened() as loops, loops.watch() as changes:
        await loops.start_loop(request(), ALICE)
        closed = await loops.close_session("c1", ALICE)
        assert (closed.graceful, closed.exit_code, closed.message) == (True, 0, None)
        assert list(processes_of(state_dir)) == []
        await loops.aclose()
        assert [change.status async for change in changes][-1] is LoopStatus.STOPPED


async def test_a_frozen_server_is_closed_within_the_limit(opened, state_dir):
    async with opened(stop_timeout=0.5) as loops:
        await loops.start_loop(request(), ALICE)
        for process in processes_of(state_dir):
            process.suspend()
        listed = await asyncio.wait_for(loops.list_loops(LoopQuery(user_id=ALICE, probe=True)), 10)
        assert [loop.reason for loop in listed] == [Reason.NESTED_TIMEOUT]
        closed = await asyncio.wait_for(loops.close_session("c1", ALICE), 20)
        assert not closed.graceful
        assert list(processes_of(state_dir)) == []


async def test_removing_removes_everything(opened, loops_dir, tmp_path):
    async with opened(workspaces=tmp_path / "work") as loops:
        await loops.start_loop(request(), ALICE)
        (tmp_path / "work" / "c1" / "file").write_text("x")
        await loops.close_session("c1", ALICE, remove=True)
        assert list(loops_dir.iterdir()) == []
        assert list((tmp_path / "work").iterdir()) == []


# --- events -------------------------------------------------------------------------------------------------------


async def test_an_event_starts_a_stopped_loop_again_and_that_is_told(opened):
    async with opened() as loops:
        await loops.start_loop(request(initial_message=user_message("first")), ALICE)
        await loops.close_session("c1", ALICE)
        async with loops.watch() as changes:
            await loops.send_event("c1", user_message("second"), ALICE)
            assert (await until(changes, LoopStatus.RUNNING)).phase == "ready"
        assert await received(loops, "c1") == ["first", "second"]


async def test_an_event_starts_a_loop_that_died_again(opened, state_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        async with loops.watch() as changes:
            servers_of(state_dir)[0].kill()
            await until(changes, LoopStatus.FAILED)
        await loops.send_event("c1", user_message("hello"), ALICE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING


async def test_an_event_for_a_loop_that_starts_waits_for_it(opened):
    async with opened() as loops:
        await loops.start_loop(request(mode="slow"), ALICE, wait=False)
        await asyncio.sleep(0.3)
        await loops.send_event("c1", user_message("hello"), ALICE)
        assert await received(loops, "c1") == ["hello"]


# --- ports --------------------------------------------------------------------------------------------------------


class Impostor(ThreadingHTTPServer):
    """Many at once, as one client that connects and says nothing would hold up a single thread for ever."""

    daemon_threads = True
    block_on_close = False


@pytest.fixture
def impostor():
    """Somebody who took the port a moment ago, and says yes to everything."""

    class Yes(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("X-Session-API-Key"))
            self.send_response(200)
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *args):
            pass

    asked = []
    with Impostor(("127.0.0.1", 0), Yes) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


async def test_a_port_that_was_taken_meanwhile_is_exchanged(opened, impostor, monkeypatch):
    free_port, given = boot._free_port, [impostor]
    monkeypatch.setattr(boot, "_free_port", lambda: given.pop() if given else free_port())
    async with opened() as loops:
        loop = await loops.start_loop(request(), ALICE)
        assert httpx.URL(loop.url).port != impostor
        await loops.send_event("c1", user_message("hello"), ALICE)
        assert await received(loops, "c1") == ["hello"]


async def test_where_every_port_is_taken_the_start_fails(opened, impostor, monkeypatch):
    monkeypatch.setattr(boot, "_free_port", lambda: impostor)
    async with opened() as loops:
        with pytest.raises(LoopFailed) as caught:
            await loops.start_loop(request(), ALICE)
        assert any("Address already in use" in line for line in caught.value.log_tail)


# --- secrets and isolation ----------------------------------------------------------------------------------------


async def test_the_key_opens_the_server_and_is_written_nowhere(opened, state_dir, loops_dir):
    async with opened(secret_environment={"PASSWORD": SecretStr("sk-1234")}) as loops:
        loop = await loops.start_loop(request(), ALICE)
        key = loop.session_key.get_secret_value()
        async with httpx.AsyncClient(trust_env=False) as http:
            path = f"{loop.url}/api/conversations/{loop.nested_id}"
            assert (await http.get(path)).status_code == 401
            assert (await http.get(path, headers={"X-Session-API-Key": key})).status_code == 200
        for process in processes_of(state_dir):
            assert key not in " ".join(process.cmdline())
            assert "sk-1234" not in " ".join(process.cmdline())
        files = [path for path in state_dir.rglob("*") if path.is_file()]
        assert not [path for path in files if key in path.read_text() or "sk-1234" in path.read_text()]
        assert [stat.S_IMODE(path.stat().st_mode) for path in (loops_dir, loops_dir / "c1")] == [0o700, 0o700]


async def test_the_server_gets_only_what_it_needs_of_the_host_s_environment(opened, state_dir, monkeypatch):
    monkeypatch.setenv("HOST_PASSWORD", "sk-host")
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        (server,) = servers_of(state_dir)
        environment = server.environ()
        assert "sk-host" not in str(environment)
        assert environment["PATH"] == os.environ["PATH"]


async def test_opening_says_loudly_that_nothing_is_isolated(opened, caplog):
    async with opened():
        assert "isolates nothing: agents run as this user" in caplog.text


async def test_a_host_with_another_secret_closes_but_does_not_drive(opened, state_dir, new_manager):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
    settings = LoopnestSettings(strategy="process", state_dir=state_dir, secret="another secret altogether")
    strategy = new_manager().plugins.get_plugin("process")
    async with LoopManager.from_plugins(ProcessStrategy(strategy._settings), settings=settings) as loops:
        listed = await loops.get_loop("c1", ALICE)
        assert (listed.reason, listed.session_key, listed.url) == (Reason.FOREIGN_SECRET, None, None)
        for call in (loops.start_loop(request(), ALICE), loops.send_event("c1", user_message("hello"), ALICE)):
            with pytest.raises(LoopFailed, match=r"must share 'loopnest\.secret'") as caught:
                await call
            assert caught.value.reason == Reason.FOREIGN_SECRET
        assert not (await loops.close_session("c1", ALICE, remove=True)).already
        assert (await loops.start_loop(request(), ALICE)).status is LoopStatus.RUNNING


def plant(directory, names, marker):
    """Modules that leave a mark where they are imported, and then fail."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        (directory / name).write_text(f"open({str(marker)!r}, 'w').close(); raise SystemExit('not the one wanted')\n")


@pytest.mark.parametrize("name", ["email.py", "typing.py", "openhands.py", "argparse.py"])
async def test_files_in_the_workspace_are_no_modules_of_the_server(opened, loops_dir, tmp_path, name):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        await loops.close_session("c1", ALICE)
        plant(loops_dir / "c1" / "workspace", [name], tmp_path / "imported")
        await loops.start_loop(request(), ALICE)
        assert not (tmp_path / "imported").exists()


async def test_an_empty_entry_of_the_python_path_is_not_the_workspace(opened, loops_dir, tmp_path):
    async with opened(environment={"PYTHONPATH": f":{SITE}:"}) as loops:
        plant(loops_dir / "c1" / "workspace", ["argparse.py"], tmp_path / "imported")
        await loops.start_loop(request(), ALICE)
        assert not (tmp_path / "imported").exists()


async def test_what_is_installed_for_the_user_is_not_for_the_server(opened, tmp_path):
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    python = Path(sys.base_prefix) / "bin" / version  # one of no virtual environment, as those have no such packages
    plant(tmp_path / ".local" / "lib" / version / "site-packages", ["usercustomize.py"], tmp_path / "imported")
    async with opened(python=python, environment={"HOME": str(tmp_path), "PYTHONPATH": str(SITE)}) as loops:
        await loops.start_loop(request(), ALICE)
        assert not (tmp_path / "imported").exists()


# --- more ---------------------------------------------------------------------------------------------------------


async def test_the_log_is_read_and_followed_to_its_end(opened):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        follow = await loops.loop_logs("c1", ALICE, follow=True)
        assert await anext(follow) == "standin: booting in mode normal"
        await loops.close_session("c1", ALICE)
        assert [line async for line in follow] == []
        assert [line async for line in await loops.loop_logs("c1", ALICE, tail=1)] == [
            "standin: booting in mode normal"
        ]


async def test_a_bare_loop_has_a_server_and_no_conversation(opened):
    async with opened() as loops:
        loop = await loops.start_loop(request(mode="refuse", conversation=None), ALICE)
        assert (loop.status, loop.nested_id) == (LoopStatus.RUNNING, None)
        assert (await loops.close_session("c1", ALICE)).already is False


async def test_a_hundred_loops_are_listed_without_stalling_the_event_loop(opened, state_dir, loops_dir):
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        registry = Registry(loops_dir)
        record = registry.read("c1")
        for number in range(100):
            registry.write(record.model_copy(update={"conversation_id": f"copy-{number}", "state": "stopped"}))
        assert len(await loops.list_loops(LoopQuery(user_id=ALICE))) == 101


async def test_records_of_another_version_are_left_alone(opened, loops_dir, caplog):
    (loops_dir / "c9").mkdir(parents=True)
    (loops_dir / "c9" / "record.json").write_text('{"conversation_id": "c9", "from": "the future"}')
    async with opened() as loops:
        assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []
    assert "which another version may have written" in caplog.text
    assert (loops_dir / "c9" / "record.json").exists()


async def test_a_closed_strategy_leaves_no_zombie_and_no_open_file(opened):
    before = psutil.Process().num_fds()
    async with opened() as loops:
        await loops.start_loop(request(), ALICE)
        await loops.close_session("c1", ALICE, remove=True)
    assert psutil.Process().num_fds() <= before + 1
    assert [one for one in psutil.Process().children() if one.status() == psutil.STATUS_ZOMBIE] == []


def test_the_strategy_s_files_are_where_the_readme_says(tmp_path):
    registry = Registry(tmp_path)
    assert registry.place("c1").workspace == str(tmp_path / "c1" / "workspace")
    assert Registry(tmp_path, Path("/work")).place("c1").workspace == "/work/c1"


async def test_a_request_that_replaces_a_key_is_refused(opened):
    async with opened() as loops:
        taken = start_request("c1", environment={"OH_SESSION_API_KEYS_0": SecretStr("mine")})
        with pytest.raises(InvalidRequest, match=r"'environment\.OH_SESSION_API_KEYS_0' can't be set"):
            await loops.start_loop(taken, ALICE)
        assert (await loops.get_loop("c1", ALICE)).reason == Reason.INVALID_REQUEST


@pytest.mark.parametrize("key", ["environment", "secret_environment"])
async def test_settings_that_replace_a_key_stop_the_host(opened, key):
    with pytest.raises(ConfigurationError, match=rf"'loopnest\.process\.{key}\.OH_SECRET_KEY' can't be set"):
        async with opened(**{key: {"OH_SECRET_KEY": "mine"}}):
            pass


async def test_an_image_is_refused_by_its_name(opened):
    async with opened() as loops:
        with pytest.raises(InvalidRequest, match="'image' can't be chosen: the strategy 'process' does not run images"):
            await loops.start_loop(start_request("c1", image="python:3.13"), ALICE)
        assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []


def test_relative_paths_begin_where_the_program_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/alice")
    own = ProcessSettings(python="venv/bin/python", workspaces="~/work", cache_dir="cache")
    assert [str(path) for path in (own.python, own.workspaces, own.cache_dir)] == [
        *(f"{tmp_path}/venv/bin/python", "/home/alice/work", f"{tmp_path}/cache")
    ]
    assert LoopnestSettings(state_dir="state").state_dir == tmp_path / "state"
