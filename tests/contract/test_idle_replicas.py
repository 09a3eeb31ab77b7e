"""What the replicas of one host, and the hosts after it, know of the use of loops."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from in_memory_loops import InMemoryStrategy

from loopnest import InvalidRequest, Loop, LoopManager, LoopnestSettings, LoopStatus, StartLoop
from loopnest._uses import Uses
from loopnest.idle import IdleKeeper

HOLDER = """
import sys, time
from pathlib import Path
from loopnest._uses import Uses
with Uses(Path(sys.argv[1]), 0).stopping("c1"):
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.fixture
async def loops(tmp_path) -> AsyncIterator[LoopManager]:
    strategy = InMemoryStrategy(InMemoryStrategy.Settings())
    async with LoopManager.from_plugins(strategy, settings=LoopnestSettings(state_dir=tmp_path)) as manager:
        await manager.start_loop(StartLoop(conversation_id="c1"))
        yield manager


@pytest.fixture
def directory(loops) -> Path:
    """Where uses are kept."""
    return loops.settings.state_dir / loops.settings.namespace / "uses"


async def _never(loop: Loop) -> bool:
    return False


def replica(loops: LoopManager, after: float = 60, is_busy: Callable[[Loop], Awaitable[bool]] = _never) -> IdleKeeper:
    return IdleKeeper(loops, after, is_busy)


async def status(loops: LoopManager) -> LoopStatus:
    return (await loops.get_loop("c1")).status


def age(directory: Path, seconds: float, conversation_id: str = "c1") -> None:
    """Make the last use of a loop older."""
    then = time.time() - seconds
    os.utime(directory / conversation_id, (then, then))


async def used(keeper: IdleKeeper, conversation_id: str = "c1") -> None:
    async with keeper.using(conversation_id):
        pass


async def test_a_use_through_one_replica_counts_for_the_other(loops, directory):
    one, two = replica(loops), replica(loops)
    await used(two)
    age(directory, 100)
    await used(one)
    await two.sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_a_long_use_through_one_replica_is_seen_by_the_other(loops):
    async with replica(loops, 3) as one, replica(loops, 3) as two:
        await used(two)
        async with one.using("c1"):
            await asyncio.sleep(4)
            await two.sweep()
            assert await status(loops) is LoopStatus.RUNNING
        await asyncio.sleep(5)
        await two.sweep()
        assert await status(loops) is LoopStatus.STOPPED


async def test_the_end_of_a_short_use_is_seen_by_the_other(loops, directory):
    """Though only the first of them was written at once."""
    async with replica(loops, 4) as one:
        await used(one)
        age(directory, 100)
        await used(one)
        await asyncio.sleep(1.5)
        await replica(loops, 4).sweep()
        assert await status(loops) is LoopStatus.RUNNING


async def test_idle_time_goes_on_over_a_restart(loops, directory):
    async with replica(loops) as before:
        await used(before)
    age(directory, 100)
    async with replica(loops) as after:
        await after.sweep()
    assert await status(loops) is LoopStatus.STOPPED


async def test_idle_time_of_a_loop_never_used_goes_on_too(loops, directory):
    await replica(loops).sweep()
    assert await status(loops) is LoopStatus.RUNNING
    age(directory, 100)
    await replica(loops).sweep()
    assert await status(loops) is LoopStatus.STOPPED


async def test_a_use_under_way_at_the_end_of_a_host_is_kept(loops, directory):
    async with replica(loops) as before:
        using = before.using("c1")
        await using.__aenter__()
        age(directory, 100)
    await replica(loops).sweep()
    assert await status(loops) is LoopStatus.RUNNING
    await using.__aexit__(None, None, None)


async def test_a_busy_agent_counts_as_use_for_all(loops, directory):
    async def works(loop: Loop) -> bool:
        return True

    await replica(loops).sweep()
    age(directory, 100)
    await replica(loops, 60, works).sweep()
    await replica(loops).sweep()
    assert await status(loops) is LoopStatus.RUNNING


@pytest.mark.parametrize(("seconds", "left"), [(10, LoopStatus.RUNNING), (70, LoopStatus.STOPPED)])
async def test_what_a_loop_itself_says_of_its_use_counts(loops, directory, seconds, left):
    async def idle_time(loop: Loop) -> float:
        return seconds

    await replica(loops).sweep()
    age(directory, 100)
    await IdleKeeper(loops, 60, _never, idle_time=idle_time).sweep()
    assert await status(loops) is left


async def test_a_use_elsewhere_while_the_agent_is_asked_keeps_the_loop(loops, directory):
    other = replica(loops)

    async def is_busy(loop: Loop) -> bool:
        await used(other)
        return False

    await used(other)
    age(directory, 100)
    other = replica(loops)
    await replica(loops, 60, is_busy).sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_a_use_elsewhere_waits_while_the_loop_is_stopped(loops, directory, monkeypatch):
    stopping, may_stop = asyncio.Event(), asyncio.Event()
    close = loops.close_session

    async def slow(*arguments: object, **options: object) -> object:
        stopping.set()
        await may_stop.wait()
        return await close(*arguments, **options)

    monkeypatch.setattr(loops, "close_session", slow)
    one, two = replica(loops), replica(loops)
    await one.sweep()
    age(directory, 100)
    one = replica(loops)
    sweeping = asyncio.ensure_future(one.sweep())
    await stopping.wait()

    async def use() -> LoopStatus:
        async with two.using("c1"):
            return await status(loops)

    using = asyncio.ensure_future(use())
    await asyncio.sleep(0.3)
    assert not using.done()
    may_stop.set()
    assert await using is LoopStatus.STOPPED
    await sweeping


async def test_two_replicas_do_not_stop_one_loop_at_once(loops, directory):
    stops: list[str] = []

    async def stop(loop: Loop) -> None:
        stops.append(loop.conversation_id)
        await asyncio.sleep(0.2)
        await loops.close_session(loop.conversation_id)

    await replica(loops).sweep()
    age(directory, 100)
    await asyncio.gather(*(IdleKeeper(loops, 60, _never, stop=stop).sweep() for _ in range(2)))
    assert stops == ["c1"]


def test_a_replica_that_is_killed_while_it_stops_a_loop_holds_up_nobody(tmp_path):
    uses = Uses(tmp_path, 0)
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "holds\n"
        assert uses.is_stopping("c1")
        holder.kill()
        holder.wait()
    assert not uses.is_stopping("c1")


async def test_many_uses_within_seconds_are_written_once(loops, monkeypatch):
    keeper = replica(loops)
    await used(keeper)
    writes: list[object] = []
    monkeypatch.setattr(os, "utime", lambda path, **times: writes.append(path))
    for _ in range(1000):
        await used(keeper)
    assert writes == []


async def test_a_clock_that_is_put_forward_stops_no_loop_that_was_just_used(loops, directory):
    keeper = replica(loops)
    await used(keeper)
    age(directory, 3600)
    await keeper.sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_uses_of_loops_that_do_not_run_are_forgotten(loops, directory):
    keeper = replica(loops)
    await used(keeper)
    await used(keeper, "unknown")
    await loops.close_session("c1", remove=True)
    await keeper.sweep()
    assert list(directory.iterdir()) == []


async def test_a_loop_started_again_is_not_taken_for_long_unused(loops, directory):
    keeper = replica(loops)
    await used(keeper)
    age(directory, 100)
    await loops.close_session("c1")
    await replica(loops).sweep()
    await loops.start_loop(StartLoop(conversation_id="c1"))
    await replica(loops).sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_without_its_directory_a_replica_goes_by_what_it_saw_itself(loops, directory, caplog):
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.write_text("in the way")
    keeper = replica(loops, 0.5)
    with caplog.at_level(logging.WARNING):
        async with keeper.using("c1"):
            await keeper.sweep()
        await keeper.sweep()
        assert await status(loops) is LoopStatus.RUNNING
        await asyncio.sleep(0.6)
        await keeper.sweep()
    assert await status(loops) is LoopStatus.STOPPED
    assert caplog.text.count("not shared with other replicas") == 1


async def test_an_id_that_would_leave_the_directory_is_refused(loops):
    with pytest.raises(InvalidRequest):
        await used(replica(loops), "../c1")


async def test_an_unexpected_answer_of_one_loop_does_not_keep_the_others(loops, directory):
    async def is_busy(loop: Loop) -> bool:
        return {"c1": False}[loop.conversation_id]

    await loops.start_loop(StartLoop(conversation_id="c2"))
    await replica(loops).sweep()
    age(directory, 100)
    age(directory, 100, "c2")
    await replica(loops, 60, is_busy).sweep()
    assert await status(loops) is LoopStatus.STOPPED
    assert (await loops.get_loop("c2")).status is LoopStatus.RUNNING
