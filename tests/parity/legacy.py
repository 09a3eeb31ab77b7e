"""Every conversation route of the legacy OpenHands server, and every socket event, under three conversation managers.

Usage: legacy.py [standalone] [upstream] [loopnest]   (all three by default)

Needs an engine, the image ``loopnest/openhands-v0:1.6.0`` and ``LOOPNEST_TEST_OPENHANDS_PYTHON``. Prints a table of
what each answers, and fails where ours serves less than the standalone manager does.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import socketio

sys.path.insert(0, str(Path(__file__).parents[1]))

from e2e.legacy_process import ADAPTER, INTERPRETER, LegacyHost, Listener, printed, state
from loopnest_cli import scripted_model

IMAGE = os.environ.get("LOOPNEST_TEST_V0_IMAGE", "loopnest/openhands-v0:1.6.0")
UPSTREAM_IMAGE = "loopnest-test/openhands-runtime:1.6.0"
NAMESPACE = "legacy-parity"
MODEL = "model.loopnest"
#: Seconds for a conversation to come up, and for its agent to finish.
PATIENCE = float(os.environ.get("LOOPNEST_TEST_PATIENCE", "300"))
MANAGERS = "openhands.server.conversation_manager"
STANDALONE = f"{MANAGERS}.standalone_conversation_manager.StandaloneConversationManager"
UPSTREAM = f"{MANAGERS}.docker_nested_conversation_manager.DockerNestedConversationManager"
#: Upstream's runtime starts what its own images have there.
DOCKERFILE = f"""FROM {IMAGE}
USER root
RUN mkdir -p /openhands/code /openhands/micromamba/bin /root/.openhands && printf '#!/bin/sh\\n\
export FILE_STORE_PATH=/root/.openhands WORKSPACE_BASE=/workspace; cd /opt/openhands\\n\
exec /opt/openhands/bin/python -u -m openhands.server\\n' > /openhands/micromamba/bin/micromamba \
 && chmod +x /openhands/micromamba/bin/micromamba
"""
GET = (
    "", "/events?limit=5", "/trajectory", "/config", "/vscode-url", "/web-hosts", "/microagents", "/list-files",
    "/select-file?file=note.txt", "/zip-directory", "/git/changes", "/git/diff?path=note.txt",
    "/remember-prompt?event_id=1", "/security/policy",
)  # fmt: skip
#: Broken in the host itself, whichever manager it has.
REASONS = {
    "/remember-prompt?event_id=1": "which swaps two arguments, and reads a template relative to the working directory",
    "/security/policy": "which adds the route without its dependencies",
    "POST /submit-feedback": "which sends it to a service outside",
}


@dataclass
class Column:
    """What one manager answered, by row."""

    answers: dict[str, str] = field(default_factory=dict)

    def note(self, row: str, answer: object) -> None:
        self.answers[row] = str(answer)


async def column(host: LegacyHost, model_url: str) -> Column:
    """Have a conversation on ``host``, and ask everything."""
    found = Column()
    async with httpx.AsyncClient(base_url=host.url, timeout=120) as http:
        settings = {"llm_model": "openai/gpt-4o", "llm_api_key": "sk-scripted", "llm_base_url": model_url}
        await http.post("/api/settings", json={**settings, "agent": "CodeActAgent", "language": "en"})
        created = await http.post("/api/conversations", json={"initial_user_msg": "run: echo note > note.txt"})
        found.note("POST /api/conversations", created.status_code)
        sid = created.json().get("conversation_id", "none")
        await until_ready(http, sid)
        await sockets(host, sid, found)
        await routes(http, sid, found)
    return found


async def until_ready(http: httpx.AsyncClient, sid: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        info = (await http.get(f"/api/conversations/{sid}")).json() or {}
        if info.get("status") == "RUNNING" and info.get("runtime_status") == "STATUS$READY":
            return
        await asyncio.sleep(1)


async def sockets(host: LegacyHost, sid: str, found: Column) -> None:
    try:
        listener = await Listener.connect(host.url, sid)
    except (socketio.exceptions.ConnectionError, asyncio.TimeoutError) as error:
        for row in ("connect", "replay", "oh_user_action", "oh_action", "live events", "reconnect", "disconnect"):
            found.note(f"socket.io {row}", f"no ({type(error).__name__})")
        return
    found.note("socket.io connect", "yes")
    found.note("socket.io replay", await within(listener.until(state("finished"), PATIENCE)))
    await listener.say("run: echo user-$((1+1))")
    found.note("socket.io oh_user_action", await within(listener.until(printed("user-2"), 90)))
    message = {"action": "message", "args": {"content": "run: echo old-$((1+1))"}}
    await listener.client.emit("oh_action", message)
    found.note("socket.io oh_action", await within(listener.until(printed("old-2"), 90)))
    found.note("socket.io live events", "yes" if listener.ids else "no")
    latest = max(listener.ids, default=-1)
    again = await Listener.connect(host.url, sid, latest - 1)
    await asyncio.sleep(1)
    found.note("socket.io reconnect", "yes" if again.ids and min(again.ids) >= latest else "no")
    await again.client.disconnect()
    await listener.client.disconnect()
    found.note("socket.io disconnect", "yes")


async def within(wanted: Any) -> str:
    try:
        await wanted
    except AssertionError:
        return "no"
    return "yes"


async def routes(http: httpx.AsyncClient, sid: str, found: Column) -> None:
    path = f"/api/conversations/{sid}"
    found.note("GET /api/conversations", (await http.get("/api/conversations")).status_code)
    upload = {"files": ("note.txt", b"a note\n")}
    found.note("POST /upload-files", await status(http, "POST", f"{path}/upload-files", files=upload))
    for route in GET:
        found.note(f"GET {route or '(one)'}", await status(http, "GET", path + route))
    message = {"action": "message", "args": {"content": "hello"}}
    found.note("POST /events", await status(http, "POST", f"{path}/events", json=message))
    found.note("POST /message", await status(http, "POST", f"{path}/message", json={"message": "hello"}))
    feedback = {"email": "a@example.org", "polarity": "positive"}
    found.note("POST /submit-feedback", await status(http, "POST", f"{path}/submit-feedback", json=feedback))
    found.note("PATCH (title)", await status(http, "PATCH", path, json={"title": "a title"}))
    found.note("POST /stop", await status(http, "POST", f"{path}/stop"))
    found.note("POST /start", await status(http, "POST", f"{path}/start", json={"providers_set": []}))
    found.note("DELETE", await status(http, "DELETE", path))


async def status(http: httpx.AsyncClient, method: str, path: str, **options: Any) -> str:
    await asyncio.sleep(0.2)  # within the host's own rate limit
    try:
        return str((await http.request(method, path, **options)).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


def hosts(model: scripted_model.ScriptedModel) -> dict[str, dict[str, str]]:
    """The variables of each host."""
    return {
        "standalone": {"CONVERSATION_MANAGER_CLASS": STANDALONE, "RUNTIME": "local", "SKIP_DEPENDENCY_CHECK": "1"},
        "upstream": {"CONVERSATION_MANAGER_CLASS": UPSTREAM, "SANDBOX_RUNTIME_CONTAINER_IMAGE": UPSTREAM_IMAGE},
        "loopnest": {
            "CONVERSATION_MANAGER_CLASS": ADAPTER,
            "LOOPNEST_NAMESPACE": NAMESPACE,
            "LOOPNEST_DOCKER__IMAGE": IMAGE,
            "LOOPNEST_DOCKER__HOST_ACCESS": json.dumps([httpx.URL(model.url).port]),
            "LOOPNEST_DOCKER__START_TIMEOUT": str(PATIENCE),
        },
    }


def gateway(network: str) -> str:
    template = "{{(index .IPAM.Config 0).Gateway}}"
    return subprocess.check_output(["docker", "network", "inspect", network, "--format", template], text=True).strip()


def table(columns: dict[str, Column]) -> str:
    rows = list(dict.fromkeys(row for one in columns.values() for row in one.answers))
    lines = [f"| request | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {row} | {' | '.join(one.answers.get(row, '') for one in columns.values())} |" for row in rows]
    return "\n".join(lines)


def worse(columns: dict[str, Column]) -> list[str]:
    """The rows that the standalone manager serves, and ours does not."""
    if not {"standalone", "loopnest"} <= columns.keys():
        return []
    served, ours = columns["standalone"].answers, columns["loopnest"].answers
    return [row for row, answer in served.items() if answer[:1] in "2y" and ours.get(row, "")[:1] not in "2y"]


def main(*names: str) -> int:
    subprocess.run(["docker", "build", "-q", "-t", UPSTREAM_IMAGE, "-"], input=DOCKERFILE, text=True, check=True)
    columns: dict[str, Column] = {}
    with scripted_model.serve("0.0.0.0") as model, tempfile.TemporaryDirectory(prefix="legacy-parity-") as directory:
        port = httpx.URL(model.url).port
        for name in names or tuple(hosts(model)):
            home = Path(directory, name)
            home.mkdir()
            address = "127.0.0.1" if name == "standalone" else gateway("bridge")
            host = LegacyHost(os.environ[INTERPRETER], home, **hosts(model)[name])
            host.start()
            try:
                columns[name] = asyncio.run(column(host, f"http://{address}:{port}/v1"))
            finally:
                host.stop()
    print(table(columns))
    print("\n".join(f"{row}: broken in the host, {reason}" for row, reason in REASONS.items()))
    lacking = worse(columns)
    print(f"Served by standalone and not by ours: {', '.join(lacking) or 'nothing'}")
    return 1 if lacking else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
