"""A whole conversation through the real app server, in a real nested agent server, with a scripted model."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

import docker
from loopnest_cli.scripted_model import serve

from .. import requirements
from ..ports import free_port
from .app_server_process import ROOT, VERSIONS, AppServer, app_server, environment

#: The image of each version of the app server: its own agent server's version, with a browser.
IMAGES = {"1.11.0": "loopnest/app-sandbox:1.34.0", "1.9.3": "loopnest/app-sandbox:1.33.0"}
PATIENCE = 240.0


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def gateway(engine: docker.APIClient) -> str:
    """What ``host-gateway`` stands for: where sandboxes reach this host."""
    config = engine.inspect_network("bridge")["IPAM"]["Config"][0]
    return str(config.get("Gateway") or ipaddress.ip_network(config["Subnet"])[1])  # engines may leave it out


@pytest.fixture
def server(version: str, engine: docker.APIClient, gateway: str, namespace: str, tmp_path: Path) -> Iterator[AppServer]:
    """The app server, its settings pointing at a scripted model."""
    port = free_port(gateway)
    with ExitStack() as stack:
        model = stack.enter_context(serve(gateway))
        model_port = int(model.url.split(":")[2].split("/")[0])
        (tmp_path / "loopnest.toml").write_text(f"""
            [loopnest]
            namespace = "{namespace}"
            state_dir = "{tmp_path}/state"
            [loopnest.docker]
            image = "{requirements.image(engine, IMAGES[version])}"
            pull_policy = "never"
            start_timeout = {PATIENCE}
            host_access = [{port}, {model_port}]
            extra_hosts = {{"host.docker.internal" = "host-gateway"}}
            extra_ports = [8011, 8012]
            environment = {{"OH_WEBHOOKS_0_FLUSH_DELAY" = "1"}}
        """)
        variables = environment(
            tmp_path,
            PYTHONPATH=f"{ROOT}/hookspecs:{ROOT}/plugin",
            OH_SANDBOX_CONFIG=str(tmp_path / "loopnest.toml"),
            OH_SANDBOX_HOST_PORT=str(port),
        )
        log = tmp_path / "server.log"
        python = requirements.server(f"openhands-{version}")
        running = stack.enter_context(app_server(python, gateway, port, variables, log))
        llm = {"model": "openai/gpt-4o", "base_url": model.url, "api_key": "sk-scripted"}
        running.http.post("/settings", json={"agent_settings_diff": {"llm": llm}}).raise_for_status()
        yield running


def until(question: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (answer := question()):
        assert time.monotonic() < deadline, question
        time.sleep(0.2)
    return answer


def said(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}], "run": True}


def ask(server: AppServer, path: str, **params: Any) -> Any:
    return server.http.get(path, params=params).raise_for_status().json()


def started(server: AppServer, text: str) -> dict[str, Any]:
    task = server.http.post("/app-conversations", json={"initial_message": said(text)}).raise_for_status().json()

    def ended() -> dict[str, Any] | None:
        (now,) = ask(server, "/app-conversations/start-tasks", ids=task["id"])
        return dict(now) if now["status"] in {"READY", "ERROR"} else None

    done = until(ended)
    assert done["status"] == "READY", done["detail"]
    return dict(done)


def sent(server: AppServer, conversation_id: str, text: str) -> bool:
    """Whether the app server could deliver a message; it gives up after 30 seconds, however busy the machine is."""
    answer = server.http.post(f"/app-conversations/{conversation_id}/send-message", json=said(text))
    assert answer.is_success or "Failed to reach agent server" in answer.text, answer.text
    return answer.is_success


def observed(server: AppServer, conversation_id: str, text: str) -> bool:
    """Whether the app server has an event in which the agent's terminal says ``text``."""
    events = ask(server, f"/conversation/{conversation_id}/events/search", limit=100)["items"]
    results = [event for event in events if event["kind"] == "ObservationEvent"]
    return any(text in json.dumps(event["observation"]) for event in results)


@pytest.mark.timeout(900)
def test_a_conversation_runs_pauses_resumes_and_is_deleted(
    server: AppServer, containers: Callable[[], list[Any]]
) -> None:
    served = "(python3 -m http.server -d /workspace/project $WORKER_1 >/dev/null 2>&1 &)"
    task = started(server, f"run: {served}; echo made-$((40 + 2)) | tee /workspace/project/made.txt")
    conversation_id, sandbox_id = task["app_conversation_id"], task["sandbox_id"]
    until(lambda: observed(server, conversation_id, "made-42"))
    urls = {url["name"]: url["url"] for url in server.sandbox(sandbox_id)["exposed_urls"]}
    assert set(urls) == {"AGENT_SERVER", "WORKER_1", "WORKER_2"}
    assert httpx.get(f"{urls['WORKER_1']}/made.txt").text == "made-42\n"

    server.http.post(f"/sandboxes/{sandbox_id}/pause").raise_for_status()
    assert (server.sandbox(sandbox_id) or {})["status"] == "PAUSED"
    assert [container["State"] for container in containers()] == ["exited"]

    server.http.post(f"/sandboxes/{sandbox_id}/resume").raise_for_status()
    until(lambda: (server.sandbox(sandbox_id) or {})["status"] == "RUNNING")
    until(lambda: sent(server, conversation_id, "run: echo still $(cat /workspace/project/made.txt)"))
    until(lambda: observed(server, conversation_id, "still made-42"))

    server.http.delete(f"/app-conversations/{conversation_id}").raise_for_status()
    until(lambda: not containers())


@pytest.mark.parametrize(
    ("host", "image", "version"),
    [
        ("openhands-1.11.0", "loopnest/agent-server:1.58.0", "1.34.0"),
        ("agent-server-1.58.0", "loopnest/app-sandbox:1.34.0", "1.58.0"),
    ],
)
def test_doctor_says_where_the_image_is_of_another_version_than_the_host(
    host: str, image: str, version: str, engine: docker.APIClient, tmp_path: Path
) -> None:
    doctor = Path(requirements.server(host)).with_name("loopnest")
    own = {"LOOPNEST_DOCKER__IMAGE": requirements.image(engine, image), "LOOPNEST_STATE_DIR": str(tmp_path)}
    variables = {**os.environ, **own}
    told = subprocess.run([doctor, "doctor"], env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"but the host beside loopnest was made for {version}" in told.stdout
    assert f"'version = \"{version}\"'" in told.stdout
