"""Starting loops."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from loopnest.errors import LoopnestError, LoopNotFound, Reason
from loopnest.manager import LoopManager
from loopnest.models import LoopStatus
from loopnest.owners import owner_of
from loopnest.testing.harness import ALICE, BOB, Harness, place_of


class StartTests(Harness):
    """However it is asked for, there is one loop; and where there can't be one, there is a reason."""

    async def test_a_start_answers_with_a_running_loop(self, loops: LoopManager, cid: str) -> None:
        loop = await loops.start_loop(self.new_request(cid), ALICE)
        assert (loop.conversation_id, loop.status, loop.owner) == (cid, LoopStatus.RUNNING, owner_of(ALICE))
        assert loop.strategy == loops.settings.strategy
        assert await loops.get_loop(cid, ALICE) == loop

    async def test_a_loop_may_belong_to_nobody(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), None)
        assert (await loops.get_loop(cid, None)).status is LoopStatus.RUNNING
        with pytest.raises(LoopNotFound):
            await loops.get_loop(cid, ALICE)

    async def test_the_initial_message_arrives_once_however_often_it_is_started(
        self, loops: LoopManager, cid: str
    ) -> None:
        request = self.request_with_message(cid, "first")
        first = await loops.start_loop(request, ALICE)
        second = await loops.start_loop(request, ALICE)
        assert place_of(first) == place_of(second)
        assert list(await self.received(loops, cid)) == ["first"]

    async def test_a_hundred_starts_at_once_make_one_loop(
        self, loops: LoopManager, elsewhere: LoopManager, cid: str
    ) -> None:
        request = self.request_with_message(cid, "first").model_copy(update={"owner": owner_of(ALICE)})
        hooks = [manager.plugins.hook for manager in (loops, elsewhere)]  # the managers would share starts
        started = await asyncio.gather(
            *(hook.start_loop(request=request, loop=None) for hook in hooks for _ in range(50))
        )
        assert len({place_of(loop) for loop in started}) == 1
        assert len(await self.listed(loops, cid)) == 1
        assert list(await self.received(loops, cid)) == ["first"]

    async def test_of_two_users_who_race_for_an_id_one_gets_it(
        self, loops: LoopManager, elsewhere: LoopManager, cid: str
    ) -> None:
        races = [loops.start_loop(self.new_request(cid), ALICE), elsewhere.start_loop(self.new_request(cid), BOB)]
        outcomes = await asyncio.gather(*races, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Loop", "LoopNotFound"]
        assert len(await self.listed(loops, cid)) == 1

    async def test_a_loop_of_another_user_is_not_started_by_the_strategy(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        request = self.request_with(cid, owner=owner_of(BOB))
        with pytest.raises(LoopNotFound):
            await loops.plugins.hook.start_loop(request=request, loop=None)

    async def test_a_start_that_is_not_waited_for_ends_all_the_same(self, loops: LoopManager, cid: str) -> None:
        async with loops.watch() as changes:
            loop = await loops.start_loop(self.new_request(cid), ALICE, wait=False)
            assert loop.status in (LoopStatus.STARTING, LoopStatus.RUNNING)
            *_, change = await self.until(changes, LoopStatus.RUNNING, LoopStatus.FAILED)
        assert change.status is LoopStatus.RUNNING, change.loop.message
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING

    async def test_notes_come_back_from_every_host(self, loops: LoopManager, elsewhere: LoopManager, cid: str) -> None:
        await loops.start_loop(self.request_with(cid, notes={"color": "blue"}), ALICE)
        assert (await elsewhere.get_loop(cid, ALICE)).notes == {"color": "blue"}

    @pytest.mark.parametrize("wait", [True, False])
    async def test_a_start_that_fails_has_a_reason_and_is_listed_with_it(
        self, loops: LoopManager, cid: str, wait: bool
    ) -> None:
        request = self.broken(cid)
        async with loops.watch() as changes:
            with contextlib.suppress(LoopnestError):
                await loops.start_loop(request, ALICE, wait=wait)
            *_, change = await self.until(changes, LoopStatus.FAILED)
        (listed,) = await self.listed(loops, cid)
        assert (listed.status, listed.reason) == (LoopStatus.FAILED, change.loop.reason)
        assert listed.reason not in (None, Reason.INTERNAL, Reason.HOOK_TIMEOUT)
        assert listed.message

    async def test_a_start_that_failed_can_be_tried_again(self, loops: LoopManager, cid: str) -> None:
        with pytest.raises(LoopnestError):
            await loops.start_loop(self.broken(cid), ALICE)
        assert (await loops.start_loop(self.new_request(cid), ALICE)).status is LoopStatus.RUNNING
