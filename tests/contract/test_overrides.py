"""An override of one hook never changes what the other hooks do."""

from __future__ import annotations

import pytest

from loopnest import Loop, LoopNotFound, LoopStatus, Message, StartLoop, hookimpl, owner_of
from loopnest.models import LoopQuery
from loopnest.owners import EVERYONE
from loopnest.testing.plugins import OwnLoops

from .doubles import Healthy, Pausable

ALICE, BOB = "alice@example.com", "bob@example.com"
HELLO = Message(text="hello")


def begin(loops, conversation_id="c1", user_id=ALICE, **facts):
    return loops.start_loop(StartLoop(conversation_id=conversation_id, **facts), user_id)


def begin_unseen(loops):
    """Start a loop of Alice's in the strategy itself."""
    loops.plugins.get_plugin("in-memory").start_loop(StartLoop(conversation_id="c1", owner=owner_of(ALICE)))


class HidesAll:
    """A filter: nothing is listed."""

    @hookimpl(wrapper=True)
    def list_loops(self, query):
        yield
        return []


class Raises:
    """Fails to list."""

    @hookimpl(wrapper=True)
    def list_loops(self, query):
        yield
        raise LookupError("the directory is down")


class ListsNone:
    """Answers that there are no loops at all."""

    @hookimpl
    def list_loops(self, query):
        return []


class MasksKeys:
    """Changes what is listed."""

    @hookimpl(wrapper=True)
    def list_loops(self, query):
        loops = yield
        return [loop.model_copy(update={"url": None, "owner": "masked"}) for loop in loops]


NARROWING = [HidesAll, Raises, ListsNone, MasksKeys]


@pytest.mark.parametrize("override", NARROWING)
async def test_a_loop_that_is_not_listed_is_still_driven(opened, override):
    async with opened(Healthy(), override()) as loops:
        if override is not Raises:
            await begin(loops)
        else:
            begin_unseen(loops)
        assert (await loops.get_loop("c1", ALICE)).status is LoopStatus.RUNNING
        await loops.send_event("c1", HELLO, ALICE)
        assert (await begin(loops)).status is LoopStatus.RUNNING
        assert not (await loops.close_session("c1", ALICE)).already


@pytest.mark.parametrize("override", NARROWING)
async def test_a_loop_that_is_not_listed_keeps_its_owner(opened, override):
    async with opened(Healthy(), override()) as loops:
        begin_unseen(loops)
        for call in (
            begin(loops, user_id=BOB),
            loops.get_loop("c1", BOB),
            loops.send_event("c1", HELLO, BOB),
            loops.close_session("c1", BOB),
        ):
            with pytest.raises(LoopNotFound):
                await call


async def test_a_start_fails_where_an_override_can_t_say_whether_it_has_the_loop(opened):
    async with opened(Healthy(), Raises()) as loops:
        with pytest.raises(LookupError, match="the directory is down"):
            await begin(loops)


async def test_a_wrapper_of_list_loops_always_receives_a_sequence(opened):
    class Silent(Healthy):
        @hookimpl
        def list_loops(self, query):
            return None

    async with opened(Silent(), OwnLoops()) as loops:
        assert await loops.list_loops(LoopQuery(user_id=EVERYONE)) == []


async def test_loops_that_an_override_adds_are_found_sent_to_and_closed(opened):
    override = OwnLoops()
    async with opened(Healthy(), override) as loops:
        await begin(loops, "theirs")
        await begin(loops, "its-own")
        assert {loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id=ALICE))} == {
            "theirs",
            "its-own",
        }
        assert (await loops.get_loop("its-own", ALICE)).strategy == "own"
        await loops.send_event("its-own", HELLO, ALICE)
        await loops.send_event("theirs", HELLO, ALICE)
        assert override.events == [HELLO]
        with pytest.raises(LoopNotFound):
            await loops.close_session("its-own", BOB)
        assert not (await loops.close_session("its-own", EVERYONE)).already
        await loops.send_event("its-own", HELLO, ALICE)
        assert (await loops.get_loop("its-own", ALICE)).status is LoopStatus.RUNNING
        assert (await loops.close_session("its-own", ALICE, remove=True)).removed
        assert {loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id=ALICE))} == {"theirs"}


async def test_find_loop_is_asked_first_and_can_not_hide(opened):
    class Moved:
        def __init__(self):
            self.loops: dict[str, Loop] = {}

        @hookimpl
        def find_loop(self, conversation_id):
            return self.loops.get(conversation_id)

    moved = Moved()
    async with opened(Healthy(), moved) as loops:
        started = await begin(loops)
        assert await loops.get_loop("c1", ALICE) == started
        moved.loops = {"c1": started.model_copy(update={"url": "http://elsewhere"})}
        assert (await loops.get_loop("c1", ALICE)).url == "http://elsewhere"


class Counting:
    """Counts the lookups that reach the strategy."""

    def __init__(self):
        self.lookups = 0

    def strategy(self):
        counter = self

        class Counted(Pausable):
            @hookimpl
            def list_loops(self, query):
                counter.lookups += 1
                return super().list_loops(query)

        return Counted()


async def test_each_operation_looks_its_loop_up_once(opened):
    counting = Counting()
    async with opened(counting.strategy()) as loops:

        async def lookups_of(call) -> int:
            before = counting.lookups
            await call
            return counting.lookups - before

        assert await lookups_of(begin(loops)) == 1
        assert await lookups_of(begin(loops)) == 1
        assert await lookups_of(loops.send_event("c1", HELLO, ALICE)) == 1
        assert await lookups_of(loops.get_loop("c1", ALICE)) == 1
        assert await lookups_of(loops.loop_logs("c1", ALICE)) == 1
        assert await lookups_of(loops.close_session("c1", ALICE)) == 1
        assert await lookups_of(loops.send_event("c1", HELLO, ALICE)) == 1  # with the start that it takes
        assert await lookups_of(loops.list_loops(LoopQuery(user_id=ALICE))) == 1


class Observes:
    """Wraps every hook of the four and changes nothing."""

    def __init__(self):
        self.seen: list[str] = []

    @hookimpl(wrapper=True)
    def start_loop(self, request, loop):
        self.seen.append(f"start {loop and loop.status}")
        return (yield)

    @hookimpl(wrapper=True)
    def close_session(self, conversation_id, loop, remove):
        self.seen.append(f"close {loop.status} {loop.owner == owner_of(ALICE)}")
        return (yield)

    @hookimpl(wrapper=True)
    def send_event(self, conversation_id, loop, event):
        self.seen.append(f"send {loop.status}")
        return (yield)


async def test_hooks_receive_the_loop_that_was_looked_up(opened):
    observes = Observes()
    async with opened(Healthy(), observes) as loops:
        await begin(loops)
        await loops.send_event("c1", HELLO, ALICE)
        await loops.close_session("c1", EVERYONE)
        await loops.send_event("c1", HELLO, ALICE)
    stopped_again = ["start stopped", "send running"]
    assert observes.seen == ["start None", "send running", "close running True", *stopped_again]
