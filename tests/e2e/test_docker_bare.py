"""Loops whose conversations the host creates itself, and what a host notes on them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

from loopnest import EVERYONE, Loop, LoopManager, LoopQuery, LoopStatus, StartLoop

OpenManager = Callable[..., Awaitable[LoopManager]]


def bare(**facts: Any) -> StartLoop:
    return StartLoop(conversation_id="b1", conversation=None, notes={"color": "blue"}, **facts)


async def listed(manager: LoopManager) -> list[Loop]:
    return await manager.list_loops(LoopQuery(user_id=EVERYONE))


async def test_nothing_is_created_in_the_nested_server_of_a_bare_loop(open_manager: OpenManager) -> None:
    loop = await (await open_manager()).start_loop(bare())
    assert loop.session_key is not None
    headers = {"X-Session-API-Key": loop.session_key.get_secret_value()}
    async with httpx.AsyncClient(base_url=loop.url or "", headers=headers, trust_env=False) as http:
        assert (await http.get("/ready")).status_code == 200
        assert (await http.get(f"/api/conversations/{loop.nested_id}")).status_code == 404


async def test_another_host_sees_that_a_bare_loop_runs_and_what_was_noted(open_manager: OpenManager) -> None:
    first, second = await open_manager(), await open_manager()
    await first.start_loop(bare())
    (loop,) = await listed(second)
    assert (loop.status, loop.notes) == (LoopStatus.RUNNING, {"color": "blue"})
    assert (await second.get_loop("b1", probe=True)).agent_status == "ready"


async def test_a_bare_loop_stays_bare_when_it_is_started_again(open_manager: OpenManager) -> None:
    manager = await open_manager()
    await manager.start_loop(bare())
    await manager.close_session("b1")
    assert (await manager.start_loop(StartLoop(conversation_id="b1"))).status is LoopStatus.RUNNING
    assert (await manager.get_loop("b1")).notes == {"color": "blue"}


async def test_further_ports_are_published_and_told(open_manager: OpenManager) -> None:
    loop = await (await open_manager(extra_ports=(8011, 8012))).start_loop(bare())
    assert sorted(loop.urls) == [8011, 8012]
    assert len({loop.url, *loop.urls.values()}) == 3


async def test_the_environment_of_a_start_reaches_the_nested_server_only(
    open_manager: OpenManager, engine: Any, containers: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    await (await open_manager()).start_loop(bare(environment={"OH_WEBHOOKS_0_BASE_URL": "http://host/secret-path"}))
    (container,) = containers()
    assert "secret-path" not in str(engine.inspect_container(container["Id"]))
