"""What the sweep takes for an interrupted start; that it finds one is shown by tests/e2e/test_docker_races.py."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from loopnest.models import utcnow
from loopnest_docker import naming
from loopnest_docker.facts import Facts
from loopnest_docker.keeper import Keeper
from loopnest_docker.settings import DockerSettings
from loopnest_docker.view import View
from loopnest_nested import session_keys


class Dialect:
    """A nested server that answers, and knows no conversation."""

    async def agent_status(self, server, conversation) -> None:
        return None

    def nested_id(self, conversation) -> str:
        return conversation


@pytest.fixture
def removed_of():
    """Sweep one container that has run for an hour, and say what was removed."""
    secret = SecretStr("a secret of the tests")

    async def sweep(ports: dict[int, int]) -> list[Facts]:
        labels = {naming.KEY: session_keys.fingerprint(secret), naming.NONCE: "0" * 32}
        name, an_hour_ago = naming.LoopName("tests", "c1", "anybody"), utcnow() - timedelta(hours=1)
        container = Facts("id", str(name), name, "running", None, an_hour_ago, labels, ports, "")
        removed: list[Facts] = []

        async def everything():
            return {"id": container}

        async def remove(found):
            removed.append(found)

        context = SimpleNamespace(secret=secret, strategy="docker", emit=lambda change: None)
        view = View(DockerSettings(), context, Dialect(), None)
        inventory = SimpleNamespace(all=everything)
        parts = SimpleNamespace(settings=DockerSettings(), context=context, view=view, inventory=inventory)
        lifecycle = SimpleNamespace(busy=lambda container: False, closer=SimpleNamespace(remove=remove))
        await Keeper(parts, lifecycle).sweep()
        return removed

    return sweep


async def test_a_server_that_never_got_its_conversation_is_removed(removed_of):
    assert len(await removed_of({8000: 40001})) == 1


async def test_a_server_that_this_host_has_no_address_of_may_be_at_work_and_is_kept(removed_of):
    assert await removed_of({8001: 40001}) == []
