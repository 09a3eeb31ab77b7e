"""What the real legacy host is tested on: the real engine, a model that follows a script, a git server of our own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

import docker
from loopnest_cli import scripted_model
from loopnest_docker import naming

from .. import requirements
from ..namespaces import gateway, own_namespace
from ..scripts import insistent
from .legacy_process import LegacyHost
from .packages.json_answers import JsonAnswers

IMAGE = os.environ.get("LOOPNEST_TEST_V0_IMAGE", "loopnest/openhands-v0:1.6.0")
#: Seconds for a conversation to come up: 20 on a quiet machine.
BOOT = 300


@dataclass
class Stage:
    """Everything but the host. What loops leave on the engine is removed with it."""

    engine: docker.APIClient
    namespace: str
    gateway: str
    model: scripted_model.ScriptedModel

    def host(self, directory: Path, *ports: int, **variables: str) -> LegacyHost:
        """A host whose loops reach the model, and what listens on ``ports`` of the gateway."""
        open_ports = [httpx.URL(self.model.url).port, *ports]
        return LegacyHost(
            requirements.server("openhands-1.6.0"),
            directory,
            LOOPNEST_NAMESPACE=self.namespace,
            LOOPNEST_DOCKER__IMAGE=IMAGE,
            LOOPNEST_DOCKER__HOST_ACCESS=json.dumps(open_ports),
            LOOPNEST_DOCKER__START_TIMEOUT=str(BOOT),
            **variables,
        )

    @property
    def settings(self) -> dict[str, str]:
        """The body of ``POST /api/settings``. The nested server offers tools to models that it knows only."""
        llm = {"llm_model": "openai/gpt-4o", "llm_api_key": "sk-scripted", "llm_base_url": self.model.url}
        return {**llm, "agent": "CodeActAgent", "language": "en"}

    def containers(self) -> list[str]:
        """The names of all that loops have on the engine."""
        listed = self.engine.containers(all=True, filters={"label": f"{naming.NAMESPACE}={self.namespace}"})
        return [entry["Names"][0].lstrip("/") for entry in listed]

    def container_of(self, conversation_id: str) -> str:
        """The name of a conversation's container."""
        return next(name for name in self.containers() if conversation_id in name)


def override(directory: Path) -> str:
    """Install the third-party override ``redact`` below ``directory``, and return its place for ``PYTHONPATH``."""
    root = Path(__file__).parents[2] / "examples" / "redact-events"
    info = directory / "redact_events-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: redact-events\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[loopnest]\nredact = redact_events\n")
    return os.pathsep.join([str(root), str(directory)])


@contextmanager
def stage() -> Iterator[Stage]:
    """Set the stage."""
    requirements.server("openhands-1.6.0")
    with requirements.engine() as engine, own_namespace(engine) as namespace:
        requirements.image(engine, IMAGE)
        address = asyncio.run(gateway(namespace))
        with scripted_model.serve(address, script=_script) as model:
            yield Stage(engine, namespace, address, model)


def _script(asked: scripted_model.Asked) -> Sequence[scripted_model.Turn]:
    if "generate a prompt for the AI" in asked.message:  # the host's own words, of its route `remember-prompt`
        return [scripted_model.Text("<update_prompt>Remember the answer.</update_prompt>")]
    return insistent(asked)


# --- a git server that looks like GitLab ------------------------------------------------------------------------------


@dataclass
class GitServer:
    """Serves one repository, ``team/tool``, to whoever has the token."""

    url: str
    token: str = "glpat-tests"
    asked: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return httpx.URL(self.url).port or 0

    def allows(self, authorization: str | None) -> bool:
        return authorization in {f"Bearer {self.token}", httpx.BasicAuth("oauth2", self.token)._auth_header}


@contextmanager
def git_server(address: str, directory: Path) -> Iterator[GitServer]:
    """Serve a repository whose branch ``topic`` has a file ``topic.txt`` that ``main`` has not."""
    _make_repository(directory)

    class Handler(SimpleHTTPRequestHandler, JsonAnswers):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(directory))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            served.asked.append(self.path)
            if not served.allows(self.headers.get("Authorization")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", "Basic")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif self.path.startswith("/api/"):
                self.answer({"id": 1, "username": "alice", "path_with_namespace": "team/tool"})
            else:
                super().do_GET()

    with ThreadingHTTPServer((address, 0), Handler) as server:
        served = GitServer(f"http://{address}:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield served
        server.shutdown()


def _make_repository(directory: Path) -> None:
    script = """
        git init -q -b main work && cd work
        git config user.name t && git config user.email t@example.org
        git commit -q --allow-empty -m first && git checkout -q -b topic
        echo from-the-topic-branch > topic.txt && git add . && git commit -q -m topic && git checkout -q main
        cd .. && git clone -q --bare work team/tool.git && git -C team/tool.git update-server-info
    """
    subprocess.run(["sh", "-ec", script], cwd=directory, check=True)
