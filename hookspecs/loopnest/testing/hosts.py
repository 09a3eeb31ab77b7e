"""What several host processes see, and which changes are published."""

from __future__ import annotations

import pytest

from loopnest.capabilities import Capability
from loopnest.manager import LoopManager
from loopnest.models import LoopStatus
from loopnest.owners import owner_of
from loopnest.testing.harness import ALICE, Harness, NewManager, opened, place_of, user_message
from loopnest.testing.profile import needs


class HostTests(Harness):
    """Changes are published once; loops outlive their host, and hosts share them, where the strategy declares it."""

    async def test_changes_are_published_in_order_without_gaps(self, loops: LoopManager, cid: str) -> None:
        async with loops.watch() as changes:
            await loops.start_loop(self.new_request(cid), ALICE)
            await loops.close_session(cid, ALICE)
            await loops.start_loop(self.new_request(cid), ALICE)
            await loops.close_session(cid, ALICE, remove=True)
            published = await self.until(changes, None)
        assert [change.sequence for change in published] == list(range(1, len(published) + 1))
        assert {change.loop.owner for change in published} == {owner_of(ALICE)}
        assert [change.at for change in published] == sorted(change.at for change in published)
        statuses = [change.status for change in published]
        shortened = [one for one, before in zip(statuses, [..., *statuses]) if one is not before]  # noqa: B905
        once = [LoopStatus.STARTING, LoopStatus.RUNNING]
        assert shortened == [*once, LoopStatus.STOPPED, *once, None]

    @needs(Capability.SHARED)
    async def test_another_host_sees_and_drives_the_same_loop(
        self, loops: LoopManager, elsewhere: LoopManager, cid: str
    ) -> None:
        mine = await loops.start_loop(self.new_request(cid), ALICE)
        theirs = await elsewhere.get_loop(cid, ALICE)
        assert place_of(theirs) == place_of(mine)
        assert place_of(await elsewhere.start_loop(self.new_request(cid), ALICE)) == place_of(mine)
        await loops.send_event(cid, user_message("from here"), ALICE)
        await elsewhere.send_event(cid, user_message("from there"), ALICE)
        assert list(await self.received(loops, cid)) == ["from here", "from there"]
        await elsewhere.close_session(cid, ALICE)
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.STOPPED

    @needs(Capability.SURVIVES_HOST)
    @pytest.mark.usefixtures("profile")
    async def test_loops_run_on_when_their_host_ends(self, new_manager: NewManager, cid: str) -> None:
        async with new_manager() as first:
            before = await first.start_loop(self.new_request(cid), ALICE)
            await first.send_event(cid, user_message("before"), ALICE)
        async with opened(new_manager) as second:
            after = await second.get_loop(cid, ALICE)
            assert (after.status, place_of(after)) == (LoopStatus.RUNNING, place_of(before))
            await second.send_event(cid, user_message("after"), ALICE)
            assert list(await self.received(second, cid)) == ["before", "after"]
