"""The agent server as a host: real outer servers, real nested ones in containers, and the SDK's own remote client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from loopnest_cli import scripted_model
from loopnest_docker import naming
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings

from .conftest import missing

KEY = "outer-key"
PYTHON = "LOOPNEST_TEST_AGENT_SERVER_PYTHON"
SDK_CLIENT = Path(__file__).with_name("sdk_remote_conversation.py")
#: Seconds for what needs a container to boot on a busy machine.
PATIENCE = 600.0
GIGABYTE = 1 << 30
pytestmark = pytest.mark.timeout(1800)


@dataclass
class Outer:
    """A running outer server."""

    url: str
    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    log: Path

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    def peak_memory(self) -> int:
        """In bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024


OpenOuter = Callable[..., Awaitable[Outer]]


@pytest.fixture
def python(request) -> str:
    """An interpreter that has the agent server, and loopnest; of an older version where the test asks for it."""
    variable = PYTHON + getattr(request, "param", "")
    if variable not in os.environ:
        missing(f"{variable} is not set", "'.ci/servers' makes such an interpreter; it needs loopnest installed too")
    return os.environ[variable]


@pytest.fixture
async def model(settings) -> AsyncIterator[scripted_model.ScriptedModel]:
    docker_settings = DockerSettings()
    engine = Engine(docker_settings.engine)
    gateway = await Network(engine, docker_settings, settings.namespace).gateway()
    with scripted_model.serve(gateway) as served:
        yield served
    await engine.aclose()


@pytest.fixture
async def open_outer(settings, model, python, tmp_path, agent_server_image) -> AsyncIterator[OpenOuter]:
    """Start outer servers; each further one is the next life of the first."""
    opened: list[Outer] = []

    async def open_one(**variables: str) -> Outer:
        port, log = _free_port(), tmp_path / f"outer-{len(opened)}.log"
        environment = {**os.environ, **_environment(settings, model, tmp_path), **variables}
        with log.open("w") as output:
            process = await asyncio.create_subprocess_exec(
                *(python, "-m", "uvicorn", "loopnest_openhands.agent_server:app", "--factory", "--port", str(port)),
                env=environment, cwd=tmp_path, stdout=output, stderr=output,
            )  # fmt: skip
        url, headers = f"http://127.0.0.1:{port}", {"x-session-api-key": KEY}
        outer = Outer(url, process, httpx.AsyncClient(base_url=url, headers=headers, timeout=PATIENCE), log)
        opened.append(outer)
        await _until(lambda: _is_ready(outer), "the outer server is ready")
        return outer

    yield open_one
    for outer in opened:
        await outer.client.aclose()
        if outer.process.returncode is None:
            outer.process.terminate()
            await outer.process.wait()


def _environment(settings: Any, model: scripted_model.ScriptedModel, directory: Path) -> dict[str, str]:
    return {
        "LOOPNEST_NAMESPACE": settings.namespace,
        "LOOPNEST_STATE_DIR": str(settings.state_dir),
        "LOOPNEST_DOCKER__HOST_ACCESS": f"[{httpx.URL(model.url).port}]",
        "LOOPNEST_DOCKER__CLOSE_TIMEOUT": "10",
        "LOOPNEST_DOCKER__START_TIMEOUT": str(PATIENCE),
        "OH_SESSION_API_KEYS_0": KEY,
        "OH_SECRET_KEY": "secret-of-the-outer-server",
        "OH_CONVERSATIONS_PATH": str(directory / "conversations"),
        "OH_PERSISTENCE_DIR": str(directory / "persistence"),
        "OH_BASH_EVENTS_DIR": str(directory / "bash"),
        "OH_ENABLE_VSCODE": "0",
        "OH_PRELOAD_TOOLS": "0",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENHANDS_SUPPRESS_BANNER": "1",
    }


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


async def _is_ready(outer: Outer) -> bool:
    assert outer.process.returncode is None, outer.log.read_text()[-2000:]
    with contextlib.suppress(httpx.TransportError):
        return (await outer.client.get("/ready")).status_code == 200
    return False


async def _until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    async def ask() -> None:
        while not await true():
            await asyncio.sleep(0.2)

    try:
        await asyncio.wait_for(ask(), PATIENCE)
    except asyncio.TimeoutError:
        pytest.fail(f"It took more than {PATIENCE:g} s until {what}")


def body(model: scripted_model.ScriptedModel, **more: Any) -> dict[str, Any]:
    llm = {"model": "openai/scripted", "api_key": "sk-scripted", "base_url": model.url, "usage_id": "agent"}
    agent = {"kind": "Agent", "llm": llm, "tools": [{"name": "terminal", "params": {}}]}
    return {"agent": agent, "workspace": {"working_dir": "/workspace/project"}, "autotitle": False, **more}


def message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}], "run": True}


async def created(outer: Outer, model: scripted_model.ScriptedModel, **more: Any) -> str:
    answer = await outer.client.post("/api/conversations", json=body(model, **more))
    assert answer.status_code == 201, answer.text
    return f"/api/conversations/{answer.json()['id']}"


async def has_finished(outer: Outer, path: str) -> bool:
    return (await outer.client.get(path)).json()["execution_status"] == "finished"


async def test_a_conversation_from_its_creation_to_its_end(open_outer, model, containers):
    outer = await open_outer()
    path = await created(outer, model, initial_message=message("run: echo hello-$((6*7)) > made.txt"))
    conversation_id = path.rsplit("/", 1)[1]
    await _until(lambda: has_finished(outer, path), "the agent has finished")

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


@pytest.mark.parametrize("python", ["", "_1_54", "_1_49"], indirect=True)
async def test_the_sdks_remote_client_runs_a_conversation_as_it_is(open_outer, model, python):
    outer = await open_outer()
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


async def test_what_is_stored_on_the_host_reaches_the_agent(open_outer, model):
    """Profiles and secrets; the nested server has neither, and could not even ask for them."""
    outer = await open_outer()
    llm = body(model)["agent"]["llm"]
    assert (await outer.client.post("/api/profiles/scripted", json={"llm": llm})).is_success
    profile = {"agent_kind": "openhands", "llm_profile_ref": "scripted", "tools": [{"name": "terminal"}]}
    assert (await outer.client.post("/api/agent-profiles/worker", json=profile)).is_success
    stored = {"name": "STORED", "value": "token-0123456789"}
    assert (await outer.client.put("/api/settings/secrets", json=stored)).is_success
    listed = (await outer.client.get("/api/agent-profiles")).json()
    profile_id = next(entry["id"] for entry in listed["profiles"] if entry["name"] == "worker")

    address = f"{outer.url}/api/settings/secrets/STORED"
    lookup = {"kind": "LookupSecret", "url": address, "headers": {"X-Session-API-Key": KEY}}
    asked = {**body(model), "agent_profile_id": profile_id, "secrets": {"FIRST": lookup}}
    del asked["agent"]
    answer = await outer.client.post("/api/conversations", json=asked)
    assert answer.status_code == 201, answer.text
    path = f"/api/conversations/{answer.json()['id']}"
    assert (await outer.client.post(f"{path}/secrets", json={"secrets": {"SECOND": lookup}})).status_code == 200
    assert (await outer.client.post(f"{path}/switch_profile", json={"profile_name": "scripted"})).status_code == 200
    refused = await outer.client.post(f"{path}/switch_profile", json={"profile_name": "none"})
    assert (refused.status_code, refused.json()["detail"]) == (404, "Profile 'none' not found")

    await outer.client.post(f"{path}/events", json=message("run: echo $FIRST $SECOND | rev"))  # as values are masked
    await _until(lambda: has_finished(outer, path), "the agent has finished")
    assert "9876543210-nekot 9876543210-nekot" in (await outer.client.get(f"{path}/events/search")).text
    assert {seen.api_key for seen in model.requests} == {"sk-scripted"}


async def test_webhooks_of_the_host_hear_of_conversations_in_loops(open_outer, model):
    heard: list[tuple[str, str | None]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            heard.append((self.path, self.headers["x-hook"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

    url = httpx.URL(model.url)
    with ThreadingHTTPServer((url.host, 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://{url.host}:{server.server_port}"
        hooks = [{"base_url": base, "headers": {"x-hook": "mine"}, "flush_delay": 1}]
        ports = f"[{url.port},{server.server_port}]"
        outer = await open_outer(OH_WEBHOOKS=json.dumps(hooks), LOOPNEST_DOCKER__HOST_ACCESS=ports)
        path = await created(outer, model, initial_message=message("run: true"))
        wanted = {("/conversations", "mine"), (f"/events/{uuid.UUID(path.rsplit('/', 1)[1]).hex}", "mine")}

        async def called() -> bool:
            return wanted <= set(heard)

        await _until(called, "the webhooks are called")
        server.shutdown()


async def test_a_killed_host_loses_nothing_and_clients_go_on_where_they_were(open_outer, model, containers):
    outer = await open_outer()
    path = await created(outer, model)
    sequences: list[int] = []
    async with _session(outer, path, after=-1) as frames:
        await outer.client.post(f"{path}/events", json=message("run: sleep 3; touch worked-on"))
        while "ActionEvent" not in (kinds := [await _next_durable(frames, sequences)]):
            assert kinds
        before = containers()[0]["Id"]
        await outer.kill()

    outer = await open_outer()
    await _until(lambda: has_finished(outer, path), "the agent has finished")
    count = (await outer.client.get(f"{path}/events/count")).json()
    async with _session(outer, path, after=sequences[-1]) as frames:
        while len(sequences) < count:
            await _next_durable(frames, sequences)
    assert sequences == list(range(count))
    assert (await outer.client.get(f"{path}/workspace/worked-on")).status_code == 200
    assert [entry["Id"] for entry in containers()] == [before]


async def test_idle_loops_stop_unless_a_client_is_attached_and_come_back(open_outer, model, containers):
    outer = await open_outer(OH_CONVERSATION_IDLE_TTL_SECONDS="3")
    path = await created(outer, model)

    async def is_stopped() -> bool:
        return [entry["State"] for entry in containers()] == ["exited"]

    async with _session(outer, path, after=-1):
        await asyncio.sleep(8)
        assert not await is_stopped()
    await _until(is_stopped, "the idle loop is stopped")
    told = (await outer.client.get(path)).json()
    assert (told["execution_status"], told["runtime_info"]["runtime_status"]) == ("idle", "missing")
    assert (await outer.client.get(f"{path}/events/count")).status_code == 200
    assert not await is_stopped()


async def test_a_gigabyte_takes_constant_memory_in_both_directions(open_outer, model):
    outer = await open_outer()
    path = await created(outer, model)
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


async def test_no_secret_and_no_nested_key_is_seen_on_the_engine_or_by_clients(open_outer, model, engine, containers):
    outer = await open_outer()
    secrets = {"TOKEN": {"kind": "StaticSecret", "value": "token-0123456789"}}
    path = await created(outer, model, secrets=secrets)
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


def _session(outer: Outer, path: str, *, after: int) -> Any:
    url = f"{outer.url.replace('http', 'ws')}/sockets/session/{uuid.UUID(path.rsplit('/', 1)[1])}?after_seq={after}"
    return connect(url, additional_headers={"x-session-api-key": KEY}, max_size=None, proxy=None)


async def _next_durable(frames: Any, sequences: list[int]) -> str:
    """Note the next event's sequence number, and return its kind."""
    while True:
        frame = json.loads(await asyncio.wait_for(frames.recv(), PATIENCE))
        if frame["type"] == "durable":
            sequences.append(frame["seq"])
            return str(frame["event"]["kind"])
