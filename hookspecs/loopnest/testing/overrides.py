"""Overrides of each of the four hooks, and what must hold for the other hooks meanwhile.

One loop serves all overrides of a hook: starts are what costs time on a real engine.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from loopnest.errors import LoopFailed, LoopNotFound, Reason
from loopnest.manager import LoopManager
from loopnest.models import Closed, Delivery, Loop, LoopQuery, LoopStatus
from loopnest.requests import Message, StartLoop
from loopnest.testing.harness import ALICE, BOB, Harness, place_of, user_message
from loopnest.testing.plugins import (
    OneHook,
    OverrideFailure,
    OwnLoops,
    answering,
    changing,
    observing,
    overridden,
    raising,
    replacing,
)

_FOUR = ("start_loop", "close_session", "list_loops", "send_event")


def marked(answer: Any) -> Any:
    """The answer of a hook, with another message."""
    return answer.model_copy(update={"message": "marked"})


class OverrideChecks(Harness):
    """What must hold for the other hooks while an override is there."""

    async def others_hold(self, loops: LoopManager, cid: str, *, but: str) -> None:
        """Alice's running loop is found, started, listed and sent to, and refused to Bob; ``but`` is left out."""
        loop = await loops.get_loop(cid, ALICE)
        assert loop.status is LoopStatus.RUNNING
        await self.is_refused_to_bob(loops, cid)
        if but != "start_loop":
            assert place_of(await loops.start_loop(self.new_request(cid), ALICE)) == place_of(loop)
        if but != "list_loops":
            assert [place_of(listed) for listed in await self.listed(loops, cid)] == [place_of(loop)]
        if but != "send_event":
            before = list(await self.received(loops, cid))
            await loops.send_event(cid, user_message("still there?"), ALICE)
            assert list(await self.received(loops, cid)) == [*before, "still there?"]

    async def is_refused_to_bob(self, loops: LoopManager, cid: str) -> None:
        """Another user neither finds nor takes over a loop of Alice's."""
        for call in [*self.calls(loops, cid, BOB), loops.start_loop(self.new_request(cid), BOB)]:
            with pytest.raises(LoopNotFound):
                await call

    async def closes(self, loops: LoopManager, cid: str) -> Closed:
        """Alice's running loop is closed, and stopped afterwards."""
        closed = await loops.close_session(cid, ALICE)
        assert not closed.already
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED
        return closed


class OverrideTests(OverrideChecks):
    """An override of one hook does what it says, and the other hooks work as without it."""

    async def test_overrides_that_observe_change_nothing(self, loops: LoopManager, cid: str) -> None:
        seen: list[str] = []
        with overridden(loops, *(observing(hook, seen) for hook in _FOUR)):
            started = await loops.start_loop(self.new_request(cid), ALICE)
            assert started.status is LoopStatus.RUNNING
            await self.others_hold(loops, cid, but="")
            await self.closes(loops, cid)
            assert (await loops.close_session(cid, ALICE, remove=True)).removed
            assert await self.listed(loops, cid) == []
        assert set(seen) == set(_FOUR)

    async def test_overrides_of_start_loop_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def annotate(request: StartLoop) -> Generator[dict[str, StartLoop], Loop, Loop]:
            return (yield {"request": request.model_copy(update={"notes": {"noted-by": "override"}})})

        with overridden(loops, raising("start_loop")):
            with pytest.raises(LoopFailed) as caught:
                await loops.start_loop(self.new_request(cid), ALICE)
            assert caught.value.reason == Reason.INTERNAL
            assert [loop.status for loop in await self.listed(loops, cid)] == [LoopStatus.FAILED]
        with overridden(loops, changing("start_loop", annotate)):
            await loops.start_loop(self.new_request(cid), ALICE)
            assert (await loops.get_loop(cid, ALICE)).notes == {"noted-by": "override"}
            await self.others_hold(loops, cid, but="")
        for override in (replacing("start_loop", marked), answering("start_loop", _answer_start)):
            with overridden(loops, override):
                assert (await loops.start_loop(self.new_request(cid), ALICE)).message == "marked"
                assert (await loops.get_loop(cid, ALICE)).message != "marked"
                await self.others_hold(loops, cid, but="start_loop")
        with overridden(loops, raising("start_loop")):
            await self.others_hold(loops, cid, but="start_loop")
            await self.closes(loops, cid)

    async def test_overrides_of_close_session_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def keep(remove: bool) -> Generator[dict[str, bool], Closed, Closed]:  # noqa: ARG001 - what it changes
            return (yield {"remove": False})

        await loops.start_loop(self.new_request(cid), ALICE)
        with overridden(loops, raising("close_session")):
            with pytest.raises(OverrideFailure):
                await loops.close_session(cid, ALICE)
            await self.others_hold(loops, cid, but="close_session")
        with overridden(loops, answering("close_session", _answer_close)):
            assert (await loops.close_session(cid, ALICE)).message == "answered"
            await self.others_hold(loops, cid, but="close_session")
        with overridden(loops, replacing("close_session", marked)):
            assert (await self.closes(loops, cid)).message == "marked"
        async with loops.watch() as changes:
            with overridden(loops, changing("close_session", keep)):
                assert not (await loops.close_session(cid, ALICE, remove=True)).removed
            assert (await loops.start_loop(self.new_request(cid), ALICE)).status is LoopStatus.RUNNING
            assert None not in {change.status for change in await self.until(changes, LoopStatus.RUNNING)}
        assert await self.received(loops, cid)

    async def test_overrides_of_list_loops_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        for override in _hiding():
            with overridden(loops, override):
                assert await loops.list_loops(LoopQuery(user_id=ALICE)) == []
                await self.others_hold(loops, cid, but="list_loops")
        with overridden(loops, raising("list_loops")):
            with pytest.raises(OverrideFailure):
                await loops.list_loops(LoopQuery(user_id=ALICE))
            await self.others_hold(loops, cid, but="list_loops")
            await self.closes(loops, cid)

    async def test_overrides_of_send_event_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def rewrite(event: Message) -> Generator[dict[str, Message], Delivery, Delivery]:
            return (yield {"event": event.model_copy(update={"text": f"rewritten {event.text}"})})

        await loops.start_loop(self.new_request(cid), ALICE)
        with overridden(loops, changing("send_event", rewrite)):
            await loops.send_event(cid, user_message("one"), ALICE)
        with overridden(loops, replacing("send_event", lambda it: it.model_copy(update={"response": "replaced"}))):
            assert (await loops.send_event(cid, user_message("two"), ALICE)).response == "replaced"
        with overridden(loops, answering("send_event", _answer_send)):
            assert (await loops.send_event(cid, user_message("three"), ALICE)).response == "answered"
            await self.others_hold(loops, cid, but="send_event")
        with overridden(loops, raising("send_event")):
            with pytest.raises(OverrideFailure):
                await loops.send_event(cid, user_message("four"), ALICE)
            await self.others_hold(loops, cid, but="send_event")
            assert list(await self.received(loops, cid)) == ["rewritten one", "two"]
            await self.closes(loops, cid)

    async def test_an_override_runs_loops_of_its_own(self, loops: LoopManager, cid: str) -> None:
        own, plugin = f"{cid}-own", OwnLoops()
        with overridden(loops, plugin):
            for conversation_id in (cid, own):
                await loops.start_loop(self.new_request(conversation_id), ALICE)
            await self.is_refused_to_bob(loops, own)
            listed = await loops.list_loops(LoopQuery(user_id=ALICE))
            assert {loop.conversation_id for loop in listed} == {cid, own}
            await loops.send_event(own, user_message("to the override"), ALICE)
            assert plugin.events == [user_message("to the override")]
            await self.others_hold(loops, cid, but="")
            await self.closes(loops, own)
            await loops.send_event(own, user_message("again"), ALICE)
            assert (await loops.get_loop(own, ALICE)).status is LoopStatus.RUNNING
            assert (await loops.close_session(own, ALICE, remove=True)).removed
            await self.others_hold(loops, cid, but="")
        assert {loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id=ALICE))} == {cid}


def _answer_start(loop: Loop | None) -> Loop | None:
    return loop and loop.model_copy(update={"message": "marked"})


def _answer_close(conversation_id: str) -> Closed:
    return Closed(conversation_id=conversation_id, already=True, message="answered")


def _answer_send(conversation_id: str) -> Delivery:
    return Delivery(conversation_id=conversation_id, response="answered")


def _none_at_all() -> list[Loop]:
    return []


def _hiding() -> list[OneHook]:
    """Overrides after which no loop is listed to its owner."""

    def narrow(query: LoopQuery) -> Generator[dict[str, LoopQuery], list[Loop], list[Loop]]:
        return (yield {"query": query.model_copy(update={"conversation_ids": frozenset()})})

    def disown(loops: list[Loop]) -> list[Loop]:
        return [loop.model_copy(update={"owner": "masked", "url": None}) for loop in loops]

    return [
        changing("list_loops", narrow),
        answering("list_loops", _none_at_all),
        replacing("list_loops", lambda _: []),
        replacing("list_loops", disown),
    ]
