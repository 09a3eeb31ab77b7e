"""A manager that was closed leaves no thread and no descriptor, at whatever moment it is closed."""

from __future__ import annotations

import asyncio
import gc
import resource
import threading
import time
from pathlib import Path

import pytest

from loopnest import EVERYONE, LoopManager, LoopQuery, StartLoop
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings
from loopnest_nested.lines import LONGEST

from .engine_proxy import engine_proxy

# The SDK leaves the sockets of connections that fail to the garbage collector, which may run in any later test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
#: Seconds after the opening at which a manager is closed: before, while and after its connections are made.
MOMENTS = (0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2)
ALL = LoopQuery(user_id=EVERYONE)


@pytest.fixture
def threads():
    """The names of our threads that a test has left; asyncio keeps some of its own."""
    before = set(threading.enumerate())

    def left() -> list[str]:
        return sorted(it.name for it in set(threading.enumerate()) - before if it.name.startswith("loopnest"))

    return left


def descriptors() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def new_manager(settings, standin):
    def build(one_shot: bool = False, **engine) -> LoopManager:
        strategy = DockerStrategy(DockerSettings(image=standin, engine=engine))
        return LoopManager.from_plugins(strategy, settings=settings, one_shot=one_shot)

    return build


async def open_and_close(new_manager, moment: float, **options) -> None:
    async with new_manager(**options):
        await asyncio.sleep(moment)


@pytest.mark.parametrize("one_shot", [False, True], ids=["host", "one-shot"])
async def test_twenty_managers_leave_nothing(new_manager, threads, one_shot):
    await open_and_close(new_manager, 0.5)  # what is made once for the process
    before = descriptors()
    for moment in (*MOMENTS, *MOMENTS, *MOMENTS[:4]):
        await open_and_close(new_manager, moment, one_shot=one_shot)
    assert threads() == []
    assert descriptors() <= before


async def test_one_shot_listings_leave_nothing_and_open_no_stream(new_manager, threads, tmp_path):
    with engine_proxy(tmp_path) as proxy:
        for _ in range(20):
            async with new_manager(one_shot=True, url=proxy.url) as manager:
                await manager.list_loops(ALL)
        assert [line for line in proxy.requests if "/events" in line] == []
    assert threads() == []


async def test_a_start_in_one_shot_needs_no_stream(new_manager, threads):
    async with new_manager(one_shot=True) as manager:
        await manager.start_loop(StartLoop(conversation_id="c1"))
        await manager.close_session("c1", remove=True)
    assert threads() == []


async def test_an_engine_that_hangs_keeps_nothing_of_a_closed_manager(new_manager, threads, hanging_engine):
    before = descriptors()
    began = time.monotonic()
    for moment in (0, 0.05, 0.5):
        await open_and_close(new_manager, moment, url=hanging_engine.url)
        assert threads() == []
    assert time.monotonic() - began < 30
    assert descriptors() - len(hanging_engine.taken) <= before


async def test_an_engine_that_hangs_does_not_hold_up_one_shots(new_manager, threads, hanging_engine):
    began = time.monotonic()
    await open_and_close(new_manager, 0, one_shot=True, url=hanging_engine.url)
    assert threads() == []
    assert time.monotonic() - began < 2


async def test_a_log_that_is_followed_ends_with_the_manager(new_manager, threads):
    async with new_manager() as manager:
        await manager.start_loop(StartLoop(conversation_id="c1"))
        lines = await manager.loop_logs("c1", follow=True)
        assert "booting" in await anext(lines)
    assert [line async for line in lines] == []
    assert threads() == []


async def test_a_line_without_an_end_is_followed_in_bounded_memory(new_manager, threads, engine, containers):
    async with new_manager() as manager:
        await manager.start_loop(StartLoop(conversation_id="c1"))
        lines = await manager.loop_logs("c1", follow=True)
        assert "booting" in await anext(lines)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        babble = "(head -c 100000000 /dev/zero | tr '\\0' x; echo) >/proc/1/fd/1"
        made = engine.exec_create(containers()[0]["Id"], ["sh", "-c", babble])
        await asyncio.to_thread(engine.exec_start, made["Id"])
        assert len(await anext(lines)) == LONGEST
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
        await lines.aclose()
        assert "loopnest-logs" not in threads()
