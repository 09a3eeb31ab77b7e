"""Sending events, and closing loops from every state."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from loopnest.errors import LoopnestError, LoopNotFound
from loopnest.manager import LoopManager
from loopnest.models import Loop, LoopStatus
from loopnest.testing.harness import ALICE, Harness, user_message


class ClosingTests(Harness):
    """A loop keeps what it received until it is removed."""

    async def test_events_sent_at_once_arrive_in_the_order_of_the_calls(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        texts = [f"message {number}" for number in range(20)]
        await asyncio.gather(*(loops.send_event(cid, user_message(text), ALICE) for text in texts))
        assert list(await self.received(loops, cid)) == texts

    async def test_an_event_for_a_stopped_loop_starts_it_again(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.close_session(cid, ALICE)
        async with loops.watch() as changes:
            await loops.send_event(cid, user_message("wake up"), ALICE)
            await self.until(changes, LoopStatus.RUNNING)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING
        assert list(await self.received(loops, cid)) == ["wake up"]

    async def test_a_closed_loop_is_stopped_and_comes_back_with_its_history(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, user_message("before"), ALICE)
        closed = await loops.close_session(cid, ALICE)
        assert (closed.already, closed.removed) == (False, False)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, user_message("after"), ALICE)
        assert list(await self.received(loops, cid)) == ["before", "after"]

    async def test_closing_twice_is_no_error(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.close_session(cid, ALICE)
        assert (await loops.close_session(cid, ALICE)).already
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED

    @pytest.mark.parametrize("first", ["running", "stopped"])
    async def test_a_removed_loop_is_gone_with_its_history(self, loops: LoopManager, cid: str, first: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, user_message("before"), ALICE)
        if first == "stopped":
            await loops.close_session(cid, ALICE)
        assert (await loops.close_session(cid, ALICE, remove=True)).removed
        assert (await loops.close_session(cid, ALICE, remove=True)).already
        assert await self.listed(loops, cid) == []
        with pytest.raises(LoopNotFound):
            await loops.send_event(cid, user_message("hello"), ALICE)
        await loops.start_loop(self.new_request(cid), ALICE)
        assert list(await self.received(loops, cid)) == []

    @pytest.mark.parametrize("remove", [True, False])
    async def test_a_loop_that_starts_can_be_closed(self, loops: LoopManager, cid: str, remove: bool) -> None:
        await loops.start_loop(self.new_request(cid), ALICE, wait=False)
        await loops.close_session(cid, ALICE, remove=remove)
        assert _down(await self.listed(loops, cid))
        assert (await loops.start_loop(self.new_request(cid), ALICE)).status is LoopStatus.RUNNING

    async def test_a_loop_that_starts_can_be_closed_by_another_host(
        self, loops: LoopManager, elsewhere: LoopManager, cid: str
    ) -> None:
        starting = asyncio.ensure_future(loops.start_loop(self.new_request(cid), ALICE))
        while not await self.listed(elsewhere, cid) and not starting.done():
            await asyncio.wait({starting}, timeout=0.01)
        await elsewhere.close_session(cid, ALICE, remove=True)
        await asyncio.wait({starting})
        assert _down(await self.listed(elsewhere, cid))
        assert (await elsewhere.start_loop(self.new_request(cid), ALICE)).status is LoopStatus.RUNNING

    async def test_a_failed_loop_can_be_closed(self, loops: LoopManager, cid: str) -> None:
        with pytest.raises(LoopnestError):
            await loops.start_loop(self.broken(cid), ALICE)
        await loops.close_session(cid, ALICE, remove=True)
        assert await self.listed(loops, cid) == []


def _down(loops: Iterable[Loop]) -> bool:
    return all(loop.status in (LoopStatus.STOPPED, LoopStatus.FAILED) for loop in loops)
