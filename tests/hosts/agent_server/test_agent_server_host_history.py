"""Nothing is removed, and nothing forgotten, because a nested server does not list it."""

from __future__ import annotations

import asyncio
import shlex
import uuid
from typing import Any

import pytest

from loopnest import Loop, LoopFailed, LoopStatus, Reason, StartLoop

ONE, TWO = str(uuid.uuid4()), str(uuid.uuid4())
PATH = f"/api/conversations/{ONE}"


@pytest.fixture
async def host(open_host):
    """A host that stops loops after half a second without use."""
    opened = await open_host(conversation_idle_ttl_seconds=0.5)
    await opened.create(ONE)
    return opened


def lose(host: Any, *conversation_ids: str) -> None:
    """Have the nested server of the first conversation lose these, or all."""
    for conversation_id in conversation_ids or list(host.nested.infos[ONE]):
        del host.nested.infos[ONE][conversation_id]


async def stopped(host: Any, conversation_id: str = ONE) -> Loop:
    """The loop, once it does not run any more."""
    while (loop := await host.manager.get_loop(conversation_id)).status is LoopStatus.RUNNING:
        await asyncio.sleep(0.05)
    return loop


async def items(host: Any) -> dict[str, dict[str, Any]]:
    found = (await host.client.get("/api/conversations/search")).json()["items"]
    return {item["id"]: item for item in found}


async def test_a_loop_whose_history_is_lost_is_stopped_and_reported(host):
    lose(host)
    loop = await stopped(host)
    assert ONE in host.strategy.loops
    assert (loop.status, loop.reason) == (LoopStatus.FAILED, "history-lost")
    assert "workspace is kept" in loop.message


async def test_a_loop_without_any_conversation_is_stopped_as_any_idle_loop(host):
    await host.manager.start_loop(StartLoop(conversation_id=TWO, conversation=None, notes={"host": "agent-server"}))
    loop = await stopped(host, TWO)
    assert (loop.status, loop.reason) == (LoopStatus.STOPPED, None)


@pytest.mark.parametrize("looked", [False, True])
async def test_a_conversation_whose_history_is_lost_is_listed_with_its_error(host, looked):
    lose(host)
    if looked:
        await stopped(host)
    item = (await items(host))[ONE]
    error = item["runtime_info"]["runtime_error"]
    assert (item["execution_status"], item["runtime_info"]["runtime_status"]) == ("error", "error")
    assert error["code"] == "history-lost"
    assert "Create the conversation again under the same id" in error["message"]
    assert (await host.client.get(PATH)).json() == item
    assert (await host.client.get("/api/conversations", params={"ids": [ONE]})).json() == [item]
    assert (await host.client.get(f"{PATH}/runtime")).json() == item["runtime_info"]


@pytest.mark.parametrize(("method", "tail"), [("GET", "/agent_final_response"), ("POST", "/fork"), ("GET", "/missing")])
async def test_requests_for_a_lost_history_are_answered_with_the_reason(host, method, tail):
    lose(host)
    answer = await host.client.request(method, PATH + tail, json={"id": TWO})
    assert (answer.status_code, answer.json()["reason"]) == (410, "history-lost")
    assert "workspace is kept" in answer.json()["detail"]


async def test_a_lost_conversation_can_be_deleted(host):
    lose(host)
    await stopped(host)
    assert (await host.client.delete(PATH)).status_code == 200
    assert ONE not in host.strategy.loops
    assert await items(host) == {}


async def test_a_lost_conversation_can_be_created_again(host):
    lose(host)
    await stopped(host)
    assert (await host.create(ONE)).status_code == 201
    assert len(host.strategy.loops) == 1
    assert (await items(host))[ONE]["execution_status"] == "idle"


@pytest.mark.parametrize("is_lost", [True, False])
async def test_what_is_left_of_a_history_is_moved_away_only_where_it_is_lost(host, is_lost):
    host.nested.infos[ONE][ONE]["persistence_dir"] = "/store/it's here"
    await items(host)
    if is_lost:
        lose(host)
    await host.create(ONE)
    moves = [command for command in host.nested.commands if "mv -T" in command]
    assert len(moves) == is_lost
    assert all(shlex.quote("/store/it's here") in command for command in moves)


async def test_a_conversation_that_comes_back_is_no_longer_lost(host):
    kept = host.nested.infos[ONE].pop(ONE)
    assert (await items(host))[ONE]["execution_status"] == "error"
    host.nested.infos[ONE][ONE] = kept
    item = (await items(host))[ONE]
    assert (item["execution_status"], item["runtime_info"]["runtime_error"]) == ("idle", None)


async def test_the_error_outlives_the_record_of_why_the_loop_stopped(host, open_host, tmp_path):
    lose(host)
    await stopped(host)
    for record in tmp_path.rglob("records/*.json"):
        record.unlink()
    assert (await host.manager.get_loop(ONE)).status is LoopStatus.STOPPED
    replica = await open_host(beside=host)
    assert (await items(replica))[ONE]["runtime_info"]["runtime_error"]["code"] == "history-lost"


async def test_one_lost_conversation_of_two_leaves_the_other_as_it_is(host):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    lose(host, TWO)
    loop = await stopped(host)
    assert (loop.status, loop.reason) == (LoopStatus.STOPPED, None)
    found = await items(host)
    assert (found[ONE]["execution_status"], found[TWO]["execution_status"]) == ("idle", "error")
    assert "Delete this one" in found[TWO]["runtime_info"]["runtime_error"]["message"]


async def test_a_lost_fork_keeps_the_loop_until_a_client_deletes_it(host):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    lose(host, TWO)
    assert (await host.client.delete(PATH)).status_code == 200
    assert set(await items(host)) == {TWO}
    assert (await host.client.delete(f"/api/conversations/{TWO}")).status_code == 200
    assert not host.strategy.loops


async def test_a_lost_fork_is_deleted_though_its_loop_does_not_start(host):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    lose(host, TWO)
    await stopped(host)
    host.strategy.failure = LoopFailed("No image.", reason=Reason.IMAGE_MISSING)
    assert (await host.client.delete(f"/api/conversations/{TWO}")).status_code == 200
    assert set(await items(host)) == {ONE}


async def test_a_lost_fork_is_not_created_again_elsewhere(host):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    lose(host, TWO)
    answer = await host.create(TWO)
    assert (answer.status_code, answer.json()["reason"]) == (410, "history-lost")
    assert set(host.strategy.loops) == {ONE}


async def test_a_fork_that_only_its_nested_server_knows_keeps_the_loop(host, tmp_path):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    for path in tmp_path.rglob("agent-server/*.json"):
        path.unlink()
    assert (await host.client.delete(PATH)).status_code == 200
    assert set(await items(host)) == {TWO}


@pytest.mark.parametrize(
    "page", [b"[]", b"{}", b'{"items": []', b'{"items": [], "next_page_id": "7"}', b'{"items": [7]}']
)
async def test_an_answer_that_is_no_whole_listing_loses_nothing(host, page):
    host.nested.pages[ONE] = page
    assert (await items(host))[ONE]["execution_status"] == "idle"


async def test_a_conversation_deleted_while_its_loop_is_asked_stays_deleted(host):
    await host.client.post(f"{PATH}/fork", json={"id": TWO})
    host.nested.searched.clear()
    host.nested.may_answer = asyncio.Event()
    listing = asyncio.ensure_future(items(host))
    await host.nested.searched.wait()
    gate, host.nested.may_answer = host.nested.may_answer, None
    assert (await host.client.delete(f"/api/conversations/{TWO}")).status_code == 200
    gate.set()
    assert set(await listing) == {ONE}
    assert set(await items(host)) == {ONE}


# --- creations that fail ----------------------------------------------------------------------------------------------


@pytest.fixture
async def refusing(host):
    """A host of whose nested servers all refuse whatever they are to create."""
    host.nested.refusal = (422, "no agent")
    return host


async def test_a_refusal_leaves_a_loop_that_was_stopped_before(refusing, tmp_path):
    refusing.strategy.loops[ONE] = refusing.strategy.stopped(ONE)
    for path in tmp_path.rglob("agent-server/*.json"):
        path.unlink()
    assert (await refusing.create(ONE)).status_code == 422
    assert ONE in refusing.strategy.loops


async def test_a_refusal_leaves_a_loop_that_another_replica_made(refusing):
    refusing.strategy.notes = {"host": "agent-server", "request": "of another"}
    assert (await refusing.create(TWO)).status_code == 422
    assert refusing.strategy.loops[TWO].status is LoopStatus.RUNNING


async def test_a_refusal_leaves_a_loop_that_has_a_conversation_by_now(refusing):
    refusing.nested.infos[TWO] = {TWO: {"id": TWO}}
    assert (await refusing.create(TWO)).status_code == 422
    assert refusing.strategy.loops[TWO].status is LoopStatus.RUNNING


async def test_a_refusal_with_no_answer_to_what_there_is_only_stops_the_loop(refusing):
    refusing.nested.pages[TWO] = b"{"
    assert (await refusing.create(TWO)).status_code == 422
    assert refusing.strategy.loops[TWO].status is LoopStatus.STOPPED


async def test_what_became_of_a_creation_without_an_answer_is_not_guessed(host):
    host.nested.refusal = (201, "no conversation")
    answer = await host.create(TWO)
    assert answer.status_code == 502
    assert f"Conversation {TWO} may have been created" in answer.json()["detail"]
    assert host.strategy.loops[TWO].status is LoopStatus.RUNNING
