"""The agent server as a host: real outer servers, real nested ones in containers, and the SDK's own remote client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from loopnest_cli import scripted_model
from loopnest_docker import naming

from .. import requirements
from ..namespaces import gateway, own_namespace
from ..scripts import insistent
from .agent_server_stage import (
    KEY,
    NEWEST,
    PATIENCE,
    Outer,
    body,
    created,
    environment_of,
    message,
    open_outer,
    session,
    until,
)

SDK_CLIENT = Path(__file__).with_name("sdk_remote_conversation.py")
GIGABYTE = 1 << 30
pytestmark = [pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="module")]


class Hook(BaseHTTPRequestHandler):
    """A webhook; ``heard`` of its server has the path of each call, and the header of our configuration."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.heard.append((self.path, self.headers["x-hook"]))  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()


@dataclass
class Surroundings:
    """What loops reach of this host."""

    model: scripted_model.ScriptedModel
    hook: str
    heard: list[tuple[str, str | None]]

    @property
    def ports(self) -> list[int | None]:
        return [httpx.URL(url).port for url in (self.model.url, self.hook)]


@pytest.fixture(scope="module")
def namespace(engine) -> Iterator[str]:
    with own_namespace(engine) as name:
        yield name


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def surroundings(namespace) -> AsyncIterator[Surroundings]:
    address = await gateway(namespace)
    with scripted_model.serve(address, script=insistent) as model, ThreadingHTTPServer((address, 0), Hook) as server:
        server.heard = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Surroundings(model, f"http://{address}:{server.server_port}", server.heard)  # type: ignore[attr-defined]
        server.shutdown()


@pytest.fixture(scope="module")
def model(surroundings) -> scripted_model.ScriptedModel:
    return surroundings.model


@pytest.fixture(scope="module")
def environment(namespace, surroundings, agent_server_image, tmp_path_factory) -> dict[str, str]:
    return _environment(namespace, surroundings, tmp_path_factory.mktemp("outer"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_outer(environment, tmp_path_factory) -> AsyncIterator[Outer]:
    async with open_outer(NEWEST, environment, tmp_path_factory.mktemp("log")) as outer:
        yield outer


@pytest_asyncio.fixture(loop_scope="module")
async def outer(shared_outer) -> AsyncIterator[Outer]:
    """The outer server that all tests share; what they made in it is deleted afterwards."""
    yield shared_outer
    for item in (await shared_outer.client.get("/api/conversations/search")).json()["items"]:
        deleted = await shared_outer.client.delete(f"/api/conversations/{item['id']}")
        assert deleted.status_code == 200, deleted.text


def _environment(namespace: str, surroundings: Surroundings, directory: Path) -> dict[str, str]:
    hooks = [{"base_url": surroundings.hook, "headers": {"x-hook": "mine"}, "flush_delay": 1}]
    return {
        **environment_of(namespace, directory),
        "LOOPNEST_DOCKER__HOST_ACCESS": str(surroundings.ports),
        "OH_WEBHOOKS": json.dumps(hooks),
    }


async def has_finished(outer: Outer, path: str) -> bool:
    return (await outer.client.get(path)).json()["execution_status"] == "finished"


async def test_a_conversation_from_its_creation_to_its_end(outer, model, containers):
    path = await created(outer, model.url, initial_message=message("run: echo hello-$((6*7)) > made.txt"))
    conversation_id = path.rsplit("/", 1)[1]
    await until(lambda: has_finished(outer, path), "the agent has finished")

    events = (await outer.client.get(f"{path}/events/search")).json()["items"]
    assert {"ActionEvent", "ObservationEvent", "MessageEvent"} <= {event["kind"] for event in events}
    assert (await outer.client.get(f"{path}/events/count")).json() == len(events)
    assert (await outer.client.get(f"{path}/workspace/made.txt")).text == "hello-42\n"
    command = {"command": "id -u; cat made.txt", "timeout": 20}
    told = (await outer.client.post(f"{path}/bash/execute_bash_command", json=command)).json()
    assert told["stdout"].split()[1] == "hello-42"
    assert told["stdout"].split()[0] != "0"
    file = {"file": ("x", b"uploaded")}
    place = {"path": "/workspace/project/up.txt"}
    assert (await outer.client.post(f"{path}/file/upload", params=place, files=file)).status_code == 200
    assert (await outer.client.get(f"{path}/file/download", params=place)).content == b"uploaded"
    found = (await outer.client.get("/api/conversations/search")).json()["items"]
    assert [item["id"] for item in found] == [conversation_id]

    assert (await outer.client.post(f"{path}/pause")).status_code == 200
    assert (await outer.client.post(f"{path}/interrupt")).status_code == 200
    assert (await outer.client.delete(f"{path}/runtime")).status_code == 204
    assert containers()[0]["State"] == "exited"
    assert (await outer.client.get(path)).json()["runtime_info"]["runtime_status"] == "missing"
    assert (await outer.client.get(f"{path}/workspace/made.txt")).text == "hello-42\n"
    assert (await outer.client.delete(path)).status_code == 200
    assert containers() == []
    assert (await outer.client.get(path)).status_code == 404


async def test_a_directory_of_the_client_means_nothing_in_a_loop(outer, model):
    path = await created(outer, model.url, workspace={"working_dir": "/home/client/project"})
    assert (await outer.client.get(path)).json()["workspace"]["working_dir"] == "/workspace/project"


async def test_the_sdks_remote_client_runs_a_conversation_as_it_is(outer, model):
    await _run_sdk_client(NEWEST, outer, model)


@pytest.mark.parametrize("version", ["1.54.0", "1.49.0"])
async def test_so_it_does_with_older_versions_and_those_say_that_the_image_is_newer(
    namespace, surroundings, agent_server_image, model, version, tmp_path
):
    async with open_outer(version, _environment(namespace, surroundings, tmp_path), tmp_path) as outer:
        await _run_sdk_client(version, outer, model)
        assert f"the host beside loopnest was made for {version}" in outer.log.read_text()


async def _run_sdk_client(version: str, outer: Outer, model: scripted_model.ScriptedModel) -> None:
    python = requirements.server(f"agent-server-{version}")
    environment = {**os.environ, "SESSION_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    client = await asyncio.create_subprocess_exec(
        *(python, str(SDK_CLIENT), outer.url, model.url, "run: echo hello-$((6*7)) $TOKEN"),
        env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await client.communicate()
    assert client.returncode == 0, errors.decode()[-2000:]
    told = json.loads(output.decode().splitlines()[-1])
    assert told["status"] == "finished"
    assert "hello-42 <secret-hidden>" in told["observed"]
    assert {"ActionEvent", "ObservationEvent"} <= set(told["callbacks"])


async def created_from_profile(outer: Outer, model: scripted_model.ScriptedModel, refs: list[str], **more: Any) -> str:
    """Store a model and an agent on the host, and have it in a conversation; ``refs`` are the secrets it may have."""
    asked = body(model.url, **more)
    assert (await outer.client.post("/api/profiles/scripted", json={"llm": asked.pop("agent")["llm"]})).is_success
    profile = {"agent_kind": "openhands", "llm_profile_ref": "scripted", "tools": [{"name": "terminal"}]}
    stored = await outer.client.post("/api/agent-profiles/worker", json={**profile, "secret_refs": refs})
    assert stored.is_success, stored.text
    listed = (await outer.client.get("/api/agent-profiles")).json()
    profile_id = next(entry["id"] for entry in listed["profiles"] if entry["name"] == "worker")
    answer = await outer.client.post("/api/conversations", json={**asked, "agent_profile_id": profile_id})
    assert answer.status_code == 201, answer.text
    assert answer.json()["launched_agent_profile"]["agent_profile_id"] == profile_id
    return f"/api/conversations/{answer.json()['id']}"


async def test_profiles_that_are_stored_on_the_host_reach_the_agent(outer, model):
    """The nested server has none."""
    path = await created_from_profile(outer, model, [], initial_message=message("run: true"))
    await until(lambda: has_finished(outer, path), "the agent has finished")
    assert {seen.api_key for seen in model.requests} == {"sk-scripted"}
    assert (await outer.client.post(f"{path}/switch_profile", json={"profile_name": "scripted"})).status_code == 200
    refused = await outer.client.post(f"{path}/switch_profile", json={"profile_name": "none"})
    assert (refused.status_code, refused.json()["detail"]) == (404, "Profile 'none' not found")


async def test_secrets_that_are_stored_on_the_host_reach_the_agent_if_its_profile_allows_it(outer, model):
    """The nested server has none, and could not even ask for them."""
    stored = {"name": "STORED", "value": "token-0123456789"}
    assert (await outer.client.put("/api/settings/secrets", json=stored)).is_success
    address = f"{outer.url}/api/settings/secrets/STORED"
    lookup = {"kind": "LookupSecret", "url": address, "headers": {"X-Session-API-Key": KEY}}
    path = await created_from_profile(outer, model, ["FIRST", "SECOND"], secrets={"FIRST": lookup})
    more = {"SECOND": lookup, "THIRD": lookup}
    assert (await outer.client.post(f"{path}/secrets", json={"secrets": more})).status_code == 200
    backwards = message("run: echo $FIRST $SECOND $THIRD. | rev")  # as values are masked
    await outer.client.post(f"{path}/events", json=backwards)
    await until(lambda: has_finished(outer, path), "the agent has finished")
    assert ". 9876543210-nekot 9876543210-nekot" in (await outer.client.get(f"{path}/events/search")).text


async def test_webhooks_of_the_host_hear_of_conversations_in_loops(outer, model, surroundings):
    path = await created(outer, model.url, initial_message=message("run: true"))
    wanted = {("/conversations", "mine"), (f"/events/{uuid.UUID(path.rsplit('/', 1)[1]).hex}", "mine")}

    async def called() -> bool:
        return wanted <= set(surroundings.heard)

    await until(called, "the webhooks are called")


async def test_the_agents_of_openais_api_work_in_loops(outer, model, containers):
    llm = body(model.url)["agent"]["llm"]
    assert (await outer.client.post("/api/profiles/gateway", json={"llm": llm})).is_success
    bearer = httpx.AsyncClient(base_url=outer.url, headers={"authorization": f"Bearer {KEY}"}, timeout=PATIENCE)
    async with bearer as openai:
        chat = {"model": "openhands_gateway", "messages": [{"role": "user", "content": "run: hostname"}]}
        answer = await openai.post("/v1/chat/completions", json=chat)
        assert answer.status_code == 200, answer.text
        assert "I ran: hostname" in answer.json()["choices"][0]["message"]["content"]
        conversation_id = answer.headers["x-openhands-serverconversation-id"]
        assert len(containers()) == 1
        chat["messages"][0]["content"] = "run: echo again"
        again = {"x-openhands-serverconversation-id": conversation_id}
        answer = await openai.post("/v1/chat/completions", json=chat, headers=again)
        assert "I ran: echo again" in answer.json()["choices"][0]["message"]["content"]
        assert answer.json()["usage"]["total_tokens"] > 0
        assert len(containers()) == 1
        answer = await openai.post("/v1/responses", json={"model": "openhands_gateway", "input": "run: hostname"})
        assert "I ran: hostname" in answer.json()["output"][0]["content"][0]["text"]
        assert len(containers()) == 2
        assert (await openai.post("/v1/responses", json={"model": "openhands_none", "input": "x"})).status_code == 404


async def test_a_killed_host_loses_nothing_and_clients_go_on_where_they_were(outer, model, containers):
    path = await created(outer, model.url)
    sequences: list[int] = []
    async with session(outer, path, after=-1) as frames:
        await outer.client.post(f"{path}/events", json=message("run: sleep 3; touch worked-on"))
        while "ActionEvent" not in (kinds := [await _next_durable(frames, sequences)]):
            assert kinds
        before = containers()[0]["Id"]
        await outer.end(signal.SIGKILL)

    await outer.start()
    await until(lambda: has_finished(outer, path), "the agent has finished")
    count = (await outer.client.get(f"{path}/events/count")).json()
    async with session(outer, path, after=sequences[-1]) as frames:
        while len(sequences) < count:
            await _next_durable(frames, sequences)
    assert sequences == list(range(count))
    assert (await outer.client.get(f"{path}/workspace/worked-on")).status_code == 200
    assert [entry["Id"] for entry in containers()] == [before]


async def test_a_gigabyte_takes_constant_memory_in_both_directions(outer, model):
    path = await created(outer, model.url)
    command = {"command": "truncate -s 1G big", "timeout": 20}
    await outer.client.post(f"{path}/bash/execute_bash_command", json=command)
    await outer.client.get(f"{path}/workspace/missing")
    before, received = outer.peak_memory(), 0
    async with outer.client.stream("GET", f"{path}/workspace/big") as answer:
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    assert received == GIGABYTE
    place = {"path": "/workspace/project/sent"}
    answer = await outer.client.post(f"{path}/file/upload", params=place, **_multipart(GIGABYTE))
    assert answer.status_code == 200, answer.text
    size = {"command": "stat -c %s sent", "timeout": 20}
    told = (await outer.client.post(f"{path}/bash/execute_bash_command", json=size)).json()
    assert int(told["stdout"]) == GIGABYTE
    assert outer.peak_memory() - before < 32 << 20


async def test_no_secret_and_no_nested_key_is_seen_on_the_engine_or_by_clients(outer, model, engine, containers):
    secrets = {"TOKEN": {"kind": "StaticSecret", "value": "token-0123456789"}}
    path = await created(outer, model.url, secrets=secrets)
    inspected = json.dumps(engine.inspect_container(containers()[0]["Id"]))
    assert "sk-scripted" not in inspected
    assert "token-0123456789" not in inspected
    assert KEY not in inspected
    refused = await outer.client.post(f"{path}/runtime/credentials")
    assert refused.status_code == 501
    text = outer.log.read_text()
    assert "sk-scripted" not in text
    assert "token-0123456789" not in text
    assert containers()[0]["Labels"][naming.NAMESPACE]


async def test_local_conversations_run_in_the_server_itself_where_that_is_allowed(outer, model, containers, tmp_path):
    await outer.end()
    await outer.start(OH_CONVERSATION_RUNTIME_SELECTABLE="true")
    beside = await created(outer, model.url)
    asked = {"conversation_runtime": "local", "workspace": {"working_dir": str(tmp_path)}}
    local = await created(outer, model.url, **asked, initial_message=message("run: echo here > made.txt"))
    await until(lambda: has_finished(outer, local), "the agent has finished")
    assert (tmp_path / "made.txt").read_text() == "here\n"
    assert len(containers()) == 1
    found = (await outer.client.get("/api/conversations/search")).json()["items"]
    assert {f"/api/conversations/{item['id']}" for item in found} == {beside, local}


async def test_idle_loops_stop_unless_a_client_is_attached_and_come_back(outer, model, containers):
    await outer.end()
    await outer.start(OH_CONVERSATION_IDLE_TTL_SECONDS="3")
    path = await created(outer, model.url)

    async def is_stopped() -> bool:
        return [entry["State"] for entry in containers()] == ["exited"]

    async with session(outer, path, after=-1):
        await asyncio.sleep(8)
        assert not await is_stopped()
    await until(is_stopped, "the idle loop is stopped")
    told = (await outer.client.get(path)).json()
    assert (told["execution_status"], told["runtime_info"]["runtime_status"]) == ("idle", "missing")
    assert (await outer.client.get(f"{path}/events/count")).status_code == 200
    assert not await is_stopped()


def _multipart(size: int) -> dict[str, Any]:
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    tail = b"\r\n--b--\r\n"

    async def content() -> AsyncIterator[bytes]:
        yield head
        for _ in range(size >> 20):
            yield bytes(1 << 20)
        yield tail

    headers = {"content-type": "multipart/form-data; boundary=b", "content-length": str(len(head) + size + len(tail))}
    return {"content": content(), "headers": headers}


async def _next_durable(frames: Any, sequences: list[int]) -> str:
    """Note the next event's sequence number, and return its kind."""
    while True:
        frame = json.loads(await asyncio.wait_for(frames.recv(), PATIENCE))
        if frame["type"] == "durable":
            sequences.append(frame["seq"])
            return str(frame["event"]["kind"])
