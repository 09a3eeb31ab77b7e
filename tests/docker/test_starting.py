"""A race of two users for one id; tests/e2e/test_docker_races.py runs it on a real engine."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from loopnest import LoopFailed, LoopNotFound, Reason, StartLoop
from loopnest.models import utcnow
from loopnest_docker import naming
from loopnest_docker.engine import NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.starting import Start


def container(owner: str) -> Facts:
    name = naming.LoopName("tests", "c1", owner)
    known = {"exit_code": None, "created_at": utcnow(), "labels": {}, "ports": {}, "address": ""}
    return Facts(id=owner, name=str(name), loop=name, state="running", **known)


@pytest.fixture
def settle():
    """Let Alice's start look at her container and at Bob's; ``made`` is when the engine made each that is there."""

    async def look(**made: str):
        async def call(method, container_id):
            if container_id not in made:
                raise NotOnEngine("gone")
            return {"Created": made[container_id]}

        async def listed(name):
            return [container("alice"), container("bob")]

        engine, inventory = SimpleNamespace(call=call), SimpleNamespace(look=listed)
        parts = SimpleNamespace(context=SimpleNamespace(namespace="tests"), engine=engine, inventory=inventory)
        start = Start(parts, None, asyncio.Semaphore(), StartLoop(conversation_id="c1"), "alice")
        return await start._look()

    return look


async def test_the_older_container_wins(settle):
    assert (await settle(alice="2026-01-01T00:00:00.1Z", bob="2026-01-01T00:00:00.2Z")).id == "alice"
    with pytest.raises(LoopNotFound):
        await settle(alice="2026-01-01T00:00:00.2Z", bob="2026-01-01T00:00:00.1Z")


async def test_a_rival_that_has_given_up_does_not_count(settle):
    assert (await settle(alice="2026-01-01T00:00:00.2Z")).id == "alice"


async def test_a_container_that_is_gone_does_not_win(settle):
    with pytest.raises(LoopFailed) as caught:
        await settle(bob="2026-01-01T00:00:00.2Z")
    assert caught.value.reason == Reason.INTERRUPTED
