"""Listing loops, and who may do what."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from loopnest.errors import InvalidRequest, LoopnestError, LoopNotFound
from loopnest.manager import LoopManager
from loopnest.models import LoopQuery, LoopStatus
from loopnest.owners import EVERYONE, Everyone
from loopnest.testing.harness import ALICE, BAD_IDS, BOB, Harness, user_message


class AccessTests(Harness):
    """A user sees and drives loops of his own, and no others."""

    async def test_listings_are_filtered_by_user_id_and_status(self, loops: LoopManager) -> None:
        mine, stopped, theirs = (f"c-{uuid.uuid4().hex[:12]}" for _ in range(3))
        for conversation_id, user_id in [(mine, ALICE), (stopped, ALICE), (theirs, BOB)]:
            await loops.start_loop(self.new_request(conversation_id), user_id)
        await loops.close_session(stopped, ALICE)

        async def ids(user_id: str | Everyone | None = ALICE, **query: Any) -> set[str]:
            return {loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id=user_id, **query))}

        assert await ids() == {mine, stopped}
        assert await ids(BOB) == {theirs}
        assert await ids(None) == set()
        assert await ids(EVERYONE) == {mine, stopped, theirs}
        assert await ids(conversation_ids={mine, theirs, "unknown"}) == {mine}
        assert await ids(conversation_ids=set()) == set()
        assert await ids(statuses={LoopStatus.RUNNING}) == {mine}
        assert await ids(EVERYONE, statuses={LoopStatus.STOPPED}) == {stopped}

    async def test_ids_that_are_none_are_left_out_of_listings(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({*BAD_IDS, "unknown"}))
        assert await loops.list_loops(query) == []

    async def test_a_probe_finds_the_loop_too(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        assert (await loops.get_loop(cid, ALICE, probe=True)).status is LoopStatus.RUNNING

    @pytest.mark.parametrize("stranger", [BOB, None])
    async def test_another_user_finds_no_loop_by_any_method(
        self, loops: LoopManager, cid: str, stranger: str | None
    ) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        for call in self.calls(loops, cid, stranger):
            with pytest.raises(LoopNotFound):
                await call
        with pytest.raises(LoopNotFound):
            await loops.start_loop(self.new_request(cid), stranger)
        assert list(await self.received(loops, cid)) == []
        assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING

    async def test_operators_drive_any_loop(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.send_event(cid, user_message("from an operator"), EVERYONE)
        assert list(await self.received(loops, cid)) == ["from an operator"]
        await loops.close_session(cid, EVERYONE)

    async def test_an_unknown_id_is_not_found(self, loops: LoopManager, cid: str) -> None:
        for call in self.calls(loops, cid, ALICE):
            with pytest.raises(LoopNotFound):
                await call

    async def test_a_loop_that_went_away_since_its_lookup_is_not_found(self, loops: LoopManager, cid: str) -> None:
        loop = await loops.start_loop(self.new_request(cid), ALICE)
        await loops.close_session(cid, ALICE, remove=True)
        hook = loops.plugins.hook
        with pytest.raises(LoopNotFound):
            await hook.close_session(conversation_id=cid, loop=loop, remove=False)
        with pytest.raises(LoopnestError):
            await hook.send_event(conversation_id=cid, loop=loop, event=user_message("hello"))

    @pytest.mark.parametrize("bad", BAD_IDS)
    async def test_a_malformed_id_is_refused(self, loops: LoopManager, bad: str) -> None:
        for call in self.calls(loops, bad, ALICE):
            with pytest.raises(InvalidRequest):
                await call
