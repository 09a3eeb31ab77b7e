"""How a loop ended is the same for every manager: one that watched, one opened later, one without a state directory."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import SecretStr

from loopnest import (
    EVERYONE,
    Loop,
    LoopChange,
    LoopFailed,
    LoopManager,
    LoopnestSettings,
    LoopQuery,
    LoopStatus,
    StartLoop,
)
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings

from ..sockets import leaves_sockets
from .engine_proxy import engine_proxy

ALL = LoopQuery(user_id=EVERYONE)
STOPPED, FAILED = LoopStatus.STOPPED, LoopStatus.FAILED
SERVER = "python3 -u /standin/nested_server.py"
#: Ends with the code that is written into a file.
OBEDIENT = (
    "sh",
    "-c",
    f"{SERVER} & until [ -s /tmp/exit ]; do sleep 0.02; done; code=$(cat /tmp/exit); rm /tmp/exit; exit $code",
)
#: Ends with code 3 when it is asked to end.
SULLEN = ("sh", "-c", f"trap 'exit 3' TERM; {SERVER} & wait")


@dataclass
class Stage:
    """One loop, the manager that started it, and one that watches."""

    starter: LoopManager
    watching: LoopManager
    changes: Any
    engine: Any
    container: str

    async def run(self, command: str) -> None:
        """Run a shell command in the container, which may end by it."""
        created = self.engine.exec_create(self.container, ["sh", "-c", command])
        await asyncio.to_thread(self.engine.exec_start, created["Id"])

    async def tool_out_of_memory(self) -> None:
        """Have the kernel kill a process of the agent's, but not the nested server."""
        await self.run("echo 1000 >/proc/self/oom_score_adj; exec python3 -c 'bytearray(1 << 30)'")
        assert self.engine.inspect_container(self.container)["State"]["Running"]

    async def close(self) -> None:
        await self.starter.close_session("c1")

    async def kill(self) -> None:
        self.engine.kill(self.container)

    async def stop(self) -> None:
        await asyncio.to_thread(self.engine.stop, self.container, timeout=1)

    async def out_of_memory(self) -> None:
        hog = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 24))'"
        await self.run(f"echo -1000 >/proc/self/oom_score_adj; {hog}")
        if self.engine.inspect_container(self.container)["State"]["Running"]:
            self.engine.kill(self.container)

    async def exit_3(self) -> None:
        await self.run("echo 3 >/tmp/exit")

    async def exit_0(self) -> None:
        await self.run("echo 0 >/tmp/exit")

    async def exit_139(self) -> None:
        await self.run("echo 139 >/tmp/exit")

    async def tool_then_close(self) -> None:
        await self.tool_out_of_memory()
        await self.close()

    async def tool_then_exit_3(self) -> None:
        await self.tool_out_of_memory()
        await self.exit_3()

    async def close_start_kill(self) -> None:
        await self.close()
        await self.until_published()
        await self.starter.start_loop(StartLoop(conversation_id="c1", environment={"STANDIN": "deaf"}))
        await self.watching.list_loops(ALL)
        await self.kill()

    async def until_published(self) -> LoopChange:
        """The next change that the watching manager publishes."""
        change: LoopChange = await asyncio.wait_for(anext(self.changes), 20)
        return change


@pytest.fixture
def stage(open_manager, engine, containers):
    """Start a loop, and have another manager watch it."""

    async def build(mode: str, stack: Any, **settings: Any) -> Stage:
        starter = await open_manager(close_timeout=1, memory="64MiB", **settings)
        watching = await open_manager(memory="64MiB", **settings)
        await starter.start_loop(StartLoop(conversation_id="c1", environment={"STANDIN": mode}))
        while [loop.status for loop in await watching.list_loops(ALL)] != [LoopStatus.RUNNING]:
            await asyncio.sleep(0.02)
        while not watching.plugins.get_plugin("docker")._parts.inventory._stream.alive:
            await asyncio.sleep(0.02)
        await watching.list_loops(ALL)
        changes = await stack.enter_async_context(watching.watch())
        return Stage(starter, watching, changes, engine, containers()[0]["Id"])

    return build


@pytest.fixture
async def stack():
    async with contextlib.AsyncExitStack() as opened:
        yield opened


@pytest.fixture
def settings(settings):
    """With a secret that does not depend on the state directory."""
    return settings.model_copy(update={"secret": SecretStr("a secret of the tests")})


@pytest.fixture
def without_state(settings, standin, tmp_path, stack):
    """Open a manager as after the state directory was lost."""

    async def build(base: LoopnestSettings = settings) -> LoopManager:
        lost = base.model_copy(update={"state_dir": tmp_path / "new-state"})
        manager = LoopManager.from_plugins(DockerStrategy(DockerSettings(image=standin)), settings=lost)
        return await stack.enter_async_context(manager)

    return build


Act = Callable[[Stage], Awaitable[None]]
CASES: dict[str, tuple[str, dict[str, Any], Act, tuple[LoopStatus, str | None, int]]] = {
    "close": ("normal", {}, Stage.close, (STOPPED, None, 0)),
    "close of a deaf server": ("deaf", {}, Stage.close, (STOPPED, None, 137)),
    "close of a server that ends with 3": ("normal", {"command": SULLEN}, Stage.close, (STOPPED, None, 3)),
    "docker kill": ("normal", {}, Stage.kill, (FAILED, "killed", 137)),
    "docker stop": ("normal", {}, Stage.stop, (STOPPED, None, 0)),
    "docker stop of a deaf server": ("deaf", {}, Stage.stop, (FAILED, "killed", 137)),
    "out of memory": ("normal", {}, Stage.out_of_memory, (FAILED, "oom-killed", 137)),
    "exit code 3": ("normal", {"command": OBEDIENT}, Stage.exit_3, (FAILED, "exited", 3)),
    "exit code 139": ("normal", {"command": OBEDIENT}, Stage.exit_139, (FAILED, "exited", 139)),
    "exit code 0": ("normal", {"command": OBEDIENT}, Stage.exit_0, (STOPPED, None, 0)),
    "a tool out of memory, then close": ("normal", {}, Stage.tool_then_close, (STOPPED, None, 0)),
    "a tool out of memory, then exit code 3": (
        "normal",
        {"command": OBEDIENT},
        Stage.tool_then_exit_3,
        (FAILED, "exited", 3),
    ),
    "close, start, docker kill": ("deaf", {}, Stage.close_start_kill, (FAILED, "killed", 137)),
}


def facts(loop: Loop | LoopChange) -> tuple[LoopStatus | None, str | None, int | None]:
    return loop.status, loop.reason, loop.exit_code


async def listed(manager: LoopManager) -> tuple[LoopStatus | None, str | None, int | None]:
    [loop] = await manager.list_loops(ALL)
    return facts(loop)


@pytest.mark.parametrize("case", CASES)
async def test_every_manager_says_the_same_of_an_end(case, stage, stack, open_manager, without_state):
    mode, settings, act, expected = CASES[case]
    staged = await stage(mode, stack, **settings)
    await act(staged)
    change = await staged.until_published()
    assert (change.status, change.loop.reason) == expected[:2]
    later = await open_manager(**settings)
    managers = (staged.starter, staged.watching, later, await without_state())
    assert [await listed(manager) for manager in managers] == [expected] * 4
    await staged.starter.start_loop(StartLoop(conversation_id="c1"))
    assert (await later.get_loop("c1")).status is LoopStatus.RUNNING


async def test_a_killed_loop_that_is_closed_is_stopped_for_all(stage, stack, open_manager, without_state):
    staged = await stage("normal", stack)
    await staged.kill()
    await staged.until_published()
    assert await listed(staged.watching) == (FAILED, "killed", 137)
    assert (await staged.starter.close_session("c1")).already
    while (await listed(staged.watching))[0] is FAILED:  # until the engine's event has come
        await asyncio.sleep(0.02)
    managers = (staged.starter, staged.watching, await open_manager(), await without_state())
    assert [await listed(manager) for manager in managers] == [(STOPPED, None, 137)] * 4


async def test_a_kill_right_after_a_close_and_a_start_is_published(open_manager, engine, containers):
    manager = await open_manager()
    for _ in range(2):
        await manager.start_loop(StartLoop(conversation_id="c1"))
        await manager.close_session("c1")
    await manager.start_loop(StartLoop(conversation_id="c1"))
    async with manager.watch() as changes:
        engine.kill(containers()[0]["Id"])
        change = await asyncio.wait_for(anext(changes), 10)
    assert (change.status, change.loop.reason) == (FAILED, "killed")


async def test_a_deaf_loop_that_is_removed_leaves_no_failure(stage, stack, open_manager):
    staged = await stage("deaf", stack)
    await staged.starter.close_session("c1", remove=True)
    assert (await staged.until_published()).status in {STOPPED, None}
    for manager in (staged.starter, staged.watching, await open_manager()):
        assert await manager.list_loops(ALL) == []


async def test_a_container_that_is_removed_from_outside_is_published_as_removed(stage, stack, open_manager):
    staged = await stage("normal", stack)
    staged.engine.remove_container(staged.container, force=True)
    change = await staged.until_published()
    assert (change.status, change.phase) == (None, "removed")
    for manager in (staged.starter, staged.watching, await open_manager()):
        assert await manager.list_loops(ALL) == []


async def test_a_kill_is_listed_where_the_secret_was_lost_too(stage, stack, settings, without_state):
    staged = await stage("normal", stack)
    await staged.kill()
    other = settings.model_copy(update={"secret": None})
    assert await listed(await without_state(other)) == (FAILED, "killed", 137)


async def test_a_close_by_a_replica_interrupts_the_start(open_manager):
    starting, closing = await open_manager(), await open_manager()
    start = asyncio.ensure_future(
        starting.start_loop(StartLoop(conversation_id="c1", environment={"STANDIN": "never"}))
    )
    while [loop.url is None for loop in await closing.list_loops(ALL)] != [False]:
        await asyncio.sleep(0.02)
    await closing.close_session("c1")
    with pytest.raises(LoopFailed) as caught:
        await start
    assert caught.value.reason == "interrupted"


@leaves_sockets
async def test_a_close_by_a_replica_removes_a_container_that_never_ran(open_manager, containers, tmp_path):
    with engine_proxy(tmp_path) as proxy:
        starting, closing = await open_manager(engine={"url": proxy.url}), await open_manager()
        proxy.delay = 0.5
        start = asyncio.ensure_future(starting.start_loop(StartLoop(conversation_id="c1")))
        while not any(line.startswith("PUT") for line in proxy.requests):  # it was created, and is not started yet
            await asyncio.sleep(0.02)
        closed = await closing.close_session("c1")
        assert (closed.removed, closed.already) == (True, False)
        with pytest.raises(LoopFailed) as caught:
            await start
        assert caught.value.reason == "interrupted"
        assert containers() == []


@leaves_sockets
async def test_ends_are_read_once_however_often_all_is_listed(open_manager, tmp_path, engine, containers):
    with engine_proxy(tmp_path) as proxy:
        manager = await open_manager(engine={"url": proxy.url, "max_age": 0.2}, close_timeout=1)
        for name, mode in (("c1", "normal"), ("c2", "normal"), ("c3", "deaf")):
            await manager.start_loop(StartLoop(conversation_id=name, environment={"STANDIN": mode}))
            await manager.close_session(name)
        before = len(proxy.requests)
        for _ in range(10):
            assert [loop.status for loop in await manager.list_loops(ALL)] == [STOPPED] * 3
            await asyncio.sleep(0.3)  # more than max_age, so that all is listed each time
        kinds = Counter(kind(line) for line in proxy.requests[before:])
        assert kinds["listing"] > 5
        assert (kinds["inspect"], kinds["note"]) == (1, 1)


def kind(line: str) -> str:
    """What a request to the engine is about."""
    kinds = {"/containers/json?": "listing", "/json ": "inspect", "/archive?": "note", "/events?": "stream"}
    return next(name for part, name in kinds.items() if part in line)


@leaves_sockets
async def test_a_crash_fails_loops_and_a_shutdown_stops_them(loopnest, tmp_path, standin, stack):
    run, machine = loopnest
    settings = LoopnestSettings(namespace="own", state_dir=tmp_path / "state")
    strategy = DockerStrategy(DockerSettings(image=standin, engine={"url": machine.url}))
    watching = await stack.enter_async_context(LoopManager.from_plugins(strategy, settings=settings))

    async def seen() -> list[dict[str, tuple[str, str | None]]]:
        """What the manager that watched and a new process list."""
        by_watching = {
            loop.conversation_id: (loop.status.value, loop.reason) for loop in await watching.list_loops(ALL)
        }
        new = json.loads(await asyncio.to_thread(run, "list", "--json"))["loops"]
        return [by_watching, {loop["conversation_id"]: (loop["status"], loop["reason"]) for loop in new}]

    for name in ("c1", "c2"):
        await asyncio.to_thread(run, "start", name)
    await asyncio.to_thread(run, "close", "c2")
    await asyncio.to_thread(machine.crash)
    await asyncio.to_thread(machine.boot)
    assert await seen() == [{"c1": ("failed", "killed"), "c2": ("stopped", None)}] * 2
    for name in ("c1", "c2"):
        await asyncio.to_thread(run, "start", name)
    await asyncio.to_thread(machine.shut_down)
    await asyncio.to_thread(machine.boot)
    assert await seen() == [{"c1": ("stopped", None), "c2": ("stopped", None)}] * 2
    await asyncio.to_thread(run, "start", "c1")
    assert (await seen())[1]["c1"] == ("running", None)
