"""Several host processes, and hosts that die at any line."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from loopnest import EVERYONE, LoopQuery, LoopStatus, Reason, StartLoop
from loopnest.testing import user_message

from ..processes import processes_of
from ..received import received
from .conftest import SITE

TEN = [f"c{number}" for number in range(10)]


@pytest.fixture
async def host(state_dir):
    """Start another host process, which starts loops."""
    started = []

    async def begin(*conversation_ids, mode="normal"):
        command = [sys.executable, str(Path(__file__).with_name("host.py")), str(state_dir), str(SITE), mode]
        process = await asyncio.create_subprocess_exec(
            *command, *conversation_ids, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def servers(state_dir):
    """How many nested servers run, by their working directory."""
    running = [process for process in processes_of(state_dir) if "openhands.agent_server" in process.cmdline()[:5]]
    return Counter(Path(process.cwd()).parent.name for process in running)


async def settled(loops):
    """All loops, once none is starting: a child of a killed host holds its locks until it runs a program of its own."""
    while True:
        listed = {loop.conversation_id: loop for loop in await loops.list_loops(LoopQuery(user_id=EVERYONE))}
        if LoopStatus.STARTING not in {loop.status for loop in listed.values()}:
            return listed
        await asyncio.sleep(0.05)


async def test_loops_are_adopted_by_the_next_host_process(host, opened, state_dir):
    process = await host("c1")
    line = (await process.stdout.readline()).decode().split()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with opened() as loops:
        loop = await loops.get_loop("c1")
        assert [line[0], line[2]] == ["started", loop.url]
        assert loop.status is LoopStatus.RUNNING
        await loops.send_event("c1", user_message("hello"))
        assert await received(loops, "c1") == ["hello"]
        async with loops.watch() as changes:  # it is watched too
            for one in processes_of(state_dir):
                one.kill()
            assert (await asyncio.wait_for(anext(changes), 10)).loop.reason == Reason.KILLED


async def test_two_host_processes_never_start_two(host, state_dir):
    hosts = [await host(*TEN) for _ in range(2)]
    outputs = [(await process.communicate())[0].decode().split("\n") for process in hosts]
    assert servers(state_dir) == dict.fromkeys(TEN, 1)
    assert sorted(outputs[0]) == sorted(outputs[1])
    assert sum(line.startswith("started") for line in outputs[0]) == len(TEN)


async def test_a_host_killed_in_the_middle_of_ten_starts_leaves_nothing_that_is_not_explained(host, opened, state_dir):
    process = await host(*TEN, mode="slow")
    while not servers(state_dir):
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with opened() as loops:
        listed = await settled(loops)
        assert {loop.status for loop in listed.values()} <= {LoopStatus.FAILED, LoopStatus.RUNNING}
        assert {loop.reason for loop in listed.values() if loop.status is LoopStatus.FAILED} == {Reason.INTERRUPTED}
        expected = {key: 1 for key, loop in listed.items() if loop.status is LoopStatus.RUNNING}
        while servers(state_dir) != expected:
            await asyncio.sleep(0.05)
        started = await asyncio.gather(*(loops.start_loop(StartLoop(conversation_id=key)) for key in TEN))
        assert {loop.status for loop in started} == {LoopStatus.RUNNING}
        assert servers(state_dir) == dict.fromkeys(TEN, 1)


async def test_a_replica_sees_an_interrupted_start_and_takes_it_over(host, opened, state_dir):
    async with opened() as loops:
        process = await host("c1", mode="slow")
        while not servers(state_dir):
            await asyncio.sleep(0.05)
        assert (await loops.get_loop("c1")).status is LoopStatus.STARTING
        process.send_signal(signal.SIGKILL)
        await process.wait()
        interrupted = await loops.get_loop("c1")
        assert (interrupted.status, interrupted.reason) == (LoopStatus.FAILED, Reason.INTERRUPTED)
        assert (await loops.start_loop(StartLoop(conversation_id="c1"))).status is LoopStatus.RUNNING
        assert servers(state_dir) == {"c1": 1}


async def test_a_start_in_another_process_is_waited_for(host, opened, state_dir):
    async with opened() as loops:
        process = await host("c1", mode="slow")
        while not servers(state_dir):
            await asyncio.sleep(0.05)
        mine = await loops.start_loop(StartLoop(conversation_id="c1"))
        assert (await process.communicate())[0].decode().split() == ["started", "c1", mine.url]
        assert servers(state_dir) == {"c1": 1}


async def test_a_start_in_another_process_is_closed(host, opened, state_dir):
    async with opened() as loops:
        process = await host("c1", mode="never")
        while not servers(state_dir):
            await asyncio.sleep(0.05)
        closed = await asyncio.wait_for(loops.close_session("c1"), 20)
        assert closed.removed
        assert (await process.communicate())[0].decode().startswith("failed c1 interrupted The loop was closed while")
        assert not servers(state_dir)


async def test_loops_survive_the_end_of_their_host_s_session(host, opened, state_dir):
    process = await host("c1")
    await process.communicate()
    assert process.returncode == 0
    async with opened() as loops:
        assert (await loops.get_loop("c1")).status is LoopStatus.RUNNING
