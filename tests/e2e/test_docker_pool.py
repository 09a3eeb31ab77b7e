"""Containers booted ahead: claimed by one, never by two, and never with anything of anybody in them."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from loopnest import EVERYONE, LoopQuery, LoopStatus, StartLoop, hookimpl
from loopnest_docker import naming

ALL = LoopQuery(user_id=EVERYONE)
#: How often containers are claimed in the race of four processes; ten thousand take a quarter of an hour.
CLAIMS = int(os.environ.get("LOOPNEST_TEST_CLAIMS", "200"))


@pytest.fixture
def slots(engine, namespace):
    """What waits now: containers of the pool that have a token."""

    def listed() -> list[dict]:
        label = f"{naming.NAMESPACE}={namespace}"
        found = engine.containers(all=True, filters={"label": [label]})
        tokens = {it["Labels"][naming.NONCE] for it in found if it["Labels"].get(naming.ROLE) == "token"}
        return [
            it
            for it in found
            if it["Labels"].get(naming.ROLE) == "slot"
            and it["Labels"][naming.NONCE] in tokens
            and not naming.parse(it["Names"][0])
        ]

    return listed


async def until(condition, limit: float = 60) -> None:
    """Wait for what the engine shows, which has no event for us.

    It must show it twice: an engine lists a container some milliseconds before it tells of it.
    """

    async def poll() -> None:
        held = 0
        while held < 2:
            held = held + 1 if await asyncio.to_thread(condition) else 0
            await asyncio.sleep(0.05)

    await asyncio.wait_for(poll(), limit)


async def test_a_start_takes_a_container_that_waits_and_the_pool_is_filled_again(open_manager, slots, containers):
    manager = await open_manager(pool={"size": 2})
    await until(lambda: len(slots()) == 2)
    waiting = {slot["Id"] for slot in slots()}
    loop = await manager.start_loop(StartLoop(conversation_id="c1"), "alice")
    assert loop.origin == "warm"
    assert containers()[0]["Id"] in waiting
    await until(lambda: len(slots()) == 2)
    assert containers()[0]["Id"] not in {slot["Id"] for slot in slots()}


async def test_waiting_containers_are_no_loops(open_manager, slots):
    manager = await open_manager(pool={"size": 1})
    await until(lambda: len(slots()) == 1)
    assert await manager.list_loops(ALL) == []


async def test_a_server_that_can_not_be_warmed_up_waits_as_it_is(open_manager, slots):
    manager = await open_manager(pool={"size": 1}, environment={"STANDIN": "upset"})
    await until(lambda: len(slots()) == 1)
    assert await manager.list_loops(ALL) == []


async def test_a_paused_pool_is_woken_for_a_start(open_manager, slots):
    manager = await open_manager(pool={"size": 1, "pause": True})
    await until(lambda: len(slots()) == 1)
    assert slots()[0]["State"] == "paused"
    loop = await manager.start_loop(StartLoop(conversation_id="c1"))
    assert (loop.origin, loop.status) == ("warm", LoopStatus.RUNNING)


@pytest.mark.parametrize(
    ("request_facts", "why"),
    [
        ({"environment": {"A": "b"}}, "cold: environment"),
        ({"notes": {"made-by": "bob"}}, "cold: notes"),
        ({}, "cold: none waits that is alike"),
    ],
)
async def test_what_differs_from_the_pool_starts_cold_and_says_why(open_manager, slots, request_facts, why):
    class Larger:
        @hookimpl
        def configure_container(self, request, spec):
            if request.conversation_id == "c1":
                spec.memory *= 2

    manager = await open_manager(Larger(), pool={"size": 1})
    await until(lambda: len(slots()) == 1)
    loop = await manager.start_loop(StartLoop(conversation_id="c1", **request_facts))
    assert loop.origin == why


async def test_a_claim_that_meets_a_dead_container_takes_the_next(open_manager, slots, engine):
    manager = await open_manager(pool={"size": 2})
    await until(lambda: len(slots()) == 2)
    first, _ = sorted(slots(), key=lambda it: it["Created"])
    engine.kill(first["Id"])
    loop = await manager.start_loop(StartLoop(conversation_id="c1"))
    assert loop.status is LoopStatus.RUNNING
    await until(lambda: first["Id"] not in {it["Id"] for it in engine.containers(all=True)})


async def test_more_starts_than_waiting_containers_all_succeed(open_manager, slots, containers):
    manager = await open_manager(pool={"size": 2})
    await until(lambda: len(slots()) == 2)
    starts = [manager.start_loop(StartLoop(conversation_id=f"c{number}")) for number in range(6)]
    loops = await asyncio.gather(*starts)
    assert [loop.origin for loop in loops].count("warm") >= 2
    assert len({loop.url for loop in loops}) == 6
    assert len({loop.session_key for loop in loops}) == 6


async def test_the_pool_is_drained_when_the_configuration_changes(open_manager, slots, engine):
    before = await open_manager(pool={"size": 1})
    await until(lambda: len(slots()) == 1)
    old = slots()[0]["Id"]
    await before.aclose()
    await open_manager(pool={"size": 1, "drain_after": 0}, memory="1GiB")
    await until(lambda: old not in {it["Id"] for it in engine.containers(all=True)} and len(slots()) == 1)


async def test_a_pool_that_is_turned_off_is_emptied(open_manager, slots):
    before = await open_manager(pool={"size": 1})
    await until(lambda: len(slots()) == 1)
    await before.aclose()
    await open_manager(pool={"size": 0, "drain_after": 0})
    await until(lambda: not slots())


async def test_the_pool_is_bounded_in_memory(open_manager, slots):
    await open_manager(memory="64MiB", pool={"size": 5, "memory": "200MiB"})
    await until(lambda: len(slots()) == 3)
    await asyncio.sleep(1)  # long enough for a fourth
    assert len(slots()) == 3


async def test_no_two_of_many_claimants_ever_get_the_same_container(open_manager, slots, containers):
    hosts = [await open_manager(pool={"size": 8}) for _ in range(4)]
    await until(lambda: len(slots()) >= 8)
    starts = [host.start_loop(StartLoop(conversation_id=f"c{n}-{i}")) for i, host in enumerate(hosts) for n in range(6)]
    loops = await asyncio.gather(*starts)
    assert len({loop.url for loop in loops}) == 24
    assert len(containers()) == 24


@pytest.mark.timeout(300 + CLAIMS)
async def test_no_container_is_ever_held_by_two_of_four_processes(open_manager, slots, settings, standin, tmp_path):
    filling = await open_manager(pool={"size": 8})
    await until(lambda: len(slots()) == 8)
    await filling.aclose()
    program = [sys.executable, str(Path(__file__).with_name("claimant.py")), settings.namespace]
    arguments = [str(settings.state_dir), standin, str(tmp_path), str(CLAIMS // 4)]
    racing = [
        await asyncio.create_subprocess_exec(*program, *arguments, stderr=asyncio.subprocess.PIPE) for _ in "1234"
    ]
    told = [(await process.communicate())[1].decode() for process in racing]
    assert [process.returncode for process in racing] == [0] * 4, told
    assert len(slots()) == 8
