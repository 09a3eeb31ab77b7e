"""Everybody hears of every change, in order, whatever the others do with it."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from loopnest import Loop, LoopChange, LoopStatus, Phase
from loopnest._journal import Changes


def change(phase=Phase.BOOTING, conversation_id="c1", message=None):
    loop = Loop(conversation_id=conversation_id, status=LoopStatus.STARTING, message=message)
    return LoopChange(loop=loop, phase=phase)


def named(message):
    return change(message=message)


class Ear:
    def __init__(self, pause=0.0, fails=False):
        self.heard, self.pause, self.fails = [], pause, fails
        self.news = asyncio.Condition()

    async def __call__(self, change):
        await asyncio.sleep(self.pause)
        self.heard.append(change)
        async with self.news:
            self.news.notify_all()
        if self.fails:
            raise LookupError("deaf")

    async def until(self, count):
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: len(self.heard) >= count), 30)


async def never(change):
    await asyncio.Event().wait()


@pytest.fixture
def changes():
    return Changes(limit=30)


@pytest.fixture
def hasty(impatient):
    return Changes(limit=0.1)


async def tell(changes, *told, **ears):
    changes.open(ears)
    for one in told:
        changes.emit(one)
    await changes.aclose()


async def test_each_listener_hears_all_in_order(changes):
    one, slow = Ear(), Ear(pause=0.001)
    await tell(changes, *(named(str(number)) for number in range(20)), one=one, slow=slow)
    for ear in (one, slow):
        assert [change.loop.message for change in ear.heard] == [str(number) for number in range(20)]


async def test_changes_are_numbered_for_each_conversation(changes):
    ear = Ear()
    await tell(changes, *(change(conversation_id=name) for name in "ababa"), ear=ear)
    assert [(change.conversation_id, change.sequence) for change in ear.heard] == [
        ("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3),
    ]  # fmt: skip


async def test_numbers_begin_anew_after_a_removal(changes):
    ear = Ear()
    await tell(changes, change(), change(Phase.REMOVED), change(), ear=ear)
    assert [change.sequence for change in ear.heard] == [1, 2, 1]


async def test_a_listener_that_fails_hears_the_next_and_costs_the_others_nothing(changes, caplog):
    broken, fine = Ear(fails=True), Ear()
    await tell(changes, named("first"), named("second"), broken=broken, fine=fine)
    assert len(broken.heard) == len(fine.heard) == 2
    assert "loop_changed of 'broken' failed for c1 (booting)" in caplog.text


async def test_a_listener_that_hangs_costs_the_others_nothing(hasty, caplog):
    fine = Ear()
    hasty.open({"hangs": never, "fine": fine})
    for _ in range(3):
        hasty.emit(change())
    await fine.until(3)
    await asyncio.wait_for(hasty.aclose(), 30)
    assert "loopnest-changes-hangs: not all changes could be delivered in time" in caplog.text


async def test_a_listener_that_hangs_on_one_change_hears_the_next(hasty):
    ear, first = Ear(), itertools.count()

    async def hangs_once(change):
        await (never(change) if next(first) == 0 else ear(change))

    hasty.open({"ear": hangs_once})
    hasty.emit(named("first"))
    hasty.emit(named("second"))
    await ear.until(1)
    assert [change.loop.message for change in ear.heard] == ["second"]
    await hasty.aclose()


async def test_emitting_never_waits(changes):
    changes.open({"hangs": never})
    for _ in range(1000):
        changes.emit(change())
    changes._tasks.pop().cancel()


async def test_watchers_see_what_comes_while_they_watch(changes):
    changes.open({})
    changes.emit(named("before"))
    async with changes.watch() as watched:
        changes.emit(named("during"))
        assert (await anext(watched)).loop.message == "during"
    changes.emit(named("after"))
    assert changes._queues == set()


async def test_watching_ends_with_the_manager(changes):
    changes.open({})
    async with changes.watch() as watched:
        changes.emit(named("last"))
        await changes.aclose()
        assert [change.loop.message async for change in watched] == ["last"]


async def test_several_watchers_see_the_same(changes):
    async with changes.watch() as one, changes.watch() as two:
        changes.emit(change())
        assert await anext(one) == await anext(two)


async def test_closing_twice_is_no_error(changes):
    await tell(changes, ear=Ear())
    await changes.aclose()
