"""Several hosts on the same loops: none stops what is used through another."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from websockets.asyncio.client import connect

from loopnest import LoopFailed, LoopStatus
from loopnest_openhands.agent_server.socket_proxy import NO_PROXY

ONE = str(uuid.uuid4())
PATH = f"/api/conversations/{ONE}"
#: Seconds without use after which these hosts stop a loop.
IDLE = 1.0


@pytest.fixture
async def host(open_host):
    opened = await open_host(idle_after=IDLE)
    await opened.create(ONE)
    return opened


def status(host: Any) -> LoopStatus:
    return host.strategy.loops[ONE].status


def socket(host: Any) -> Any:
    headers = {"x-session-api-key": "outer-key"}
    return connect(host.url.replace("http", "ws") + f"/sockets/events/{ONE}", additional_headers=headers, **NO_PROXY)


async def is_stopped(host: Any) -> None:
    while status(host) is not LoopStatus.STOPPED:
        await asyncio.sleep(0.05)


async def test_a_socket_through_one_replica_keeps_the_loop_from_the_other(host, open_host):
    replica = await open_host(idle_after=IDLE, beside=host)
    async with socket(replica) as one:
        assert json.loads(await one.recv())["path"].endswith(ONE)
        await asyncio.sleep(4 * IDLE)
        assert status(host) is LoopStatus.RUNNING
        await one.send("hello")
        assert await one.recv() == "echo hello"
    await is_stopped(host)


async def test_a_request_through_one_replica_wakes_the_loop_that_another_is_stopping(host, open_host):
    replica = await open_host(beside=host, idle_after=60)
    host.strategy.closing.clear()
    host.strategy.may_close = asyncio.Event()
    await host.strategy.closing.wait()
    asking = asyncio.ensure_future(replica.client.post(f"{PATH}/run"))
    await asyncio.sleep(0.3)
    assert not asking.done()
    host.strategy.may_close.set()
    assert (await asking).status_code == 200
    assert (len(host.strategy.starts), status(host)) == (2, LoopStatus.RUNNING)


async def test_a_request_that_meets_a_loop_being_stopped_from_elsewhere_wakes_it(host):
    running = host.strategy.loops[ONE]
    host.strategy.loops[ONE] = running.model_copy(update={"url": "http://127.0.0.1:1"})
    asking = asyncio.ensure_future(host.client.post(f"{PATH}/run"))
    await asyncio.sleep(1)
    host.strategy.loops[ONE] = host.strategy.stopped(ONE)
    assert (await asking).status_code == 200
    assert len(host.strategy.starts) == 2


@pytest.mark.parametrize(("exit_code", "status"), [(143, 200), (1, 502)])
async def test_a_start_that_meets_a_stop_from_elsewhere_is_tried_again(host, exit_code, status):
    host.strategy.loops[ONE] = host.strategy.stopped(ONE)
    host.strategy.failures.append(LoopFailed("It ended.", exit_code=exit_code))
    assert (await host.client.post(f"{PATH}/run")).status_code == status


async def test_what_a_nested_server_did_for_a_host_elsewhere_counts(open_host, tmp_path):
    host = await open_host(idle_after=60)
    await host.create(ONE)
    host.nested.idle_time = 0
    await open_host(idle_after=IDLE, beside=host, state_dir=tmp_path / "elsewhere")
    await asyncio.sleep(4 * IDLE)
    assert status(host) is LoopStatus.RUNNING
    host.nested.idle_time = 3600
    await is_stopped(host)


async def test_a_host_that_can_not_write_goes_by_what_it_saw_itself(open_host, tmp_path, caplog):
    blocked = tmp_path / "default" / "uses"
    blocked.parent.mkdir()
    blocked.write_text("in the way")
    host = await open_host(idle_after=IDLE)
    await host.create(ONE)
    async with socket(host) as one:
        await one.recv()
        await asyncio.sleep(3 * IDLE)
        assert status(host) is LoopStatus.RUNNING
    await is_stopped(host)
    assert caplog.text.count("Uses of loops are not shared") == 1
