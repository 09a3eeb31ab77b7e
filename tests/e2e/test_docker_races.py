"""Any number of hosts may start the same loops at once, and any of them may die at any line."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from loopnest import EVERYONE, LoopNotFound, LoopQuery, LoopStatus, StartLoop

ALL = LoopQuery(user_id=EVERYONE)
HOST = Path(__file__).with_name("host_process.py")


@pytest.fixture
def spawn_host(settings, standin):
    async def spawn(mode: str, *conversation_ids: str) -> asyncio.subprocess.Process:
        arguments = [settings.namespace, str(settings.state_dir), standin, mode, *conversation_ids]
        return await asyncio.create_subprocess_exec(
            sys.executable, str(HOST), *arguments, stdout=asyncio.subprocess.PIPE
        )

    return spawn


async def test_a_hundred_starts_of_fifty_ids_from_two_processes_make_fifty_containers(spawn_host, containers):
    ids = [f"c{number}" for number in range(50)]
    hosts = [await spawn_host("normal", *ids), await spawn_host("normal", *reversed(ids))]
    outputs = [(await host.communicate())[0].decode().splitlines() for host in hosts]
    for output in outputs:
        assert Counter(line.split()[0] for line in output) == {"open": 1, "started": 50}, output
    assert len(containers()) == 50
    assert len({line for output in outputs for line in output if line.startswith("started")}) == 50


@pytest.mark.parametrize("moment", [0.05, 0.3, 0.6, 1.2])
async def test_a_host_killed_in_the_middle_of_ten_starts_leaves_loops_that_the_next_one_finishes(
    spawn_host, open_manager, containers, moment
):
    ids = [f"c{number}" for number in range(10)]
    host = await spawn_host("slow", *ids)
    assert await host.stdout.readline() == b"open\n"
    await asyncio.sleep(moment)  # the point of the test: the kill comes at no moment in particular
    host.send_signal(signal.SIGKILL)
    await host.wait()
    manager = await open_manager()

    def left() -> set[str]:
        return {container["Names"][0].split(".")[2] for container in containers()}

    # The engine may still be creating what the host asked for with its last breath.
    before, listed = left(), {loop.conversation_id for loop in await manager.list_loops(ALL)}
    assert before <= listed <= left()
    loops = await asyncio.gather(*(manager.start_loop(StartLoop(conversation_id=name)) for name in ids))
    assert {loop.status for loop in loops} == {LoopStatus.RUNNING}
    assert len(containers()) == 10


async def test_what_a_killed_host_left_and_nobody_takes_up_is_removed_with_an_explanation(
    spawn_host, open_manager, containers
):
    host = await spawn_host("never", "c1", "c2")
    await host.stdout.readline()
    while len([container for container in containers() if container["State"] == "running"]) < 2:
        await asyncio.sleep(0.05)
    host.send_signal(signal.SIGKILL)
    await host.wait()
    manager = await open_manager(start_timeout=0.5, sweep_interval=0.5)
    async with manager.watch() as changes:
        told = [await asyncio.wait_for(anext(changes), 30) for _ in range(2)]
    assert {change.loop.reason for change in told} == {"interrupted"}
    assert containers() == []
    assert {(loop.status, loop.reason) for loop in await manager.list_loops(ALL)} == {("failed", "interrupted")}


async def test_of_two_users_who_race_for_one_id_exactly_one_gets_it(open_manager, containers):
    hosts = [await open_manager(), await open_manager()]
    for round_number in range(5):
        name = f"c{round_number}"
        starts = [
            host.start_loop(StartLoop(conversation_id=name), user)
            for host, user in zip(hosts, ("alice", "bob"), strict=True)
        ]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        kinds = sorted(type(outcome).__name__ for outcome in outcomes)
        assert kinds == ["Loop", "LoopNotFound"], outcomes
    assert len(containers()) == 5


async def test_another_host_sees_loops_it_did_not_start_and_may_drive_and_close_them(open_manager):
    one, two = await open_manager(), await open_manager()
    started = await one.start_loop(StartLoop(conversation_id="c1"), "alice")
    [seen] = await two.list_loops(LoopQuery(user_id="alice"))
    assert (seen.url, seen.session_key) == (started.url, started.session_key)
    with pytest.raises(LoopNotFound):
        await two.close_session("c1", "bob")
    await two.close_session("c1", "alice")
    [stopped] = await one.list_loops(LoopQuery(user_id="alice"))
    assert stopped.status is LoopStatus.STOPPED


async def test_a_start_that_is_cancelled_leaves_nothing(open_manager, containers):
    manager = await open_manager()
    start = asyncio.ensure_future(manager.start_loop(StartLoop(conversation_id="c1", environment={"STANDIN": "never"})))
    while not containers():
        await asyncio.sleep(0.02)
    await manager.aclose()
    with pytest.raises(Exception, match=r"closed while it was starting|stopped meanwhile"):
        await start
    assert containers() == []
