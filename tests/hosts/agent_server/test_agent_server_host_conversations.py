"""Conversations run as loops; clients know only the outer server."""

from __future__ import annotations

import json
import uuid

import pytest

from loopnest import LoopFailed, LoopStatus, QuotaExceeded, Reason

from ..packages.agent_server_imitation import REMEMBERING, WebhookSpec

ONE, TWO = str(uuid.uuid4()), str(uuid.uuid4())


async def test_a_created_conversation_is_a_loop_and_the_answer_is_the_nested_servers(host):
    answer = await host.create(ONE, agent={"kind": "Agent"}, tags={"a": "b"})
    assert (answer.status_code, answer.json()) == (201, host.nested.infos[ONE][ONE])
    assert host.strategy.starts[0].conversation is None
    assert host.nested.bodies[0]["tags"] == {"a": "b"}


async def test_creating_it_again_tells_of_the_one_there_is(host):
    await host.create(ONE)
    assert (await host.create(ONE)).status_code == 200
    assert len(host.strategy.loops) == 1


async def test_a_conversation_without_an_id_gets_one(host):
    answer = await host.client.post("/api/conversations", json={})
    assert set(host.strategy.loops) == {answer.json()["id"]}


@pytest.mark.parametrize(
    ("named", "used"),
    [
        ("/workspace/project/sub", "/workspace/project/sub"),
        ("/workspace", "/workspace"),
        ("/home/alice/code", "/workspace/project"),
        ("/workspace/../etc", "/workspace/project"),
        ("workspace/project", "/workspace/project"),
    ],
)
async def test_a_directory_of_the_clients_or_the_hosts_becomes_one_of_the_loops(host, named, used):
    await host.create(ONE, workspace={"kind": "LocalWorkspace", "working_dir": named})
    assert host.nested.bodies[0]["workspace"] == {"kind": "LocalWorkspace", "working_dir": used}


async def test_a_refused_conversation_leaves_no_loop_and_the_refusal_reaches_the_client(host):
    host.nested.refusal = (422, [{"loc": ["body", "agent"], "msg": "missing"}])
    answer = await host.create(ONE)
    assert (answer.status_code, answer.json()["detail"][0]["msg"]) == (422, "missing")
    assert not host.strategy.loops


async def test_a_failed_start_is_told_with_its_reason_and_last_log_lines(host):
    host.strategy.failure = LoopFailed("It died.", reason=Reason.OOM_KILLED, log_tail=["Killed"])
    answer = await host.create(ONE)
    assert answer.status_code == 502
    assert answer.json() == {"detail": "It died.", "reason": "oom-killed", "log_tail": ["Killed"]}


async def test_a_conversation_whose_start_failed_is_not_made_up_by_a_later_request(host):
    host.strategy.failure = LoopFailed("It died.", reason=Reason.OOM_KILLED)
    await host.create(ONE)
    host.strategy.failure = None
    answer = await host.client.get(f"/api/conversations/{ONE}/events/count")
    assert (answer.status_code, answer.json()["reason"]) == (502, "oom-killed")
    assert not host.strategy.starts


async def test_a_full_quota_says_when_to_try_again(host):
    host.strategy.failure = QuotaExceeded("Enough.")
    answer = await host.create(ONE)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "30")


async def test_an_unknown_conversation_is_not_found(host):
    answer = await host.client.post(f"/api/conversations/{ONE}/run")
    assert (answer.status_code, answer.json()["detail"]) == (404, f"Conversation not found: {ONE}")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"conversation_id": "x"}', b'{"container": {"memory": "1g"}}'])
async def test_a_body_that_can_not_be_served_is_refused_before_anything_starts(host, body):
    assert (await host.client.post("/api/conversations", content=body)).status_code == 422
    assert not host.strategy.starts


async def test_search_and_count_merge_all_nested_servers_and_remember_stopped_ones(host):
    await host.create(ONE)
    await host.create(TWO)
    host.nested.infos[TWO][TWO]["execution_status"] = "running"
    host.strategy.loops[ONE] = host.strategy.stopped(ONE)
    items = (await host.client.get("/api/conversations/search")).json()["items"]
    assert [(item["id"], item["runtime_info"]["runtime_status"]) for item in items] == [
        (TWO, "available"),
        (ONE, "missing"),
    ]
    assert (await host.client.get("/api/conversations/count")).json() == 2
    assert (await host.client.get("/api/conversations/count", params={"status": "running"})).json() == 1
    assert len(host.strategy.starts) == 2


async def test_search_gives_pages_in_the_order_that_is_asked_for(host):
    ids = [str(uuid.uuid4()) for _ in range(5)]
    for one in ids:
        await host.create(one)
    seen, page_id = [], None
    while True:
        params = {"limit": 2, "sort_order": "CREATED_AT", **({"page_id": page_id} if page_id else {})}
        page = (await host.client.get("/api/conversations/search", params=params)).json()
        seen += [item["id"] for item in page["items"]]
        page_id = page["next_page_id"]
        if page_id is None:
            break
    assert seen == ids


@pytest.mark.parametrize("params", [{"limit": "0"}, {"limit": "101"}, {"limit": "x"}, {"sort_order": "SIZE"}])
async def test_search_refuses_what_the_agent_server_refuses(host, params):
    assert (await host.client.get("/api/conversations/search", params=params)).status_code == 422


async def test_batch_get_keeps_the_order_and_gives_null_for_unknown_ones(host):
    await host.create(ONE)
    got = (await host.client.get("/api/conversations", params={"ids": [TWO, ONE]})).json()
    assert got[0] is None
    assert got[1]["id"] == ONE


async def test_a_stopped_conversation_is_told_without_starting_it_and_started_by_any_other_request(host):
    await host.create(ONE)
    await host.client.delete(f"/api/conversations/{ONE}/runtime")
    assert host.strategy.loops[ONE].status is LoopStatus.STOPPED
    assert (await host.client.get(f"/api/conversations/{ONE}")).json()["runtime_info"]["runtime_status"] == "missing"
    assert len(host.strategy.starts) == 1
    assert (await host.client.get(f"/api/conversations/{ONE}/events/count")).status_code == 200
    assert host.strategy.loops[ONE].status is LoopStatus.RUNNING


async def test_an_agent_that_was_running_when_its_loop_stopped_is_told_as_paused(host):
    await host.create(ONE)
    host.nested.infos[ONE][ONE]["execution_status"] = "running"
    await host.client.get("/api/conversations/search")
    host.strategy.loops[ONE] = host.strategy.stopped(ONE)
    assert (await host.client.get(f"/api/conversations/{ONE}")).json()["execution_status"] == "paused"


async def test_the_runtime_is_told_released_and_provisioned_again(host):
    await host.create(ONE)
    path = f"/api/conversations/{ONE}/runtime"
    assert (await host.client.get(path)).json()["runtime_status"] == "available"
    assert (await host.client.delete(path)).status_code == 204
    told = (await host.client.get(path)).json()
    assert told == {"runtime_status": "missing", "can_resume": True, "runtime_error": None}
    assert (await host.client.post(path + "/reprovision")).json()["runtime_status"] == "available"


async def test_nested_keys_are_not_handed_out(host):
    await host.create(ONE)
    answer = await host.client.post(f"/api/conversations/{ONE}/runtime/credentials")
    assert answer.status_code == 501
    assert "nested-" not in answer.text


async def test_a_deleted_conversation_is_gone_with_its_loop(host):
    await host.create(ONE)
    assert (await host.client.delete(f"/api/conversations/{ONE}")).json() == {"success": True}
    assert not host.strategy.loops
    assert (await host.client.get(f"/api/conversations/{ONE}")).status_code == 404
    assert (await host.client.delete(f"/api/conversations/{ONE}")).status_code == 404


async def test_a_fork_lives_in_the_loop_of_its_original_until_both_are_deleted(host):
    await host.create(ONE)
    assert (await host.client.post(f"/api/conversations/{ONE}/fork", json={"id": TWO})).status_code == 201
    assert (await host.client.get(f"/api/conversations/{TWO}")).json()["id"] == TWO
    assert (await host.client.get("/api/conversations/count")).json() == 2
    await host.client.delete(f"/api/conversations/{ONE}")
    assert (await host.client.get(f"/api/conversations/{TWO}")).status_code == 200
    await host.client.delete(f"/api/conversations/{TWO}")
    assert not host.strategy.loops


async def test_a_lost_catalog_is_filled_again_by_the_nested_servers(host, tmp_path):
    await host.create(ONE)
    await host.client.post(f"/api/conversations/{ONE}/fork", json={"id": TWO})
    for path in tmp_path.rglob("agent-server/*.json"):
        path.unlink()
    assert (await host.client.get("/api/conversations/count")).json() == 2
    assert (await host.client.get(f"/api/conversations/{TWO}")).status_code == 200


async def test_webhooks_of_the_host_are_given_to_its_nested_servers(open_host):
    host = await open_host(webhooks=[WebhookSpec(base_url="http://hooks")])
    await host.create(ONE)
    variable = host.strategy.starts[0].environment["OH_WEBHOOKS"].get_secret_value()
    assert json.loads(variable) == [{"base_url": "http://hooks"}]


async def test_stored_settings_give_the_agent_of_a_loop_a_memory(host, agent_server):
    await host.create(ONE, agent={"agent_context": {}})
    agent_server.store(REMEMBERING)
    await host.create(TWO, agent={"agent_context": {}})
    contexts = [body["agent"]["agent_context"] for body in host.nested.bodies]
    assert contexts == [{}, {"current_datetime": None, "load_memory": True}]


async def test_what_is_no_conversations_business_is_the_stock_applications(host):
    assert (await host.client.get("/api/settings")).json() == {"stock": "/api/settings"}
    assert (await host.client.get("/api/conversations/no-uuid")).json()["stock"]


async def test_an_openai_request_runs_its_agent_in_a_loop(host):
    asked = {"conversation_id": ONE}
    assert (await host.client.post("/v1/chat/completions", json=asked)).json() == {"started": ONE}
    assert set(host.strategy.loops) == {ONE}
    assert (await host.client.post("/v1/chat/completions", json=asked)).json() == {"said": f"done in {ONE}"}


async def test_what_stops_a_loop_is_told_to_clients_of_the_openai_api_too(host):
    host.nested.refusal = (422, "no agent")
    answer = await host.client.post("/v1/chat/completions", json={"conversation_id": ONE})
    assert (answer.status_code, answer.json()) == (422, {"detail": "no agent"})


async def test_without_permission_there_are_no_local_conversations(host):
    answer = await host.create(ONE, conversation_runtime="local")
    assert (answer.status_code, "OH_CONVERSATION_RUNTIME_SELECTABLE" in answer.json()["detail"]) == (422, True)


async def test_local_conversations_live_beside_loops_where_the_configuration_allows_it(open_host):
    host = await open_host(conversation_runtime_selectable=True)
    asked = {"conversation_id": ONE, "conversation_runtime": "local"}
    assert (await host.create(ONE, conversation_runtime="local")).json() == {"local": asked}
    assert not host.strategy.loops
    await host.create(TWO)
    assert (await host.client.get("/api/conversations/count")).json() == 2
    assert (await host.client.post(f"/api/conversations/{ONE}/run")).json()["stock"]
