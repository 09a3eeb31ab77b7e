"""Idle loops stop, for any host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from in_memory_loops import InMemoryStrategy

from loopnest import Loop, LoopManager, LoopnestSettings, LoopStatus, StartLoop
from loopnest.idle import IdleKeeper


@pytest.fixture
async def loops(tmp_path) -> AsyncIterator[LoopManager]:
    strategy = InMemoryStrategy(InMemoryStrategy.Settings())
    async with LoopManager.from_plugins(strategy, settings=LoopnestSettings(state_dir=tmp_path)) as manager:
        await manager.start_loop(StartLoop(conversation_id="c1"), "alice")
        yield manager


def keeper(loops: LoopManager, after: float | None = 0, *, busy: bool = False) -> IdleKeeper:
    async def is_busy(loop: Loop) -> bool:
        return busy

    return IdleKeeper(loops, after, is_busy)


async def status(loops: LoopManager) -> LoopStatus:
    return (await loops.get_loop("c1", "alice")).status


async def test_a_loop_that_nobody_uses_is_stopped_whoever_owns_it(loops):
    await keeper(loops).sweep()
    assert await status(loops) is LoopStatus.STOPPED


async def test_a_loop_is_not_stopped_before_its_time(loops):
    await keeper(loops, 60).sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_a_loop_in_use_is_not_stopped_and_may_be_afterwards(loops):
    idle = keeper(loops)
    async with idle.using("c1"), idle.using("c1"):
        await idle.sweep()
        assert await status(loops) is LoopStatus.RUNNING
    await idle.sweep()
    assert await status(loops) is LoopStatus.STOPPED


async def test_a_loop_whose_agent_works_is_not_stopped(loops):
    await keeper(loops, busy=True).sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_a_loop_that_tells_nothing_of_its_agent_counts_as_working(loops):
    await IdleKeeper(loops, 0).sweep()
    assert await status(loops) is LoopStatus.RUNNING


async def test_somebody_who_comes_while_the_agent_is_asked_keeps_the_loop(loops):
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def is_busy(loop: Loop) -> bool:
        asked.set()
        await may_answer.wait()
        return False

    idle = IdleKeeper(loops, 0, is_busy)
    sweeping = asyncio.ensure_future(idle.sweep())
    await asked.wait()
    async with idle.using("c1"):
        may_answer.set()
        await sweeping
        assert await status(loops) is LoopStatus.RUNNING


async def test_somebody_who_comes_while_the_loop_stops_waits_until_it_has(loops, monkeypatch):
    stopping, may_stop = asyncio.Event(), asyncio.Event()
    close = loops.close_session

    async def slow(*arguments: object, **options: object) -> object:
        stopping.set()
        await may_stop.wait()
        return await close(*arguments, **options)

    monkeypatch.setattr(loops, "close_session", slow)
    idle = keeper(loops)
    sweeping = asyncio.ensure_future(idle.sweep())
    await stopping.wait()

    async def use() -> LoopStatus:
        async with idle.using("c1"):
            return await status(loops)

    using = asyncio.ensure_future(use())
    await asyncio.sleep(0)
    assert not using.done()
    may_stop.set()
    assert await using is LoopStatus.STOPPED
    await sweeping


async def test_it_looks_by_itself_while_it_is_open(loops):
    idle = IdleKeeper(loops, 0.5, keeper(loops)._is_busy)
    async with idle, loops.watch() as changes:
        assert [change.phase async for change in _until_stopped(changes)][-1] == "stopped"


async def _until_stopped(changes):
    async for change in changes:
        yield change
        if change.phase == "stopped":
            return


async def test_without_a_time_nothing_is_ever_stopped(loops):
    async with keeper(loops, None) as idle:
        await idle.sweep()
    assert await status(loops) is LoopStatus.RUNNING
