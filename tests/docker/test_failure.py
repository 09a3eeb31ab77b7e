"""What is quoted of a container's log, and what is not."""

from __future__ import annotations

from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from loopnest import LoopChange, StartLoop
from loopnest_docker import naming
from loopnest_docker.boot import ContainerBoot
from loopnest_docker.engine import NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.failure import log_tail, read_ending
from loopnest_docker.keeper import Keeper
from loopnest_docker.parts import Parts
from loopnest_docker.settings import DockerSettings
from loopnest_docker.view import View

OF_THE_SETTINGS = "of-the-settings"


class Engine:
    """One container that exited, and what it said last."""

    def __init__(self, *lines: str) -> None:
        self._log = "\n".join(lines).encode()

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        answers = {"logs": self._log, "inspect_container": {"State": {"ExitCode": 3}}}
        return answers[name]

    async def run(self, work: Any) -> bool:
        """Whether a stop was requested."""
        return False


class RemovedMeanwhile(Engine):
    """Its container is removed between two questions about it."""

    async def run(self, work: Any) -> bool:
        self.call = self.gone
        return False

    async def gone(self, name: str, *args: Any, **options: Any) -> Any:
        raise NotOnEngine("no such container")


@pytest.fixture
def container() -> Facts:
    loop = naming.LoopName("namespace", "c1", "nobody")
    labels = {naming.NONCE: "nonce"}
    return Facts("id", str(loop), loop, "exited", 3, datetime.now(timezone.utc), labels, {8000: 1}, "")


@pytest.fixture
def told() -> list[LoopChange]:
    return []


@pytest.fixture
def parts(told: list[LoopChange], container: Facts) -> Parts:
    context: Any = SimpleNamespace(secret=SecretStr("s" * 32), emit=told.append)
    settings = DockerSettings(secret_environment={"PASSWORD": OF_THE_SETTINGS, "FLAG": "1"})
    other: Any = None
    view = View(settings, context, other, other, other)
    keys = view.keys(container)
    lines = [
        f"key {keys.session.get_secret_value()}",
        f"password {OF_THE_SETTINGS}",
        "request of-the-request",
        "flag 1",
    ]
    engine: Any = Engine(*lines)
    return Parts(settings, context, other, engine, other, other, other, view)


HIDDEN = ("key **********", "password **********", "request **********", "flag 1")
REQUEST = StartLoop(
    conversation_id="c1", environment={"OWN": SecretStr("of-the-request"), "LMNR_FORCE_HTTP": SecretStr("true")}
)


async def test_a_loop_that_dies_tells_nothing_of_its_secret_variables(parts, told, container):
    ContainerBoot(parts, container, REQUEST, is_new=True)
    keeper = Keeper(parts, None)  # type: ignore[arg-type]
    await keeper._publish_end(container, 3)
    assert told[0].loop.log_tail == HIDDEN


async def test_a_start_that_fails_tells_nothing_of_them_either(parts, container):
    error = await ContainerBoot(parts, container, REQUEST, is_new=True)._unit.why_ended()
    assert tuple(error.log_tail) == HIDDEN


async def test_a_quoted_secret_is_no_secret_told():
    engine: Any = Engine('{"message": "a \\"quoted\\" secret"}')
    assert await log_tail(engine, "id", [SecretStr('a "quoted" secret')]) == ['{"message": "**********"}']


async def test_a_container_that_is_removed_while_it_is_judged_is_no_failure():
    engine: Any = RemovedMeanwhile()
    with pytest.raises(NotOnEngine):
        await read_ending(engine, "id")
