"""Capabilities are implemented where they are declared, and refused where they are not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from loopnest.capabilities import HOOKS, Capability
from loopnest.errors import InvalidRequest, LoopnestError, Reason
from loopnest.manager import LoopManager
from loopnest.models import LoopStatus
from loopnest.testing.harness import ALICE, Harness
from loopnest.testing.profile import needs


class CapabilityTests(Harness):
    """What a strategy declares is what it does."""

    async def test_capabilities_are_declared_as_implemented(self, loops: LoopManager) -> None:
        strategy = loops.plugins.get_plugin(loops.settings.strategy)
        implemented = {caller.name for caller in loops.plugins.get_hookcallers(strategy) or ()}
        for capability, hooks in HOOKS.items():
            missing, extra = set(hooks) - implemented, implemented & set(hooks)
            if capability in loops.capabilities:
                assert not missing, f"CAPABILITIES has {str(capability)!r}, but these hooks are not implemented"
            else:
                assert not extra, f"these hooks are implemented, but CAPABILITIES lacks {str(capability)!r}"

    async def test_operations_are_refused_unless_declared(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        operations: dict[Capability, Callable[[str, str], Awaitable[object]]] = {
            Capability.LOGS: loops.loop_logs,
            Capability.PAUSE: loops.pause_loop,
        }
        for capability, operation in operations.items():
            if capability in loops.capabilities:
                await operation(cid, ALICE)
                continue
            with pytest.raises(LoopnestError) as caught:
                await operation(cid, ALICE)
            assert caught.value.reason == Reason.UNSUPPORTED, f"{capability} is not declared"
            assert (await loops.get_loop(cid, ALICE)).status is LoopStatus.RUNNING

    async def test_an_image_is_refused_unless_declared(self, loops: LoopManager, cid: str) -> None:
        if Capability.IMAGE not in loops.capabilities:
            with pytest.raises(InvalidRequest, match="'image'"):
                await loops.start_loop(self.request_with(cid, image="an-image"), ALICE)
            assert await self.listed(loops, cid) == []

    @needs(Capability.LOGS)
    async def test_the_log_of_a_loop_is_read_from_its_end(self, loops: LoopManager, cid: str) -> None:
        await loops.start_loop(self.new_request(cid), ALICE)
        lines = [line async for line in await loops.loop_logs(cid, ALICE, tail=1000)]
        assert all(isinstance(line, str) and "\n" not in line for line in lines)
        assert len([line async for line in await loops.loop_logs(cid, ALICE, tail=1)]) == min(len(lines), 1)
