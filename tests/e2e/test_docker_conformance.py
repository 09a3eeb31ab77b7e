"""The Docker strategy conforms, on the real engine; with a stand-in nested server, as hundreds of starts are needed."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from loopnest import LoopManager, StartLoop
from loopnest.testing import StrategyConformance
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings

from ..received import received


class TestDockerStrategy(StrategyConformance):
    @pytest.fixture
    def new_manager(self, settings, standin):
        docker_settings = DockerSettings(image=standin, close_timeout=2)
        return lambda: LoopManager.from_plugins(DockerStrategy(docker_settings), settings=settings)

    async def received(self, loops, conversation_id):
        return await received(loops, conversation_id)

    def broken_request(self, conversation_id):
        environment = {"STANDIN": SecretStr("exit")}
        return StartLoop(conversation_id=conversation_id, environment=environment)
