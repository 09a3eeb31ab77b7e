"""Overrides of the optional hooks, and what must hold for the other hooks meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator

import pytest

from loopnest.capabilities import Capability
from loopnest.manager import LoopManager
from loopnest.models import Loop, LoopStatus
from loopnest.testing.harness import ALICE, BOB, user_message
from loopnest.testing.overrides import OverrideChecks, marked
from loopnest.testing.plugins import (
    OverrideFailure,
    answering,
    changing,
    observing,
    overridden,
    raising,
    replacing,
)
from loopnest.testing.profile import needs


class OptionalOverrideTests(OverrideChecks):
    """An override of an optional hook does what it says, and the other hooks work as without it."""

    async def test_overrides_of_find_loop_never_hide_a_loop(self, loops: LoopManager, cid: str) -> None:
        def elsewhere(conversation_id: str) -> Generator[dict[str, str], Loop | None, Loop | None]:
            return (yield {"conversation_id": f"{conversation_id}-other"})

        seen: list[str] = []
        started = await loops.start_loop(self.new_request(cid), ALICE)
        for override in (observing("find_loop", seen), changing("find_loop", elsewhere), _finding(None)):
            with overridden(loops, override):
                await self.others_hold(loops, cid, but="")
        assert seen
        for overrides in ([_finding(marked(started))], [replacing("find_loop", marked), _finding(started)]):
            with overridden(loops, *overrides):
                assert (await loops.get_loop(cid, ALICE)).message == "marked"
                await self.others_hold(loops, cid, but="")
        with overridden(loops, raising("find_loop")):
            for call in (loops.get_loop(cid, ALICE), loops.start_loop(self.new_request(cid), BOB)):
                with pytest.raises(OverrideFailure):  # whose loop it is can't be known
                    await call
            assert len(await self.listed(loops, cid)) == 1
        await self.others_hold(loops, cid, but="")

    @needs(Capability.PAUSE)
    async def test_overrides_of_pause_loop_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def pause(loop: Loop) -> Loop:
            return loop.model_copy(update={"status": LoopStatus.PAUSED})

        await loops.start_loop(self.new_request(cid), ALICE)
        with overridden(loops, raising("pause_loop")):
            with pytest.raises(OverrideFailure):
                await loops.pause_loop(cid, ALICE)
            await self.others_hold(loops, cid, but="pause_loop")
        with overridden(loops, answering("pause_loop", pause)):
            assert (await loops.pause_loop(cid, ALICE)).status is LoopStatus.PAUSED
            await self.others_hold(loops, cid, but="pause_loop")
        seen: list[str] = []
        with overridden(loops, observing("pause_loop", seen), replacing("pause_loop", marked)):
            assert (await loops.pause_loop(cid, ALICE)).message == "marked"
            assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
            await loops.send_event(cid, user_message("go on"), ALICE)
            await self.others_hold(loops, cid, but="pause_loop")
            await self.closes(loops, cid)
        assert seen == ["pause_loop"]

    @needs(Capability.PAUSE)
    async def test_overrides_of_resume_loop_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def resume(loop: Loop) -> Loop:
            return loop.model_copy(update={"status": LoopStatus.RUNNING})

        await loops.start_loop(self.new_request(cid), ALICE)
        await loops.pause_loop(cid, ALICE)
        with overridden(loops, raising("resume_loop")):
            with pytest.raises(OverrideFailure):
                await loops.resume_loop(cid, ALICE)
            assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
        with overridden(loops, answering("resume_loop", resume)):
            assert (await loops.resume_loop(cid, ALICE)).status is LoopStatus.RUNNING
            assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.PAUSED
        seen: list[str] = []
        with overridden(loops, observing("resume_loop", seen), replacing("resume_loop", marked)):
            assert (await loops.resume_loop(cid, ALICE)).message == "marked"
        assert seen == ["resume_loop"]
        await loops.pause_loop(cid, ALICE)
        with overridden(loops, raising("resume_loop")):
            await loops.send_event(cid, user_message("go on"), ALICE)
            await self.others_hold(loops, cid, but="resume_loop")
            await self.closes(loops, cid)

    @needs(Capability.LOGS)
    async def test_overrides_of_loop_logs_leave_other_hooks_alone(self, loops: LoopManager, cid: str) -> None:
        def last(tail: int) -> Generator[dict[str, int], AsyncIterator[str], AsyncIterator[str]]:  # noqa: ARG001
            return (yield {"tail": 1})

        async def lines() -> list[str]:
            return [line async for line in await loops.loop_logs(cid, ALICE)]

        await loops.start_loop(self.new_request(cid), ALICE)
        seen: list[str] = []
        with overridden(loops, observing("loop_logs", seen), changing("loop_logs", last)):
            assert len(await lines()) <= 1
        assert seen == ["loop_logs"]
        with overridden(loops, replacing("loop_logs", _prefixed)):
            assert all(line.startswith("line: ") for line in await lines())
        with overridden(loops, answering("loop_logs", _own_lines)):
            assert await lines() == ["of the override"]
        with overridden(loops, raising("loop_logs")):
            with pytest.raises(OverrideFailure):
                await lines()
            await self.others_hold(loops, cid, but="loop_logs")
            await self.closes(loops, cid)


def _finding(loop: Loop | None) -> object:
    """An override that looks up one loop, or none."""

    def find() -> Loop | None:
        return loop

    return answering("find_loop", find)


async def _prefixed(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        yield f"line: {line}"


def _own_lines() -> AsyncIterator[str]:
    async def lines() -> AsyncIterator[str]:
        yield "of the override"

    return lines()
