"""The inventory costs nothing while its stream is alive, and is never wrong for long when the stream is not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopnest import EVERYONE, EngineError, LoopQuery, LoopStatus, Message, StartLoop

sys.path.insert(0, str(Path(__file__).parent))
from engine_proxy import EngineProxy, engine_proxy

# The SDK leaves the sockets of connections that fail, and of streams that end, to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
ALL = LoopQuery(user_id=EVERYONE)


@pytest.fixture
def proxy(tmp_path) -> Iterator[EngineProxy]:
    with engine_proxy(tmp_path) as up:
        yield up


@pytest.fixture
def open_behind(open_manager, proxy):
    """A manager whose engine is the proxy; with a stream that is alive."""

    async def open_one(max_age: float = 30, **settings):
        manager = await open_manager(engine={"url": proxy.url, "max_age": max_age, "timeout": 10}, **settings)
        await until_quiet(manager, proxy)
        return manager

    return open_one


async def until_quiet(manager, proxy) -> None:
    """Until listing takes no engine call."""

    async def poll() -> None:
        while True:
            before = len(proxy.requests)
            await manager.list_loops(ALL)
            if len(proxy.requests) == before:
                return
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), 20)


async def statuses(manager) -> list[LoopStatus]:
    return [loop.status for loop in await manager.list_loops(ALL)]


async def until_status(manager, status: LoopStatus, limit: float) -> None:
    async def poll() -> None:
        while await statuses(manager) != [status]:
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), limit)


async def test_listing_sending_and_starting_what_runs_take_no_engine_call(open_behind, proxy):
    manager = await open_behind()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    await until_quiet(manager, proxy)
    before = len(proxy.requests)
    assert await statuses(manager) == [LoopStatus.RUNNING]
    await manager.start_loop(StartLoop(conversation_id="c1"))
    await manager.send_event("c1", Message(text="hello"))
    assert proxy.requests[before:] == []


async def test_what_others_do_is_seen_through_the_event_stream(open_behind, proxy, engine, containers):
    manager = await open_behind()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    engine.pause(containers()[0]["Id"])
    await until_status(manager, LoopStatus.PAUSED, 5)
    engine.unpause(containers()[0]["Id"])
    await until_status(manager, LoopStatus.RUNNING, 5)
    engine.stop(containers()[0]["Id"], timeout=2)
    await until_status(manager, LoopStatus.STOPPED, 5)


@pytest.fixture
async def paused(open_behind, proxy, engine, containers):
    """A manager with one loop, which somebody has just paused."""
    manager = await open_behind()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    await until_quiet(manager, proxy)
    engine.pause(containers()[0]["Id"])
    return manager


async def look_under_way(manager, proxy) -> asyncio.Task[list[LoopStatus]]:
    """A listing that waits for the engine."""
    before, listing = len(proxy.requests), None
    while len(proxy.requests) == before:  # until the engine's event has come, listing takes no call
        if listing is None or listing.done():
            listing = asyncio.create_task(statuses(manager))
        await asyncio.wait([listing], timeout=0.05)
    return listing


async def test_a_look_that_is_cancelled_is_made_up_for(paused, proxy):
    proxy.delay = 1.0
    listing = await look_under_way(paused, proxy)
    assert listing.cancel()
    assert await statuses(paused) == [LoopStatus.PAUSED]


async def test_nobody_is_told_what_was_while_others_look(paused, proxy):
    proxy.delay = 1.0
    listing = await look_under_way(paused, proxy)
    assert await statuses(paused) == [LoopStatus.PAUSED]
    assert await listing == [LoopStatus.PAUSED]


async def test_a_stream_that_ends_is_opened_again_and_nothing_is_missed_meanwhile(
    open_behind, proxy, engine, containers
):
    manager = await open_behind()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    proxy.cut_streams()
    engine.pause(containers()[0]["Id"])
    await until_status(manager, LoopStatus.PAUSED, 5)
    await until_quiet(manager, proxy)
    engine.unpause(containers()[0]["Id"])
    await until_status(manager, LoopStatus.RUNNING, 5)


async def test_an_engine_that_goes_away_and_comes_back_is_listed_anew(open_behind, proxy, engine, containers):
    manager = await open_behind()
    await manager.start_loop(StartLoop(conversation_id="c1"))
    proxy.down()
    with pytest.raises(EngineError) as caught:
        while True:  # the cache answers until the end of the stream is noticed
            await manager.list_loops(ALL)
            await asyncio.sleep(0.02)
    assert caught.value.reason == "engine-unreachable"
    engine.pause(containers()[0]["Id"])
    proxy.up()
    await until_status(manager, LoopStatus.PAUSED, 10)


async def test_a_stream_that_goes_silent_is_found_out_within_the_bound_and_replaced(
    open_behind, proxy, engine, containers
):
    manager = await open_behind(max_age=1)
    await manager.start_loop(StartLoop(conversation_id="c1"))
    proxy.muted = True
    engine.pause(containers()[0]["Id"])
    await until_status(manager, LoopStatus.PAUSED, 3)
    proxy.muted = False
    await until_quiet(manager, proxy)
    streams = [line for line in proxy.requests if "/events" in line]
    assert len(streams) >= 2
