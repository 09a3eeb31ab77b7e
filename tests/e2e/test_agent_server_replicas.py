"""The agent server as a host: two real outer servers on the same loops."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from .agent_server_stage import NEWEST, PATIENCE, created, environment_of, open_outer, session, until

#: Seconds without use after which loops stop.
IDLE = 8
#: No test here asks a model anything.
MODEL = "http://127.0.0.1:9/v1"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def environment(namespace, agent_server_image, tmp_path) -> dict[str, str]:
    shared = {"LOOPNEST_SECRET": "secret of all these replicas"}
    return environment_of(namespace, tmp_path) | shared | {"OH_CONVERSATION_IDLE_TTL_SECONDS": str(IDLE)}


@pytest.fixture
def is_running(containers) -> Callable[[], bool]:
    return lambda: [entry["State"] for entry in containers()] == ["running"]


async def test_a_socket_through_one_replica_stays_open_while_the_other_looks(environment, is_running, tmp_path):
    (tmp_path / "two").mkdir()
    async with (
        open_outer(NEWEST, environment, tmp_path) as one,
        open_outer(NEWEST, environment, tmp_path / "two") as two,
    ):
        path = await created(one, MODEL)
        async with session(two, path, after=-1) as frames:
            assert json.loads(await asyncio.wait_for(frames.recv(), PATIENCE))
            await asyncio.sleep(5 * IDLE)
            assert is_running()
            await asyncio.wait_for(await frames.ping(), PATIENCE)
        await until(_stopped(is_running), "the loop that nobody uses is stopped")
        answers = await asyncio.gather(*(it.client.get(f"{path}/events/count") for it in (one, two)))
        assert [answer.status_code for answer in answers] == [200, 200]


async def test_commands_through_one_replica_keep_the_loop_from_one_elsewhere(environment, is_running, tmp_path):
    """Which has a state directory of its own, as on another machine."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    apart = environment | {"LOOPNEST_STATE_DIR": str(elsewhere / "state")}
    async with open_outer(NEWEST, environment, tmp_path) as one, open_outer(NEWEST, apart, elsewhere) as two:
        path = await created(one, MODEL)
        for _ in range(5 * IDLE):
            ran = await one.client.post(f"{path}/bash/execute_bash_command", json={"command": "true", "timeout": 9})
            assert ran.status_code == 200, ran.text
            await asyncio.sleep(1)
        assert is_running()
        assert (await two.client.get(f"{path}/runtime")).json()["runtime_status"] == "available"
        await until(_stopped(is_running), "the loop that nobody uses is stopped")


def _stopped(is_running: Callable[[], bool]) -> Callable[[], Any]:
    async def ask() -> bool:
        return not is_running()

    return ask
