"""What the sweep takes for an interrupted start; that it ends one is shown by tests/e2e/test_docker_nothing_lost.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from pydantic import SecretStr

from loopnest import EngineError, Reason
from loopnest.models import utcnow
from loopnest_docker import keeper, naming
from loopnest_docker.engine import NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.keeper import Ages, Keeper
from loopnest_docker.settings import DockerSettings
from loopnest_docker.view import View
from loopnest_nested import session_keys

SECRET = SecretStr("a secret of the tests")


class Dialect:
    """A nested server that answers, and knows no conversation."""

    async def has_conversation(self, server, conversation_id) -> bool:
        return False

    def nested_id(self, conversation_id) -> str:
        return conversation_id

    def store(self, place, conversation_id) -> str:
        return "/store"


class Engine:
    """Has one container with no files in it."""

    async def call(self, method, container_id):
        assert method == "inspect_container"
        return {"State": {"FinishedAt": "0001-01-01T00:00:00Z"}}

    async def run(self, work):
        raise NotOnEngine("no such directory")


def facts(**different) -> Facts:
    labels = {naming.KEY: session_keys.fingerprint(SECRET), naming.NONCE: "0" * 32}
    name = naming.LoopName("tests", "c1", "nobody")
    known = {"id": "id", "name": str(name), "loop": name, "state": "running", "exit_code": None, "address": ""}
    return Facts(**{**known, "created_at": utcnow(), "labels": labels, "ports": {8000: 40001}, **different})


@pytest.fixture
def clock(monkeypatch):
    """The keeper's clock, to be moved by hand."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(keeper.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def calls_of(clock):
    """Sweep a container twice, with so many seconds in between; return what was done to it."""

    async def sweeps(container: Facts, seconds: float, *, now: Facts | None = None, runs: bool = False) -> list[str]:
        """``now`` is what a fresh look finds instead; ``runs``: it was started just before its removal."""
        calls: list[str] = []

        async def everything():
            return {"id": container}

        async def look(name):
            return [now or container]

        async def remove(found, *, force):
            assert not force
            calls.append("keep" if runs else "remove")
            return not runs

        async def stop(found, *, seconds):
            calls.append("stop")

        context = SimpleNamespace(
            secret=SECRET, strategy="docker", emit=lambda change: calls.append(change.loop.reason)
        )
        view = View(DockerSettings(), context, Dialect(), None, None)
        inventory = SimpleNamespace(all=everything, look=look)
        parts = SimpleNamespace(
            settings=DockerSettings(),
            context=context,
            view=view,
            inventory=inventory,
            dialect=Dialect(),
            engine=Engine(),
        )
        closer = SimpleNamespace(remove=remove, stop=stop)
        swept = Keeper(parts, SimpleNamespace(busy=lambda container: False, closer=closer))
        await swept.sweep()
        clock.now += seconds
        await swept.sweep()
        return calls

    return sweeps


LONG = DockerSettings().start_timeout + 6


async def test_an_empty_container_of_an_interrupted_start_is_removed(calls_of):
    assert await calls_of(facts(), LONG) == ["stop", "remove", "interrupted"]


async def test_a_container_that_never_ran_is_removed(calls_of):
    assert await calls_of(facts(state="created"), LONG) == ["remove", "interrupted"]


async def test_a_container_that_a_replica_starts_is_kept(calls_of):
    assert await calls_of(facts(state="created"), LONG, now=facts()) == []
    assert await calls_of(facts(), LONG, now=facts(ports={8000: 40002})) == []
    assert await calls_of(facts(), LONG, now=facts(id="another")) == []


async def test_no_removal_is_published_of_a_container_that_runs_again(calls_of):
    assert await calls_of(facts(state="created"), LONG, runs=True) == ["keep"]


async def test_a_start_that_may_go_on_elsewhere_is_left_alone(calls_of):
    assert await calls_of(facts(), LONG - 2) == []


async def test_a_server_without_a_known_address_is_kept(calls_of):
    assert await calls_of(facts(ports={8001: 40001}), LONG) == []


@pytest.mark.parametrize(
    "change", [{"name": "loopnest.tests.c1.alice"}, {"state": "paused"}, {"ports": {8000: 40002}}], ids=str
)
def test_a_claim_or_a_restart_begins_a_new_count(clock, change):
    ages = Ages()
    ages.look([facts()])
    clock.now = 100
    ages.look([facts()])
    assert ages.of(facts()) == 100
    changed = facts(**change)
    ages.look([changed])
    assert ages.of(changed) == 0
    ages.look([facts()])
    assert ages.of(facts()) == 0


@pytest.fixture
def sweeper():
    """A keeper of two containers; looking after one of them raises ``error``."""

    def new(error: Exception) -> tuple[Keeper, list[str]]:
        looked: list[str] = []

        async def everything():
            return {name: facts(id=name, name=name) for name in ("first", "second")}

        async def look_after(container):
            looked.append(container.id)
            if container.id == "first":
                raise error

        inventory = SimpleNamespace(all=everything)
        parts = SimpleNamespace(settings=DockerSettings(sweep_interval=0.01), inventory=inventory)
        swept = Keeper(parts, SimpleNamespace(busy=lambda container: False))
        swept._look_after = look_after
        return swept, looked

    return new


async def test_one_container_the_engine_refuses_hides_no_other(sweeper, caplog):
    swept, looked = sweeper(EngineError("driver failed"))
    await swept.sweep()
    assert looked == ["first", "second"]
    assert "leaves first as it is: driver failed" in caplog.text


async def test_a_sweep_without_an_engine_ends_at_once(sweeper):
    swept, looked = sweeper(EngineError("no engine", reason=Reason.ENGINE_UNREACHABLE))
    with pytest.raises(EngineError):
        await swept.sweep()
    assert looked == ["first"]


async def test_sweeps_go_on_after_an_unexpected_error(sweeper, caplog):
    swept, looked = sweeper(TypeError("odd"))
    swept.open()
    while looked.count("first") < 2:
        await asyncio.sleep(0)
    await swept.aclose()
    assert "The sweep failed" in caplog.text
