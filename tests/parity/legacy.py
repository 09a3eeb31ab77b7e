"""Every route of the legacy OpenHands server, and every socket event, under three conversation managers.

Usage: python -m tests.parity.legacy [standalone] [upstream] [loopnest]   (all three by default)

Needs an engine, the image ``loopnest/openhands-v0:1.6.0`` and ``LOOPNEST_TEST_OPENHANDS_PYTHON``. Prints a table of
what each answers, and fails where ours serves less than the standalone manager does, or a route was left out. The
standalone manager has the host's own Docker runtime, so that all three have the agent work in a container.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import socketio

from ..hosts.legacy_process import LegacyHost, Listener, printed, state
from ..hosts.legacy_stage import IMAGE, Stage, stage

UPSTREAM_IMAGE = "loopnest-test/openhands-runtime:1.6.0"
#: Seconds for a conversation to come up, and for its agent to finish.
PATIENCE = float(os.environ.get("LOOPNEST_TEST_PATIENCE", "300"))
MANAGERS = "openhands.server.conversation_manager"
#: The host's own, with the image of their containers.
OWN = {
    "standalone": "standalone_conversation_manager.StandaloneConversationManager",
    "upstream": "docker_nested_conversation_manager.DockerNestedConversationManager",
}
#: The variables of each host.
HOSTS: dict[str, dict[str, str]] = {
    name: {"CONVERSATION_MANAGER_CLASS": f"{MANAGERS}.{own}", "SANDBOX_RUNTIME_CONTAINER_IMAGE": UPSTREAM_IMAGE}
    for name, own in OWN.items()
} | {"loopnest": {}}
#: Upstream's runtimes start what its own images have there: `micromamba run -n openhands poetry run python ...`.
DOCKERFILE = f"""FROM {IMAGE}
USER root
RUN mkdir -p /openhands/code /openhands/micromamba/bin /openhands/.openvscode-server/bin /root/.openhands \
 && printf '#!/bin/sh\\nshift 3; [ "$1" != poetry ] || shift 2\\n\
export FILE_STORE_PATH=/root/.openhands WORKSPACE_BASE=/workspace USER=root PATH=/opt/openhands/bin:$PATH\\n\
cd /opt/openhands; exec "$@"\\n' > /openhands/micromamba/bin/micromamba \
 && printf '#!/bin/sh\\necho listening at nothing\\n' > /openhands/.openvscode-server/bin/openvscode-server \
 && chmod +x /openhands/micromamba/bin/* /openhands/.openvscode-server/bin/*
"""
#: Has the agent write it, as the standalone manager mangles binary files that are uploaded.
EVERY_BYTE = r"for byte in $(seq 0 255); do printf \\$(printf %o $byte); done"
#: Of one conversation.
READ = (
    "", "/events?limit=5", "/trajectory", "/config", "/vscode-url", "/web-hosts", "/microagents", "/list-files",
    "/select-file?file=note.txt", "/zip-directory", "/git/changes", "/git/diff?path=note.txt",
    "/remember-prompt?event_id=1",
)  # fmt: skip
#: Of the host, which asks no conversation manager for them; they come last, as some change its settings.
GENERAL = (
    ("GET", "/alive", None), ("GET", "/health", None), ("GET", "/ready", None), ("GET", "/server_info", None),
    ("GET", "/api/options/models", None), ("GET", "/api/options/agents", None),
    ("GET", "/api/options/security-analyzers", None), ("GET", "/api/options/config", None),
    ("GET", "/api/settings", None), ("GET", "/api/secrets", None),
    ("POST", "/api/secrets", {"name": "A", "value": "b"}), ("PUT", "/api/secrets/A", {"name": "A", "description": "c"}),
    ("DELETE", "/api/secrets/A", None), ("POST", "/api/add-git-providers", {"provider_tokens": {}}),
    ("POST", "/api/unset-provider-tokens", {}),
    ("GET", "/api/microagent-management/conversations?selected_repository=team/tool", None),
)  # fmt: skip
#: Of the host and git providers, below ``/api/user``; no conversation manager takes part.
PROVIDERS = (
    "/info", "/installations?provider=github", "/repositories", "/suggested-tasks", "/search/repositories?query=tool",
    "/search/branches?repository=team/tool&query=main", "/repository/branches?repository=team/tool",
    "/repository/team/tool/microagents", "/repository/team/tool/microagents/content?file_path=a.md",
)  # fmt: skip
_NO_TOKEN = "the host asks a git provider with the user's own token, and the table's user has none"
#: Rows that ours does not serve: the host itself can't or won't, whichever manager it has. What it answers, and why.
REASONS = {
    "ANY /security/{path}": ("404", "the host adds the route without its dependencies, so that every call fails"),
    "POST /submit-feedback": ("500", "the host sends it to a service outside, which this machine does not reach"),
    "GET /select-file of a binary file": ("415", "the host shows text only, and says so"),
    **{f"GET /api/user{route.partition('?')[0]}": ("401", _NO_TOKEN) for route in PROVIDERS},
}
SOCKET = ("connect", "replay", "oh_user_action", "oh_action", "reconnect", "disconnect")


@dataclass
class Column:
    """What one manager answered, by row."""

    answers: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def note(self, row: str, answer: object) -> None:
        self.answers[row] = str(answer)


@dataclass
class Asking:
    """A conversation on one host, of which everything is asked."""

    http: httpx.AsyncClient
    host: LegacyHost
    found: Column
    sid: str = "none"

    async def run(self, settings: dict[str, str]) -> None:
        await self.ask("POST", "/api/settings", json=settings)
        first = {"initial_user_msg": f"run: git init -q; echo note > note.txt; {EVERY_BYTE} > every.bin; sleep 0.5"}
        await self.ask("POST", "/api/conversations", json=first)
        listed = (await self.http.get("/api/conversations")).json()["results"]
        self.sid = listed[0]["conversation_id"] if listed else "none"
        await self.until_ready()
        await self.sockets()
        await self.conversation()
        for method, path, body in GENERAL:
            await self.ask(method, path, **({} if body is None else {"json": body}))
        for route in PROVIDERS:
            await self.ask("GET", f"/api/user{route}")
        await self.complete()

    async def ask(self, method: str, path: str, *, row: str | None = None, **options: Any) -> httpx.Response | None:
        await asyncio.sleep(0.2)  # within the host's own rate limit
        row = row or f"{method} {path.partition('?')[0]}"
        try:
            response = await self.http.request(method, path, **options)
        except httpx.HTTPError as error:
            self.found.note(row, type(error).__name__)
            return None
        self.found.note(row, response.status_code)
        return response

    async def of_it(self, method: str, route: str, **options: Any) -> httpx.Response | None:
        row = f"{method} {route.partition('?')[0] or '(the conversation)'}"
        return await self.ask(method, f"/api/conversations/{self.sid}{route}", row=row, **options)

    async def until_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            info = (await self.http.get(f"/api/conversations/{self.sid}")).json() or {}
            if info.get("status") == "RUNNING" and info.get("runtime_status") == "STATUS$READY":
                return
            await asyncio.sleep(1)

    async def conversation(self) -> None:
        await self.ask("GET", "/api/conversations")
        binary = bytes(range(256))
        files = [("files", ("note.txt", b"a note\n")), ("files", ("all.bin", binary))]
        await self.of_it("POST", "/upload-files", files=files)
        row = "GET /select-file of a binary file"
        await self.ask("GET", f"/api/conversations/{self.sid}/select-file?file=every.bin", row=row)
        for route in READ:
            answer = await self.of_it("GET", route)
            if route == "/zip-directory":
                self.found.note("an uploaded binary file is intact", "yes" if _contains(answer, binary) else "no")
        await self.ask("GET", f"/api/conversations/{self.sid}/security/policy", row="ANY /security/{path}")
        message = {"action": "message", "args": {"content": "hello"}}
        await self.of_it("POST", "/events", json=message)
        await self.of_it("POST", "/message", json={"message": "hello"})
        feedback = {"email": "a@example.org", "polarity": "positive", "version": "1", "permissions": "private"}
        await self.of_it("POST", "/submit-feedback", json={**feedback, "trajectory": []})
        await self.of_it("PATCH", "", json={"title": "a title"})
        await self.of_it("POST", "/stop")
        await self.of_it("POST", "/start", json={"providers_set": []})
        await self.of_it("DELETE", "")

    async def sockets(self) -> None:
        try:
            listener = await asyncio.wait_for(Listener.connect(self.host.url, self.sid), 30)
        except (socketio.exceptions.ConnectionError, asyncio.TimeoutError):
            for row in SOCKET:
                self.found.note(f"socket.io {row}", "no")
            return
        self.found.note("socket.io connect", "yes")
        await self._until("replay", listener, state("finished"), PATIENCE)
        begin = len(listener.events)
        await listener.say("run: sleep 0.5; echo user-$((1+1))")
        await self._until("oh_user_action", listener, printed("user-2"))
        with contextlib.suppress(AssertionError):  # an agent that is about to finish overlooks what is said meanwhile
            await listener.until(state("finished"), 60, begin)
        message = {"action": "message", "args": {"content": "run: sleep 0.5; echo old-$((1+1))"}}
        await listener.client.emit("oh_action", message)
        await self._until("oh_action", listener, printed("old-2"))
        again = await Listener.connect(self.host.url, self.sid, max(listener.ids, default=0) - 1)
        await self._until("reconnect", again, lambda event: event.get("id") == max(listener.ids, default=-2))
        await again.leave()
        await listener.leave()
        self.found.note("socket.io disconnect", "yes" if await self._left() else "no")

    async def _until(self, row: str, listener: Listener, wanted: Any, limit: float = 60) -> None:
        try:
            await listener.until(wanted, limit)
        except AssertionError:
            return self.found.note(f"socket.io {row}", "no")
        return self.found.note(f"socket.io {row}", "yes")

    async def _left(self) -> bool:
        for _ in range(20):
            one = (await self.http.get(f"/api/conversations/{self.sid}")).json()
            if one and one["num_connections"] == 0:
                return True
            await asyncio.sleep(0.25)
        return False

    async def complete(self) -> None:
        """Note the routes of the host's own description that were not asked."""
        paths = (await self.http.get("/openapi.json")).json()["paths"]
        told = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
        asked = {_template(row) for row in self.found.answers}
        self.found.left_out = sorted(told - asked)


def _template(row: str) -> str:
    method, path = row.split(" ", 1)
    if path.startswith(("/api", "/alive", "/health", "/ready", "/server_info")):
        named = path.replace("/secrets/A", "/secrets/{secret_id}")
        return f"{method} {named.replace('/repository/team/tool/', '/repository/{repository_name}/')}"
    return f"{method} /api/conversations/{{conversation_id}}{'' if path.startswith('(') else path}"


def _contains(archive: httpx.Response | None, content: bytes) -> bool:
    if archive is None or not archive.is_success:
        return False
    with zipfile.ZipFile(io.BytesIO(archive.content)) as zipped:
        return any(zipped.read(name) == content for name in zipped.namelist() if name.endswith("all.bin"))


async def column(host: LegacyHost, settings: dict[str, str]) -> Column:
    """Have a conversation on ``host``, and ask everything."""
    async with httpx.AsyncClient(base_url=host.url, timeout=120) as http:
        asking = Asking(http, host, Column())
        await asking.run(settings)
    return asking.found


@contextlib.contextmanager
def served(on_stage: Stage, name: str, directory: Path) -> Iterator[LegacyHost]:
    """A host with one of the managers; upstream's containers, which nobody else has here, are removed with it."""
    prompts = directory / "openhands" / "microagent" / "prompts"  # the host looks in its working directory
    prompts.mkdir(parents=True)
    (prompts / "generate_remember_prompt.j2").write_text("{{ events }}")
    try:
        with on_stage.host(directory, **HOSTS[name]).running() as host:
            yield host
    finally:
        store = directory / "store" / "sessions"
        for conversation in store.iterdir() if store.exists() else ():
            container = f"openhands-runtime-{conversation.name}"
            subprocess.run(["docker", "rm", "-fv", container], capture_output=True, check=False)


def table(columns: dict[str, Column]) -> str:
    rows = list(dict.fromkeys(row for one in columns.values() for row in one.answers))
    lines = [f"| request | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    lines += [f"| {row} | {' | '.join(one.answers.get(row, '') for one in columns.values())} |" for row in rows]
    return "\n".join(lines)


def is_served(answer: str) -> bool:
    return answer[:1] in {"2", "y"}


def verdict(columns: dict[str, Column]) -> list[str]:
    """What is wrong: rows that only standalone serves, rows that ours lacks and nobody knows why, routes left out."""
    ours = columns.get("loopnest", Column()).answers
    standalone = columns.get("standalone", Column()).answers
    wrong = [f"{row}: standalone serves it" for row in standalone if is_served(standalone[row]) and row in ours]
    wrong = [it for it in wrong if not is_served(ours[it.rpartition(": ")[0]])]
    lacking = {row: answer for row, answer in ours.items() if not is_served(answer)}
    known = {row: answer for row, (answer, _) in REASONS.items()}
    wrong += [f"{row}: no reason is known for {answer}" for row, answer in lacking.items() if known.get(row) != answer]
    return wrong + [f"{it}: left out" for one in columns.values() for it in one.left_out]


def main(*names: str) -> int:
    subprocess.run(["docker", "build", "-q", "-t", UPSTREAM_IMAGE, "-"], input=DOCKERFILE, text=True, check=True)
    columns: dict[str, Column] = {}
    with stage() as on_stage, tempfile.TemporaryDirectory(prefix="legacy-parity-") as directory:
        for name in names or tuple(HOSTS):
            home = Path(directory, name)
            home.mkdir()
            with served(on_stage, name, home) as host:
                columns[name] = asyncio.run(column(host, on_stage.settings))
            print(f"{name}: {len(columns[name].answers)} rows", file=sys.stderr, flush=True)
    print(table(columns))
    ours = columns.get("loopnest", Column()).answers
    for row, (answer, reason) in REASONS.items():
        if ours.get(row) == answer:
            print(f"Not served, {row}: {reason}")
    wrong = verdict(columns)
    print("\n".join(wrong) or "Nothing that standalone serves is missing, and no route was left out.")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
