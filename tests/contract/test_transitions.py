"""Starts, closes and pauses that meet each other, or what another replica does."""

from __future__ import annotations

import asyncio

import pytest

from loopnest import (
    Closed,
    InvalidRequest,
    Loop,
    LoopFailed,
    LoopNotFound,
    LoopStatus,
    Message,
    Reason,
    StartLoop,
    hookimpl,
    owner_of,
)

from ..start_requests import start_request
from .doubles import Healthy, Listener, Pausable, Slow

ALICE, BOB = "alice@example.com", "bob@example.com"
HELLO = Message(text="hello")


def begin(loops, user_id=ALICE):
    return loops.start_loop(start_request("c1"), user_id)


class SlowToClose(Healthy):
    """Closes only when ``gate`` is set."""

    def __init__(self):
        super().__init__()
        self.gate, self.entered = asyncio.Event(), asyncio.Event()

    @hookimpl
    async def close_session(self, conversation_id, remove):
        self.entered.set()
        await self.gate.wait()
        return super().close_session(conversation_id, remove)


# --- events -----------------------------------------------------------------------------------------------------------


async def test_an_event_starts_no_loop_that_was_just_removed(opened):
    strategy = SlowToClose()
    async with opened(strategy) as loops:
        await begin(loops)
        strategy.nests["c1"].loop = strategy.nests["c1"].loop.model_copy(update={"status": LoopStatus.STOPPED})
        closing = asyncio.ensure_future(loops.close_session("c1", ALICE, remove=True))
        await strategy.entered.wait()
        sending = asyncio.ensure_future(loops.send_event("c1", HELLO, ALICE))
        await asyncio.sleep(0.01)  # it waits for the close; nothing shows that from outside
        strategy.gate.set()
        assert (await closing).removed
        with pytest.raises(LoopNotFound):
            await sending
        assert strategy.nests == {}


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ({}, (Reason.NOT_RUNNING, "Another host is starting the loop")),
        (
            {"reason": Reason.NESTED_TIMEOUT, "message": "The nested server does not answer."},
            (Reason.NESTED_TIMEOUT, "The nested server does not answer"),
        ),
    ],
    ids=["no reason", "its own reason"],
)
async def test_an_event_never_finishes_the_start_of_another_replica(opened, listed, expected):
    reason, message = expected
    strategy = Healthy()
    async with opened(strategy) as loops:
        await begin(loops)
        nest = strategy.nests["c1"]
        nest.loop = nest.loop.model_copy(update={"status": LoopStatus.STARTING, **listed})
        with pytest.raises(LoopFailed, match=message) as caught:
            await loops.send_event("c1", HELLO, ALICE)
        assert caught.value.reason == reason
        assert nest.loop.status is LoopStatus.STARTING
        assert (await begin(loops)).status is LoopStatus.RUNNING  # a start says what to create, and may


async def test_an_event_waits_for_a_start_of_its_own_host(opened):
    strategy = Slow()
    async with opened(strategy) as loops:
        starting = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        sending = asyncio.ensure_future(loops.send_event("c1", HELLO, ALICE))
        await asyncio.sleep(0.01)  # it waits for the start; nothing shows that from outside
        strategy.gate.set()
        await asyncio.gather(starting, sending)
        assert strategy.nests["c1"].events == [HELLO]


async def test_a_failed_loop_refuses_an_event_with_its_exit_code(opened):
    class Exits(Healthy):
        @hookimpl
        def start_loop(self, request):
            raise LoopFailed("It ended.", reason=Reason.EXITED_EARLY, exit_code=3)

    async with opened(Exits()) as loops:
        with pytest.raises(LoopFailed):
            await begin(loops)
        with pytest.raises(LoopFailed, match="It ended") as caught:
            await loops.send_event("c1", HELLO, ALICE)
        assert caught.value.exit_code == 3


async def test_a_refused_request_fails_no_loop_that_runs(opened):
    class Refuses(Healthy):
        @hookimpl
        def start_loop(self, request):
            if request.tags:
                raise InvalidRequest("'tags' can't be kept.")
            return super().start_loop(request)

    listener = Listener()
    async with opened(Refuses(), listener) as loops:
        await begin(loops)
        with pytest.raises(InvalidRequest):
            await loops.start_loop(start_request("c1", tags={"a": "b"}), ALICE)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING
    assert [change.phase for change in listener.heard] == ["requested", "ready"]


# --- closes -----------------------------------------------------------------------------------------------------------


async def test_closing_a_start_that_left_a_container_publishes_the_stop(opened):
    class KeepsWhatItMade(Slow):
        """A start that ends leaves its loop stopped, as one whose conversation exists already does."""

        @hookimpl
        async def start_loop(self, request: StartLoop) -> Loop:
            try:
                return await super().start_loop(request)
            finally:
                if self.cleaned_up:
                    loop = self.finish(request).model_copy(update={"status": LoopStatus.STOPPED})
                    self.nests["c1"].loop = loop

    strategy, listener = KeepsWhatItMade(), Listener()
    async with opened(strategy, listener) as loops:
        starting = asyncio.ensure_future(begin(loops))
        await strategy.entered.wait()
        closed = await loops.close_session("c1", ALICE)
        with pytest.raises(LoopFailed):
            await starting
    assert not closed.already
    assert [change.phase for change in listener.heard] == ["requested", "stopped"]


async def test_a_close_behind_another_touches_no_new_owner(opened):
    """Alice closes twice; between the two the id becomes Bob's."""

    class ReplacedMeanwhile(SlowToClose):
        closes = 0

        @hookimpl
        async def close_session(self, conversation_id, remove):
            self.closes += 1
            closed = await super().close_session(conversation_id, remove)
            super().start_loop(StartLoop(conversation_id="c1", owner=owner_of(BOB)))
            return closed

    strategy = ReplacedMeanwhile()
    async with opened(strategy) as loops:
        await begin(loops)
        first = asyncio.ensure_future(loops.close_session("c1", ALICE, remove=True))
        await strategy.entered.wait()
        second = asyncio.ensure_future(loops.close_session("c1", ALICE, remove=True))
        await asyncio.sleep(0.01)  # it waits for the first; nothing shows that from outside
        strategy.gate.set()
        assert (await first).removed
        assert await second == Closed(conversation_id="c1", already=True, removed=True)
        assert strategy.closes == 1
        assert (await loops.get_loop("c1", BOB)).status is LoopStatus.RUNNING


# --- pauses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [LoopStatus.STOPPED, LoopStatus.STARTING])
async def test_no_pause_is_published_of_a_loop_that_ended(opened, status):
    class Ends(Pausable):
        @hookimpl
        def pause_loop(self, conversation_id):
            return self._turned(conversation_id, status)

    listener = Listener()
    async with opened(Ends(), listener) as loops:
        await begin(loops)
        with pytest.raises(LoopFailed, match=f"The loop is {status}, not paused") as caught:
            await loops.pause_loop("c1", ALICE)
        assert caught.value.reason == Reason.NOT_RUNNING
    assert [change.phase for change in listener.heard] == ["requested", "ready"]


async def test_find_loop_is_asked_to_probe_where_the_caller_probes(opened):
    probes = []

    class Finds:
        @hookimpl
        def find_loop(self, probe):
            probes.append(probe)

    async with opened(Healthy(), Finds()) as loops:
        await begin(loops)
        await loops.get_loop("c1", ALICE, probe=True)
    assert probes == [False, True]
