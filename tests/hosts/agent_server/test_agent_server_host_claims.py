"""No nested server gets another conversation by listing its id: agents control them."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

import pytest

from loopnest import LoopStatus, StartLoop

from .conftest import new_info

ONE = "11111111-0000-4000-8000-00000000000a"
TWO = "22222222-0000-4000-8000-00000000000b"
FORK = "44444444-0000-4000-8000-00000000000c"
PATH = f"/api/conversations/{TWO}"
#: The one conversation of the stock application of the tests.
LOCAL = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
async def host(host):
    """Two conversations; the nested server of the first is hostile."""
    await host.create(ONE)
    await host.create(TWO)
    return host


def claim(host: Any, conversation_id: str) -> None:
    """Have the hostile nested server list a conversation, while the other one does not answer."""
    host.nested.infos[ONE][conversation_id] = new_info(conversation_id, title="hostile")
    host.nested.pages[TWO] = b"{"


def forget_all(tmp_path: Any) -> None:
    for path in tmp_path.rglob("agent-server/*.json"):
        path.unlink()


async def items(host: Any) -> dict[str, dict[str, Any]]:
    found = (await host.client.get("/api/conversations/search")).json()["items"]
    return {item["id"]: item for item in found}


async def server_of(host: Any, conversation_id: str) -> str:
    """The loop whose nested server answers for a conversation."""
    answer = await host.client.get(f"/api/conversations/{conversation_id}/agent_final_response")
    return answer.json()["response"].removeprefix("done in ")


@pytest.mark.parametrize("listed", [TWO, TWO.upper(), uuid.UUID(TWO).hex])
@pytest.mark.parametrize("looked_at", [True, False])
async def test_an_id_that_is_another_loops_stays_its(host, tmp_path, listed, looked_at):
    if not looked_at:
        forget_all(tmp_path)
    claim(host, listed)
    await items(host)
    assert await server_of(host, TWO) == TWO
    assert "title" not in (await items(host)).get(TWO, {})


@pytest.mark.parametrize("status", [LoopStatus.STOPPED, LoopStatus.STARTING, LoopStatus.PAUSED, LoopStatus.FAILED])
async def test_an_id_that_is_another_loops_stays_its_in_any_state(host, tmp_path, status):
    forget_all(tmp_path)
    running = host.strategy.loops[TWO]
    host.strategy.loops[TWO] = running.model_copy(update={"status": status, "url": None})
    claim(host, TWO)
    assert "title" not in (await items(host)).get(TWO, {})
    host.strategy.loops[TWO] = running
    assert await server_of(host, TWO) == TWO


async def test_an_id_that_is_the_nested_one_of_a_loop_stays_its(host):
    nested_id = str(uuid.uuid4())
    await host.manager.start_loop(StartLoop(conversation_id="named-by-its-host", conversation=None))
    loop = host.strategy.loops["named-by-its-host"]
    host.strategy.loops["named-by-its-host"] = loop.model_copy(update={"nested_id": nested_id})
    claim(host, nested_id)
    assert nested_id not in await items(host)
    host.nested.infos["named-by-its-host"] = {nested_id: new_info(nested_id)}
    assert nested_id in await items(host)
    assert await server_of(host, nested_id) == "named-by-its-host"


async def test_deleting_the_claimed_conversation_removes_its_own_loop(host):
    claim(host, TWO)
    await items(host)
    assert (await host.client.delete(PATH)).status_code == 200
    assert set(host.strategy.loops) == {ONE}
    assert TWO in host.nested.infos[ONE]  # as nothing of it was asked of the hostile one


async def test_a_fork_of_another_conversation_stays_where_it_is(host):
    await host.client.post(f"{PATH}/fork", json={"id": FORK})
    claim(host, FORK)
    await items(host)
    assert await server_of(host, FORK) == TWO
    host.strategy.loops[TWO] = host.strategy.stopped(TWO)
    await items(host)
    assert (await host.client.get(f"/api/conversations/{FORK}")).json().get("title") is None


async def test_a_local_conversation_stays_local(open_host):
    host = await open_host(conversation_runtime_selectable=True)
    await host.create(ONE)
    claim(host, LOCAL)
    assert "title" not in (await items(host))[LOCAL]
    assert (await host.client.post(f"/api/conversations/{LOCAL}/run")).json()["stock"]


async def test_a_loop_of_its_own_counts_more_than_what_was_kept_before(host, tmp_path):
    """As by versions that believed every listing."""
    kept = next(tmp_path.rglob(f"agent-server/{TWO}.json"))
    kept.write_text(json.dumps({"loop_id": ONE, "info": new_info(TWO, title="hostile")}))
    host.strategy.loops[TWO] = host.strategy.stopped(TWO)
    assert TWO not in await items(host)
    assert await server_of(host, TWO) == TWO
    assert "title" not in (await items(host))[TWO]
    assert (await host.client.delete(PATH)).status_code == 200
    assert set(host.strategy.loops) == {ONE}


async def test_a_new_conversation_is_the_loops_that_lists_it(host):
    """As when an agent starts a child."""
    child = new_info(FORK)
    host.nested.infos[TWO][FORK] = child
    assert (await items(host))[FORK]["id"] == FORK
    assert await server_of(host, FORK) == TWO


async def test_what_a_client_creates_does_not_reach_the_loop_that_listed_its_id_before(host):
    claim(host, FORK)
    await items(host)
    before = len(host.nested.bodies)
    answer = await host.create(FORK, secrets={"TOKEN": {"kind": "StaticSecret", "value": "secret"}})
    assert (answer.status_code, answer.json()["title"]) == (200, "hostile")
    assert len(host.nested.bodies) == before


async def test_a_create_answered_for_another_conversation_is_an_error(host, monkeypatch):
    host.nested.refusal = (201, None)
    own = str(uuid.uuid4())
    monkeypatch.setattr(host.nested, "answer", new_info(TWO, title="hostile"))
    answer = await host.create(own)
    assert (answer.status_code, answer.json()["reason"]) == (502, "nested-refused")
    assert await server_of(host, TWO) == TWO
    assert own not in await items(host)


@pytest.mark.parametrize("stopped", [True, False])
async def test_a_fork_can_not_have_an_id_that_lives_elsewhere(host, tmp_path, stopped):
    if stopped:
        host.strategy.loops[TWO] = host.strategy.stopped(TWO)
        forget_all(tmp_path)
    answer = await host.client.post(f"/api/conversations/{ONE}/fork", json={"id": uuid.UUID(TWO).hex})
    assert (answer.status_code, answer.json()["detail"]) == (409, f"Conversation {TWO} already exists")
    assert set(host.nested.infos[ONE]) == {ONE}


@pytest.mark.parametrize("content", [b"", b"{}", b'{"id": null}', b'{"id": 7}', b"[]", b"{"])
async def test_a_fork_without_a_readable_id_is_the_nested_servers_to_answer(host, content):
    host.nested.refusal = (422, "no id")
    answer = await host.client.post(f"/api/conversations/{ONE}/fork", content=content)
    assert answer.status_code == 422


async def test_a_claim_is_logged_once_with_loop_and_id(host, caplog):
    claim(host, TWO)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await items(host)
    (record,) = [record for record in caplog.records if TWO in record.getMessage()]
    assert (record.levelno, ONE in record.getMessage()) == (logging.WARNING, True)


async def test_a_listing_without_end_is_read_up_to_its_first_hundred(host):
    many = [new_info(str(uuid.uuid4())) for _ in range(100_000)]
    host.nested.pages[ONE] = json.dumps({"items": many, "next_page_id": None}).encode()
    assert len(await items(host)) == 100
    assert (await host.client.get("/api/conversations/count")).json() == 2 + 100


async def test_ever_new_ids_fill_the_catalog_up_to_a_bound(host, monkeypatch, caplog):
    monkeypatch.setattr("loopnest_openhands.agent_server.claims._MOST", 10)
    for _ in range(30):
        claim(host, str(uuid.uuid4()))
        await items(host)
    assert (await host.client.get("/api/conversations/count")).json() == 1 + 10
    assert caplog.text.count("beyond the first 10") == 1


GOOD = new_info(FORK)
MALFORMED = {
    "null": None,
    "text": "text",
    "list": [],
    "empty": {},
    "number": {**GOOD, "id": 7},
    "no uuid": {**GOOD, "id": "no-uuid"},
    "path": {**GOOD, "id": "../../x"},
    "list of ids": {**GOOD, "id": [FORK]},
    "braces": {**GOOD, "id": f"{{{FORK}}}"},
    "other digits": {**GOOD, "id": FORK.replace("4", "\u0664")},
    "only an id": {"id": FORK},
    "odd status": {**GOOD, "execution_status": 1},
    "no time": {**GOOD, "created_at": None},
    "nan": {**GOOD, "x": float("nan")},
    "surrogate": {**GOOD, "x": "\ud800"},
}


@pytest.mark.parametrize("item", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_item_is_left_out_and_all_others_are_listed(host, item):
    host.nested.pages[ONE] = json.dumps({"items": [item, new_info(ONE)], "next_page_id": None}).encode()
    assert set(await items(host)) == {ONE, TWO}
    assert (await items(host))[ONE]["execution_status"] == "idle"


@pytest.mark.parametrize("page", [b"7", b"null", b'{"items": 7}', b'{"items": {"a": 1}}', b"[" * 100_000, b"\xff"])
async def test_a_malformed_listing_leaves_the_others_alone(host, page):
    host.nested.pages[ONE] = page
    assert set(await items(host)) == {ONE, TWO}


@pytest.mark.parametrize("idle_time", ["7", None, [], {}])
async def test_a_malformed_idle_time_does_not_end_the_sweeps(open_host, idle_time):
    host = await open_host(conversation_idle_ttl_seconds=0.5)
    await host.create(ONE)
    await host.create(TWO)
    host.nested.idle_time = idle_time
    host.nested.pages[ONE] = b'{"items": [{}, 7]}'
    async with host.manager.watch() as changes:
        async for change in changes:
            if change.phase == "stopped":
                break
