"""Every request of the agent server's own API, under its local mode, its Docker mode, and loopnest.

Prints a table, and fails where loopnest is worse than the Docker mode. The list is the installed server's OpenAPI
document, what the Docker mode adds to it, and two WebSockets. Runs in an interpreter that has the agent server and
loopnest; needs the ``docker`` command, which the Docker mode runs, and the nested image.

Usage: python -m tests.parity.agent_server [--image loopnest/agent-server:VERSION] [--out TABLE.md]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import ipaddress
import json
import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

import docker
from loopnest_cli import scripted_model

from ..namespaces import gateway, own_namespace, remove_containers
from ..ports import free_port
from ..processes import inherited

KEY: Final = "parity-key"
MODES: Final = ("local", "docker", "loopnest")
#: Seconds for a server, or a container, to boot; for one answer; for an agent's turn.
BOOT, ANSWER, TURN = 600.0, 60.0, 300.0
#: What needs the internet, a browser or a person, and is the same code in all three modes.
SKIPPED: Final = {
    "/api/mcp/": "needs an MCP server",
    "/api/llm/subscription": "needs an account",
    "/api/init": "of deferred servers",
    "/app-backends": "needs an installed extension",
    "/api/skills/sync": "needs the internet",
    "/api/skills/marketplace": "needs the internet",
    "/api/plugins/marketplace": "needs the internet",
    "/api/skills/catalog": "needs the internet",
}
#: Why loopnest answers what it does, where it is no success.
REASONS: Final = {
    "/api/conversations/{runtime_conversation_id}/vscode/url": "the nested image has no VS Code",
    "/api/conversations/{conversation_id}/runtime/credentials": "keys of nested servers stay with the host",
}
#: What the Docker mode adds.
ONLY_DOCKER: Final = {
    ("DELETE", "/api/conversations/{conversation_id}/runtime"),
    ("POST", "/api/conversations/{conversation_id}/runtime/credentials"),
}
#: Run in the conversation's directory first, so that requests about files and commits find some; prints the commit.
FILES: Final = """
git init -q; echo parity | tee parity.txt > index.html
git add . && git -c user.name=p -c user.email=p@example.org commit -q --allow-empty -m parity && git rev-parse HEAD
"""
LLM_PROFILE: Final = "scripted"
#: By mode, what each request was answered.
Results = dict[str, dict[str, str]]


@dataclass
class Mode:
    """A running server, and the conversation that its requests are about, which works in ``directory``."""

    name: str
    client: httpx.AsyncClient
    model_url: str
    directory: str
    conversation_id: str = ""
    event_id: str = ""
    command_id: str = ""
    commit: str = "none"
    results: dict[str, str] = field(default_factory=dict)


def llm(mode: Mode) -> dict[str, Any]:
    return {"model": "openai/scripted", "api_key": "sk-scripted", "base_url": mode.model_url, "usage_id": "agent"}


def message(text: str, *, run: bool = False) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}], "run": run}


def bodies(mode: Mode) -> dict[str, Any]:
    """What each request says, where it must say something to be understood; the end of its path names it."""
    file = f"{mode.directory}/parity.txt"
    return {
        "POST /events": message("hello"),
        "POST /run": {},
        "POST /secrets": {"secrets": {"TOKEN": {"kind": "StaticSecret", "value": "token-of-parity"}}},
        "POST /ask_agent": {"question": "How are you?"},
        "POST /confirmation_policy": {"policy": {"kind": "NeverConfirm"}},
        "POST /security_analyzer": {"security_analyzer": None},
        "POST /switch_llm": {"llm": llm(mode)},
        "POST /switch_profile": {"profile_name": LLM_PROFILE},
        "POST /switch_acp_model": {"model": "x"},
        "POST /fork": {"id": str(uuid.uuid4())},
        "POST /children": {"task": "Say hello."},
        "POST /goal": {"objective": "Say hello.", "max_iterations": 1},
        "GET /conversations/{conversation_id}/events": [mode.event_id],
        "GET /bash_events/": [mode.command_id],
        "POST /navigate": {"event_id": mode.event_id},
        "POST /load_plugin": {"plugin_ref": "none"},
        "POST /events/respond_to_confirmation": {"accept": True},
        "PATCH /api/conversations/{conversation_id}": {"title": "Parity"},
        "POST /bash/execute_bash_command": {"command": f"echo parity > {file}", "timeout": 20},
        "POST /bash/start_bash_command": {"command": "sleep 1", "timeout": 20},
        "POST /chat/completions": {"model": f"openhands_{LLM_PROFILE}", "messages": [message("hi")]},
        "POST /v1/responses": {"model": f"openhands_{LLM_PROFILE}", "input": "hi"},
        "path": file,
    }


def parameters(path: str, mode: Mode) -> dict[str, Any]:
    """The query that a request needs."""
    if "/file/archive" in path or "/file/search_subdirs" in path or "/git/" in path:
        return {"path": mode.directory}
    if path.endswith("/create_directory"):
        return {"path": f"{mode.directory}/made"}
    if "/file/" in path:
        return {"path": bodies(mode)["path"]}
    return {"ids": mode.conversation_id} if path == "/api/conversations" else {}


def filled(path: str, mode: Mode) -> str:
    values = {
        "conversation_id": mode.conversation_id,
        "runtime_conversation_id": mode.conversation_id,
        "event_id": mode.command_id if "bash" in path else mode.event_id,
        "command_id": mode.command_id,
        "file_path": "parity.txt",
        "sha": mode.commit,
        "job_id": "x",
    }
    for name, value in values.items():
        path = path.replace("{" + name + "}", value)
    return "/".join("none" if part.startswith("{") else part for part in path.split("/"))


def body_of(method: str, path: str, mode: Mode) -> Any:
    known = {key: value for key, value in bodies(mode).items() if " " in key}
    named = [key for key in known if key.split()[0] == method and path.endswith(key.split()[1])]
    return known[max(named, key=len)] if named else {}


async def ask(mode: Mode, method: str, path: str) -> str:
    """Send one request, and return its status; ``timeout`` where there is none."""
    options: dict[str, Any] = {"params": parameters(path, mode)}
    if path.endswith("/file/upload"):
        options["files"] = {"file": ("parity.txt", b"parity")}
    elif method in ("POST", "PUT", "PATCH") or isinstance(body_of(method, path, mode), list):
        options["json"] = body_of(method, path, mode)
    try:
        answer = await mode.client.request(method, filled(path, mode), **options)
    except httpx.TimeoutException:
        return "timeout"
    except httpx.HTTPError as error:
        return type(error).__name__
    if not answer.is_success:
        print(f"  {answer.status_code} {answer.text[:300]}", file=sys.stderr, flush=True)
    return str(answer.status_code)


async def ask_socket(mode: Mode, path: str) -> str:
    """Open a socket and return what kind of frame came first."""
    url = str(mode.client.base_url).replace("http", "ws").rstrip("/") + filled(path, mode)
    try:
        async with connect(url, max_size=None, proxy=None) as one:
            await one.send(json.dumps({"type": "auth", "session_api_key": KEY}))
            await asyncio.wait_for(one.recv(), ANSWER)
            return "200"
    except (OSError, WebSocketException, asyncio.TimeoutError) as error:
        return type(error).__name__


async def prepare(mode: Mode) -> None:
    """Make the conversation, let the agent work once, and note what requests refer to."""
    saved = await mode.client.post(f"/api/profiles/{LLM_PROFILE}", json={"llm": llm(mode)})
    assert saved.is_success, saved.text
    body = {
        "agent": {"kind": "Agent", "llm": llm(mode), "tools": [{"name": "terminal", "params": {}}]},
        "workspace": {"kind": "LocalWorkspace", "working_dir": mode.directory},
        "initial_message": message("run: echo hello", run=True),
        "autotitle": False,
    }
    created = await mode.client.post("/api/conversations", json=body, timeout=BOOT)
    mode.results["POST /api/conversations"] = str(created.status_code)
    assert created.is_success, f"{mode.name}: {created.text}"
    mode.conversation_id = created.json()["id"]
    await finished(mode)
    events = await mode.client.get(f"/api/conversations/{mode.conversation_id}/events/search")
    mode.event_id = events.json()["items"][1]["id"]
    path = f"/api/conversations/{mode.conversation_id}/bash/execute_bash_command"
    command = {"command": FILES, "cwd": mode.directory, "timeout": 20}
    made = (await mode.client.post(path, json=command)).raise_for_status().json()
    assert made["exit_code"] == 0, made
    mode.command_id, mode.commit = made["command_id"], made["stdout"].split()[-1]


async def finished(mode: Mode) -> None:
    async def over() -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                told = (await mode.client.get(f"/api/conversations/{mode.conversation_id}")).json()
                if told.get("execution_status") not in (None, "running"):
                    return
            await asyncio.sleep(0.3)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(over(), TURN)


def documented() -> set[tuple[str, str]]:
    """The requests of the local mode's OpenAPI document, and those that only the Docker mode has."""
    os.environ |= {"OPENHANDS_SUPPRESS_BANNER": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    api, config = (importlib.import_module(f"openhands.agent_server.{name}") for name in ("api", "config"))
    paths: dict[str, Any] = api.create_app(config.Config()).openapi()["paths"]
    return {(method.upper(), path) for path, methods in paths.items() for method in methods} | ONLY_DOCKER


def in_order(listed: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """All requests, those that only read first, those that end something last."""
    wanted = [entry for entry in listed if not any(entry[1].startswith(prefix) for prefix in SKIPPED)]

    def rank(entry: tuple[str, str]) -> tuple[int, str]:
        method, path = entry
        ends = method == "DELETE" or path.endswith(("/condense", "/run", "/goal", "/children", "/fork", "/stop"))
        last = entry == ("DELETE", "/api/conversations/{conversation_id}")
        return (3 if last else 2 if ends else 0 if method == "GET" else 1), path

    others = [entry for entry in wanted if entry != ("POST", "/api/conversations")]
    return sorted(others, key=lambda entry: (rank(entry), entry))


async def examine(mode: Mode, requests: Sequence[tuple[str, str]]) -> None:
    await prepare(mode)
    for kind in ("events", "session"):
        mode.results[f"WS /sockets/{kind}/{{conversation_id}}"] = await ask_socket(
            mode, f"/sockets/{kind}/{{conversation_id}}"
        )
    for method, path in requests:
        print(f"{mode.name}: {method} {path}", file=sys.stderr, flush=True)
        mode.results[f"{method} {path}"] = await ask(mode, method, path)
        if method == "POST" and "{conversation_id}" in path:
            await finished(mode)


def is_worse(docker: str, ours: str) -> bool:
    """The Docker mode has success or a plain refusal of what was said, and we have not."""
    if "-" in (docker, ours):
        return False
    good = docker[0] in "23"
    return (good and ours[0] not in "23") or (docker[0] == "4" and ours[0] not in "234")


def table(results: Results) -> tuple[str, list[str]]:
    lines = ["| request | local | docker | loopnest | |", "| --- | --- | --- | --- | --- |"]
    worse = []
    for request in results["docker"]:
        local, docker, ours = (results[mode].get(request, "-") for mode in MODES)
        reason = REASONS.get(request.split()[1], "")
        mark = reason
        if is_worse(docker, ours) and not reason:
            worse.append(request)
            mark = "**worse**"
        elif is_worse(ours, docker):
            mark = "better"
        lines.append(f"| {request} | {local} | {docker} | {ours} | {mark} |")
    return "\n".join(lines), worse


@contextlib.asynccontextmanager
async def server(name: str, module: Sequence[str], variables: dict[str, str], log: Path) -> AsyncIterator[str]:
    port = free_port()
    with log.open("w") as output:
        command = (sys.executable, "-m", *module, "--host", "127.0.0.1", "--port", str(port))
        process = await asyncio.create_subprocess_exec(
            *command, env={**inherited(log.parent), **variables}, stdout=output, stderr=output
        )
    try:
        url = f"http://127.0.0.1:{port}"
        await asyncio.wait_for(_until_ready(url, process, log), BOOT)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _until_ready(url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    async with httpx.AsyncClient() as client:
        while True:
            assert process.returncode is None, log.read_text()[-2000:]
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.3)


def environment(mode: str, directory: Path, image: str, namespace: str, model_port: int) -> dict[str, str]:
    common = {
        "OH_SESSION_API_KEYS_0": KEY,
        "OH_SECRET_KEY": "secret-of-parity",
        "OH_CONVERSATIONS_PATH": str(directory / "conversations"),
        "OH_PERSISTENCE_DIR": str(directory / "persistence"),
        "OH_BASH_EVENTS_DIR": str(directory / "bash"),
        "OH_WORKSPACE_PATH": str(directory / "workspace"),
        "OH_ENABLE_VSCODE": "0",
        "OH_PRELOAD_TOOLS": "0",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENHANDS_SUPPRESS_BANNER": "1",
    }
    docker = {
        "OH_CONVERSATION_RUNTIME": "docker",
        "OH_CONVERSATION_IMAGE": image,
        "OH_CONVERSATION_CONTAINER_STARTUP_TIMEOUT": str(BOOT),
    }
    ours = {
        "LOOPNEST_NAMESPACE": namespace,
        "LOOPNEST_STATE_DIR": str(directory / "state"),
        "LOOPNEST_DOCKER__IMAGE": image,
        "LOOPNEST_DOCKER__START_TIMEOUT": str(BOOT),
        "LOOPNEST_DOCKER__HOST_ACCESS": f"[{model_port}]",
    }
    return {**common, **{"local": {}, "docker": docker, "loopnest": ours}[mode]}


async def run(mode: str, directory: Path, image: str, requests: set[tuple[str, str]]) -> dict[str, str]:
    """Examine one mode; one after the other, as each of them boots a whole server."""
    project = directory / "project"
    project.mkdir(parents=True)
    module = ("uvicorn", "loopnest_openhands.agent_server:app", "--factory")
    with stage(directory) as (engine, namespace):
        address = await gateway(namespace) if mode == "loopnest" else _default_gateway(engine)
        with scripted_model.serve(address) as model:
            variables = environment(mode, directory, image, namespace, httpx.URL(model.url).port or 0)
            chosen = module if mode == "loopnest" else ("openhands.agent_server",)
            async with server(mode, chosen, variables, directory / "log") as url:
                headers = {"x-session-api-key": KEY}
                async with httpx.AsyncClient(base_url=url, headers=headers, timeout=ANSWER) as client:
                    examined = Mode(mode, client, model.url, str(project) if mode == "local" else "/workspace")
                    await examine(examined, in_order(requests))
    return examined.results


@contextlib.contextmanager
def stage(directory: Path) -> Iterator[tuple[docker.APIClient, str]]:
    """The engine, and a namespace of our own; whatever servers in ``directory`` leave there is removed.

    There is always something: a fork keeps the loop of its deleted original.
    """
    with contextlib.closing(docker.APIClient(version="auto")) as engine, own_namespace(engine) as namespace:
        try:
            yield engine, namespace
        finally:
            remove_containers(engine, _mounting(engine, directory.resolve()))


def _mounting(engine: docker.APIClient, directory: Path) -> list[dict[str, Any]]:
    """The Docker mode's containers, which carry labels of its own, but have mounts below ``directory``."""
    listed: list[dict[str, Any]] = engine.containers(all=True)
    return [one for one in listed if any(directory in Path(it.get("Source", "")).parents for it in one["Mounts"])]


def _default_gateway(engine: docker.APIClient) -> str:
    config = engine.inspect_network("bridge")["IPAM"]["Config"][0]
    return str(ipaddress.ip_network(config["Subnet"])[1])


async def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default="loopnest/agent-server:1.58.0")
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    parser.add_argument("--results", type=Path, help="keep results in this file, to examine modes one at a time")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    chosen = parser.parse_args()
    kept = chosen.results and chosen.results.exists()
    results: Results = json.loads(chosen.results.read_text()) if kept else {}
    requests = documented()
    for mode in chosen.modes:
        with tempfile.TemporaryDirectory(prefix="parity-", ignore_cleanup_errors=True) as directory:
            results[mode] = await run(mode, Path(directory) / mode, chosen.image, requests)
        if chosen.results:
            chosen.results.write_text(json.dumps(results, indent=1))
    return report(results, chosen.out) if set(results) == set(MODES) else 0


def report(results: Results, out: Path | None) -> int:
    text, worse = table(results)
    print(text)
    if out:
        out.write_text(text + "\n")
    if worse:
        print("\nWorse than the Docker mode:", *worse, sep="\n  ", file=sys.stderr)
    return bool(worse)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
