"""Pausing loops, which is optional."""

from __future__ import annotations

import pytest

from loopnest.errors import LoopFailed, LoopnestError, Reason
from loopnest.manager import LoopManager
from loopnest.models import LoopStatus
from loopnest.testing.harness import ALICE, Harness, said


class PauseTests(Harness):
    """A strategy that implements `pause_loop` and `resume_loop` keeps what a paused loop was; others are refused."""

    async def test_a_paused_loop_goes_on_where_it_was(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, said("before"), ALICE)
        if not await self._paused(loops, cid):
            return
        assert (await loops.pause_loop(cid, ALICE)).status is LoopStatus.PAUSED
        async with loops.watch() as changes:
            assert (await loops.resume_loop(cid, ALICE)).status is LoopStatus.RUNNING
            assert (await loops.resume_loop(cid, ALICE)).status is LoopStatus.RUNNING
            assert len(await self.until(changes, LoopStatus.RUNNING)) == 1
        await loops.send_event(cid, said("after"), ALICE)
        assert list(await self.received(loops, cid)) == ["before", "after"]

    async def test_an_event_resumes_a_paused_loop(self, loops: LoopManager, elsewhere: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        if not await self._paused(loops, cid):
            return
        assert (await elsewhere.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
        await elsewhere.send_event(cid, said("wake up"), ALICE)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING
        assert list(await self.received(loops, cid)) == ["wake up"]

    async def test_a_paused_loop_can_be_closed(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        if not await self._paused(loops, cid):
            return
        await loops.close_session(cid, ALICE)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED
        with pytest.raises(LoopFailed) as caught:
            await loops.resume_loop(cid, ALICE)
        assert caught.value.reason == Reason.NOT_RUNNING

    async def _paused(self, loops: LoopManager, cid: str) -> bool:
        """Pause the loop; False, and checked to be refused, where the strategy implements no pause."""
        if loops.plugins.hook.pause_loop.get_hookimpls():
            async with loops.watch() as changes:
                assert (await loops.pause_loop(cid, ALICE)).status is LoopStatus.PAUSED
                await self.until(changes, LoopStatus.PAUSED)
            assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
            return True
        with pytest.raises(LoopnestError) as caught:
            await loops.pause_loop(cid, ALICE)
        assert caught.value.reason == Reason.UNSUPPORTED
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING
        return False
