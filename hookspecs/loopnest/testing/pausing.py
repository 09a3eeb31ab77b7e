"""Pausing loops, where the strategy declares it."""

from __future__ import annotations

import pytest

from loopnest.capabilities import Capability
from loopnest.errors import LoopFailed, Reason
from loopnest.manager import LoopManager
from loopnest.models import LoopStatus
from loopnest.testing.harness import ALICE, Harness, user_message
from loopnest.testing.profile import needs


class PauseTests(Harness):
    """A paused loop keeps what it is, and goes on by itself when it is used."""

    @needs(Capability.PAUSE)
    async def test_a_paused_loop_goes_on_where_it_was(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, user_message("before"), ALICE)
        await self._pause(loops, cid)
        assert (await loops.pause_loop(cid, ALICE)).status is LoopStatus.PAUSED
        async with loops.watch() as changes:
            assert (await loops.resume_loop(cid, ALICE)).status is LoopStatus.RUNNING
            assert (await loops.resume_loop(cid, ALICE)).status is LoopStatus.RUNNING
            assert len(await self.until(changes, LoopStatus.RUNNING)) == 1
        await loops.send_event(cid, user_message("after"), ALICE)
        assert list(await self.received(loops, cid)) == ["before", "after"]

    @needs(Capability.PAUSE)
    async def test_an_event_resumes_a_paused_loop(self, loops: LoopManager, elsewhere: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await self._pause(loops, cid)
        assert (await elsewhere.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
        await elsewhere.send_event(cid, user_message("wake up"), ALICE)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING
        assert list(await self.received(loops, cid)) == ["wake up"]

    @needs(Capability.PAUSE)
    async def test_a_paused_loop_can_be_closed(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await self._pause(loops, cid)
        await loops.close_session(cid, ALICE)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED
        with pytest.raises(LoopFailed) as caught:
            await loops.resume_loop(cid, ALICE)
        assert caught.value.reason == Reason.NOT_RUNNING

    async def _pause(self, loops: LoopManager, cid: str) -> None:
        """Pause the loop, and wait until that is published."""
        async with loops.watch() as changes:
            assert (await loops.pause_loop(cid, ALICE)).status is LoopStatus.PAUSED
            await self.until(changes, LoopStatus.PAUSED)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
