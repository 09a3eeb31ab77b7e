from __future__ import annotations

import asyncio
import itertools

import pytest

from loopnest_nested.readiness import until_alive


async def never() -> str:
    await asyncio.Event().wait()
    raise AssertionError


async def dead() -> str:
    return "exit code 3"


async def no() -> bool:
    return False


async def yes() -> bool:
    return True


async def other_tasks() -> int:
    await asyncio.sleep(0)
    return len(asyncio.all_tasks()) - 1


async def test_nothing_is_returned_once_alive():
    answers = iter([False, False, True])

    async def alive() -> bool:
        return next(answers)

    assert await until_alive(alive, never(), 5) is None
    assert await other_tasks() == 0


async def test_a_death_ends_the_wait_at_once_and_is_returned():
    assert await until_alive(no, dead(), 60) == "exit code 3"
    assert await other_tasks() == 0


async def test_a_death_counts_also_where_the_server_answered_just_before():
    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def alive() -> bool:
        died.set_result("exit code 3")
        return True

    assert await until_alive(alive, died, 60) == "exit code 3"


async def test_the_limit_holds_also_where_the_server_hangs():
    async def hangs() -> bool:
        await asyncio.Event().wait()
        return True

    with pytest.raises(asyncio.TimeoutError):
        await until_alive(hangs, never(), 0.05)
    assert await other_tasks() == 0


async def test_errors_of_both_sides_are_raised():
    async def broken() -> bool:
        raise RuntimeError("asking")

    async def broken_watch() -> str:
        raise RuntimeError("watching")

    with pytest.raises(RuntimeError, match="asking"):
        await until_alive(broken, never(), 5)
    with pytest.raises(RuntimeError, match="watching"):
        await until_alive(no, broken_watch(), 5)
    assert await other_tasks() == 0


async def test_cancelling_leaves_no_task_behind():
    waiting = asyncio.ensure_future(until_alive(no, never(), 60))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await other_tasks() == 0


async def test_it_asks_often_at_first_and_ten_times_a_second_later(monkeypatch):
    pauses = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    count = itertools.count()

    async def alive() -> bool:
        return next(count) == 30

    await until_alive(alive, never(), 60)
    asked = [pause for pause in pauses if pause]
    assert asked[0] == pytest.approx(0.01)
    assert asked[1] == pytest.approx(0.013)
    assert max(asked) == asked[-1] == pytest.approx(0.1)
