"""The command line, as a person uses it: the real engine, the real agent server, and a model that follows a script."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import docker
from loopnest_cli.scripted_model import serve
from loopnest_docker import naming

from ..namespaces import gateway
from ..processes import inherited

PROGRAM = [sys.executable, "-c", "from loopnest_cli.app import main; main()"]
COMMAND = 'run: echo "six times seven is $((6 * 7))"'


class Shell:
    """Runs ``loopnest`` commands as processes with one environment."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        self._options: dict[str, Any] = {"env": environment, "cwd": directory, "text": True}

    def begin(self, *args: str) -> subprocess.Popen[str]:
        return subprocess.Popen([*PROGRAM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **self._options)

    def run(self, *args: str, code: int = 0) -> str:
        process = self.begin(*args)
        output, errors = process.communicate(timeout=280)
        assert process.returncode == code, errors
        return output

    def json(self, *args: str) -> Any:
        return json.loads(self.run(*args, "--json"))


@pytest.fixture
def environment(namespace: str, tmp_path: Path) -> dict[str, str]:
    return {**inherited(tmp_path), "LOOPNEST_NAMESPACE": namespace, "LOOPNEST_STATE_DIR": str(tmp_path / "state")}


@pytest.fixture
async def shell(
    environment: dict[str, str], namespace: str, agent_server_image: str, tmp_path: Path
) -> AsyncIterator[Shell]:
    """With a model that loops reach through their network's gateway."""
    with serve(await gateway(namespace)) as model:
        environment["LLM_MODEL"], environment["LLM_API_KEY"] = "openai/scripted", "sk-scripted"
        environment["LLM_BASE_URL"] = model.url
        environment["LOOPNEST_DOCKER__HOST_ACCESS"] = f"[{httpx.URL(model.url).port}]"
        yield Shell(environment, tmp_path)


def followed(process: subprocess.Popen[str], is_last: Callable[[dict[str, Any]], bool]) -> Iterator[dict[str, Any]]:
    """The events that ``loopnest events --follow --json`` prints, up to the last one wanted; then it is interrupted."""
    assert process.stdout
    for line in process.stdout:
        event = json.loads(line)
        yield event
        if is_last(event):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def is_finished(event: dict[str, Any]) -> bool:
    return event.get("key") == "execution_status" and event.get("value") == "finished"


def test_a_conversation_from_its_start_to_its_removal(shell: Shell, containers):
    started = shell.json("start", "c1", "--user", "alice")
    assert (started["status"], started["strategy"], started["dialect"]) == ("running", "docker", "agent-server")
    following = shell.begin("events", "c1", "--follow", "--json")
    shell.run("send", "c1", COMMAND)
    events = list(followed(following, is_finished))
    observed = [event["observation"] for event in events if event["kind"] == "ObservationEvent"]
    assert "six times seven is 42" in observed[0]["content"][0]["text"]
    assert "output    six times seven is 42" in shell.run("events", "c1")

    (listed,) = shell.json("list", "--probe", "--show-keys")["loops"]
    assert listed["agent_status"] == "finished"
    headers = {"X-Session-API-Key": listed["session_key"]}
    path = f"{listed['url']}/api/conversations/{listed['nested_id']}"
    assert httpx.get(path, headers=headers, trust_env=False).json()["execution_status"] == "finished"
    assert httpx.get(path, trust_env=False).status_code == 401
    assert shell.run("logs", "c1", "--tail", "5").strip()

    closed = shell.json("close", "c1")
    assert (closed["graceful"], closed["removed"]) == (True, False)
    assert shell.json("close", "c1")["already"]
    assert shell.json("list")["loops"][0]["status"] == "stopped"
    shell.run("events", "c1", code=1)
    shell.json("start", "c1", "--user", "alice")
    assert "six times seven is 42" in shell.run("events", "c1")
    assert shell.json("close", "c1", "--remove")["removed"]
    assert shell.json("list") == {"loops": []}
    assert containers() == []


def test_a_start_that_is_interrupted_leaves_no_container(shell: Shell, containers):
    process = shell.begin("start", "c1")
    assert process.stderr
    for line in process.stderr:
        if line == "c1: booting\n":
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert containers() == []
    (explained,) = shell.json("list")["loops"]
    assert (explained["status"], explained["reason"]) == ("failed", "interrupted")


def test_the_image_is_listed(shell: Shell, agent_server_image: str):
    images = shell.json("image", "list")["images"]
    assert [image["image"] for image in images if image["configured"]] == [agent_server_image]


@pytest.fixture
def demo_leaves_nothing(engine: docker.APIClient, tmp_path: Path) -> Iterator[None]:
    yield
    filters = {"label": f"{naming.NAMESPACE}=demo"}
    assert engine.containers(all=True, filters=filters) == []
    assert engine.networks(filters=filters) == []
    assert not (tmp_path / "state").exists()


@pytest.mark.usefixtures("agent_server_image", "demo_leaves_nothing")
def test_the_demo_has_a_real_agent_run_a_real_command_in_a_container(environment: dict[str, str], tmp_path: Path):
    output = Shell(environment, tmp_path).run("demo")
    assert "strategy docker: engine " in output
    assert "scripted" in output
    assert "output    Hello from agent@" in output
    assert ":/workspace/project" in output
    assert "closed   stopped, removed" in output


@pytest.mark.usefixtures("agent_server_image", "demo_leaves_nothing")
@pytest.mark.parametrize("word", ["booting", "ready"])
def test_a_demo_that_is_interrupted_leaves_nothing(environment: dict[str, str], tmp_path: Path, word: str):
    process = Shell(environment, tmp_path).begin("demo")
    assert process.stderr
    for line in process.stderr:
        if line.endswith(f": {word}\n"):
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.usefixtures("agent_server_image", "demo_leaves_nothing")
def test_what_a_killed_demo_left_behind_goes_with_the_next_one(environment: dict[str, str], tmp_path: Path):
    process = Shell(environment, tmp_path).begin("demo")
    assert process.stderr
    for line in process.stderr:
        if line.endswith(": booting\n"):
            break
    time.sleep(0.5)  # the container is being started now
    process.kill()
    process.communicate()
    Shell(environment, tmp_path).run("demo")
