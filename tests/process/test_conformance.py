"""The process strategy conforms, with the stand-in as its nested server."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from loopnest import StartLoop
from loopnest.testing import StrategyConformance

from ..received import received


class TestProcessStrategy(StrategyConformance):
    patience = 60

    @pytest.fixture
    def new_manager(self, new_manager):
        return new_manager

    async def received(self, loops, conversation_id):
        return await received(loops, conversation_id)

    def broken_request(self, conversation_id):
        environment = {"STANDIN": SecretStr("exit")}
        return StartLoop(conversation_id=conversation_id, environment=environment)
