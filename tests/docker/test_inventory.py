"""What the inventory makes of answers that tell of a moment that is over: orders of events that no engine can be asked
for. The real one's are in tests/e2e/test_docker_inventory.py."""

from __future__ import annotations

import asyncio

import pytest

from loopnest import EngineError, Reason
from loopnest_docker import inventory as module
from loopnest_docker import naming
from loopnest_docker.events import EngineEvent
from loopnest_docker.inventory import Inventory

NAME = naming.LoopName("tests", "c1", "anybody")


class Stream:
    """An event stream that says what the test tells it to."""

    alive = True

    def __init__(self, engine, label, on_event, on_gap) -> None:
        self.on_gap = on_gap
        self.say = lambda action: on_event(EngineEvent("id", action, {}))


class Engine:
    """Takes a listing's answer when it is asked, and gives it when it is let."""

    def __init__(self) -> None:
        self.state, self.asked = "running", asyncio.Event()
        self.let = asyncio.Event()
        self.let.set()

    async def call(self, method, **_):
        answer = [{"Id": "id", "Names": [f"/{NAME}"], "State": self.state, "Status": "", "Created": 0, "Labels": {}}]
        self.asked.set()
        await self.let.wait()
        return answer

    async def look_of(self, inventory) -> asyncio.Task[str]:
        """A listing that was answered, and whose answer is under way."""
        self.asked.clear()
        self.let.clear()
        listing = asyncio.create_task(state_in(inventory))
        await self.asked.wait()
        return listing


async def state_in(inventory) -> str:
    return (await inventory.all())["id"].state


@pytest.fixture
def inventory(monkeypatch):
    monkeypatch.setattr(module, "EventStream", Stream)
    return Inventory(Engine(), "tests", on_exit=lambda *_: None)


async def test_who_asked_after_one_change_is_not_told_what_was_before_it_as_another_followed(inventory):
    engine, stream = inventory._engine, inventory._stream
    await inventory.all()
    stream.say("start")
    first = await engine.look_of(inventory)
    engine.state = "paused"
    stream.say("pause")
    second = asyncio.create_task(state_in(inventory))
    await asyncio.sleep(0)
    stream.say("update")
    engine.let.set()
    assert await first == "running"
    assert await second == "paused"


async def test_a_gap_while_all_is_listed_makes_the_listing_worthless_for_those_who_ask_later(inventory):
    engine = inventory._engine
    first = await engine.look_of(inventory)
    engine.state = "paused"
    inventory._stream.on_gap()
    engine.let.set()
    assert await first == "running"
    assert await state_in(inventory) == "paused"


async def test_listings_that_nothing_disturbed_are_kept(inventory):
    await inventory.all()
    inventory._engine.asked.clear()
    await inventory.all()
    assert not inventory._engine.asked.is_set()


async def test_callers_share_the_failure_of_an_engine_that_hangs(inventory):
    engine, calls = inventory._engine, []

    async def hang(method, **_):
        calls.append(method)
        await asyncio.sleep(0.2)
        raise EngineError("silent", reason=Reason.ENGINE_TIMEOUT)

    inventory._stream.alive = False
    answers, engine.call = engine.call, hang
    first = [asyncio.ensure_future(inventory.all()) for _ in range(5)]
    await asyncio.sleep(0.05)  # the others come while the first call hangs
    failed = await asyncio.gather(*first, *(inventory.all() for _ in range(5)), return_exceptions=True)
    assert {(type(error), error.message, error.reason) for error in failed} == {
        (EngineError, "silent", "engine-timeout")
    }
    assert len(calls) == 1
    with pytest.raises(EngineError):
        await inventory.all()
    assert len(calls) == 2  # a later caller has the engine asked again
    engine.call = answers
    assert await state_in(inventory) == "running"
