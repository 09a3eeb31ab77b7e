"""All that the author of a strategy has to write to have it tested."""

from __future__ import annotations

import pytest
from in_memory_loops import NESTS, InMemoryStrategy

from loopnest import LoopManager, LoopnestSettings, StartLoop
from loopnest.testing import StrategyConformance


class TestInMemoryStrategy(StrategyConformance):
    @pytest.fixture
    def new_manager(self, tmp_path):
        settings = LoopnestSettings(strategy="in-memory", state_dir=tmp_path, secret="the same for all managers")
        own = InMemoryStrategy.Settings(missing_images={"missing"})
        return lambda: LoopManager.from_plugins(InMemoryStrategy(own), settings=settings)

    async def received(self, loops, conversation_id):
        state_dir = loops.settings.state_dir / loops.settings.namespace
        return [event.text for event in NESTS[state_dir][conversation_id].events]

    def broken_request(self, conversation_id):
        return StartLoop(conversation_id=conversation_id, image="missing")
