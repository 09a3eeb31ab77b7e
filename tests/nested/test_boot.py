"""The boot of a nested server, in whatever it runs."""

from __future__ import annotations

import asyncio
import time

import pytest

from loopnest import LoopFailed, NestedError, Reason
from loopnest_nested.boot import Boot
from loopnest_nested.client import NestedServer
from loopnest_nested.quiescing import quiesce


class FakeUnit:
    """A unit whose nested server answers and ends when the test says so."""

    def __init__(self):
        self.answers, self.end = False, asyncio.Event()

    async def alive(self):
        return self.answers

    async def until_ended(self):
        await self.end.wait()

    async def has_ended(self):
        return self.end.is_set()

    async def why_ended(self):
        return LoopFailed("It ended.", reason=Reason.EXITED_EARLY, exit_code=3)

    async def log_tail(self):
        return ["last words"]


@pytest.fixture
def unit():
    return FakeUnit()


async def test_a_server_that_answers_is_alive(unit):
    waiting = asyncio.ensure_future(Boot(unit, 60, "a.limit").until_alive())
    await asyncio.sleep(0)
    assert not waiting.done()
    unit.answers = True
    await waiting


async def test_a_server_that_ends_is_explained(unit):
    unit.end.set()
    with pytest.raises(LoopFailed, match=r"It ended\.") as caught:
        await Boot(unit, 60, "a.limit").until_alive()
    assert caught.value.exit_code == 3


async def test_the_limit_counts_from_the_beginning(unit):
    boot = Boot(unit, 30, "a.limit", began=time.monotonic() - 29.5)
    before = time.monotonic()
    with pytest.raises(LoopFailed, match=r"was not ready within 30 s \('a\.limit'\)") as caught:
        await boot.until_alive()
    assert time.monotonic() - before < 5  # a second is left at the least
    assert (caught.value.reason, caught.value.log_tail) == (Reason.START_TIMEOUT, ("last words",))


async def test_a_conversation_that_takes_too_long_is_explained(unit):
    with pytest.raises(LoopFailed, match=r"did not create the conversation within 0\.1 s") as caught:
        await Boot(unit, 0.1, "a.limit").until_created(asyncio.Event().wait())
    assert caught.value.reason == Reason.START_TIMEOUT


@pytest.mark.parametrize(("ended", "expected"), [(True, LoopFailed), (False, NestedError)])
async def test_a_refusal_counts_only_of_a_server_that_runs(unit, ended, expected):
    async def refused():
        if ended:
            unit.end.set()
        raise NestedError("No agent.")

    with pytest.raises(expected):
        await Boot(unit, 60, "a.limit").until_created(refused())


class FakeDialect:
    """Quiesces with a given result."""

    def __init__(self, result):
        self.result = result

    async def quiesce(self, server, conversation_id):
        if isinstance(self.result, Exception):
            raise self.result
        await self.result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (NestedError("Busy."), "The nested server did not stop its agent: Busy."),
        (asyncio.Event, "The nested server did not stop its agent within 0.05 s."),
        (asyncio.sleep, None),
    ],
    ids=["refused", "hangs", "stops"],
)
async def test_what_goes_wrong_with_quiescing_is_returned(result, expected):
    made = {asyncio.Event: lambda: asyncio.Event().wait(), asyncio.sleep: lambda: asyncio.sleep(0)}
    dialect = FakeDialect(made[result]() if result in made else result)
    assert await quiesce(dialect, NestedServer("http://nowhere", None, None), "c1", 0.05) == expected
