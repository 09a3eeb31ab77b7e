"""The real agent server as a child process, with a scripted model."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from loopnest import Llm, StartLoop
from loopnest_cli.scripted_model import ScriptedModel, serve
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import Place
from loopnest_nested.dialects.agent_server import AgentServer
from loopnest_nested.readiness import until_alive
from loopnest_nested.session_keys import derive, new_nonce

from ... import requirements
from ...ports import free_port
from ...start_requests import start_request


@dataclass
class ServerProcess:
    """A nested server that keeps its files, port and keys when it is started again."""

    python: str
    place: Place
    home: Path
    port: int
    dialect: AgentServer = field(default_factory=AgentServer)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.keys = derive(SecretStr("test"), new_nonce())
        self.terminals = Path(tempfile.mkdtemp(prefix="terminals-"))  # sockets need a short path

    def start(self) -> None:
        own = {name: value.get_secret_value() for name, value in self.dialect.secret_environment(self.keys).items()}
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TMUX_TMPDIR": str(self.terminals), **own}
        environment |= self.dialect.environment(self.place, self.port)
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.python, *self.dialect.command("127.0.0.1", self.port)],
                env=environment, cwd=self.home, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        asyncio.run(self._ready())

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process:
            self.process.send_signal(how)
            try:
                self.process.wait(30)
            finally:
                self.process.kill()

    def discard(self) -> None:
        """Stop it, and the terminals that outlive a server that was killed."""
        self.stop()
        for terminal in self.terminals.glob("*/*"):
            subprocess.run(["tmux", "-S", str(terminal), "kill-server"], capture_output=True, check=False)
        shutil.rmtree(self.terminals, ignore_errors=True)

    async def _ready(self) -> None:
        async with new_http_client() as http:
            server = NestedServer(f"http://127.0.0.1:{self.port}", self.keys.session, http)
            dead = await until_alive(lambda: self.dialect.alive(server), self._died(), 180)
        assert dead is None, (self.home / "server.log").read_text()[-3000:]

    async def _died(self) -> int:
        while self.process and (code := self.process.poll()) is None:
            await asyncio.sleep(0.1)
        return code or 0


@pytest.fixture(scope="session")
def python() -> str:
    return requirements.server("agent-server-1.58.0")


@pytest.fixture(scope="session")
def model() -> Iterator[ScriptedModel]:
    with serve("127.0.0.1") as scripted:
        yield scripted


@pytest.fixture(scope="session")
def new_process(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], ServerProcess]]:
    made: list[ServerProcess] = []

    def new() -> ServerProcess:
        base = tmp_path_factory.mktemp("nested")
        for name in ("home", "workspace", "data"):
            (base / name).mkdir()
        place = Place(workspace=str(base / "workspace"), data=str(base / "data"))
        made.append(ServerProcess(python, place, base / "home", free_port()))
        made[-1].start()
        return made[-1]

    yield new
    for process in made:
        process.discard()


@pytest.fixture(scope="session")
def process(new_process: Callable[[], ServerProcess]) -> ServerProcess:
    """One for all tests that don't stop it, as it takes seconds to start."""
    return new_process()


@dataclass
class Driver:
    """Drives one conversation at a time, as a strategy would."""

    process: ServerProcess
    server: NestedServer
    model: ScriptedModel
    dialect: AgentServer = field(default_factory=AgentServer)

    def request(self, **facts: Any) -> StartLoop:
        llm = Llm(model="openai/scripted", api_key=SecretStr("sk-very-secret"), base_url=self.model.url)
        return start_request(**{"conversation_id": f"test-{secrets.token_hex(4)}", "llm": llm, **facts})

    async def ensure(self, request: StartLoop, place: Place | None = None) -> str:
        await self.dialect.ensure_conversation(self.server, request, place or self.process.place)
        return request.conversation_id

    async def start(self, **facts: Any) -> str:
        return await self.ensure(self.request(**facts))

    async def status(self, conversation_id: str) -> str | None:
        return await self.dialect.agent_status(self.server, conversation_id)

    async def past(self, conversation_id: str) -> list[dict[str, Any]]:
        return [event async for event in self.dialect.events(self.server, conversation_id, follow=False)]

    async def until_status(self, conversation_id: str, status: str, *, times: int = 1) -> list[dict[str, Any]]:
        """Follow the events until the agent's status was ``status`` so often."""
        seen = []
        async with aclosing(self.dialect.events(self.server, conversation_id, follow=True)) as events:
            async for event in events:
                seen.append(event)
                times -= event.get("key") == "execution_status" and event["value"] == status
                if not times:
                    return seen
        raise AssertionError

    async def until_running(self, conversation_id: str) -> None:
        """Ask until the agent runs: a socket that is opened in the middle of a step is silent until its end."""
        while await self.status(conversation_id) != "running":
            await asyncio.sleep(0.05)

    async def info(self, conversation_id: str) -> dict[str, Any]:
        nested_id = self.dialect.nested_id(conversation_id)
        info = await self.server.request("GET", f"/api/conversations/{nested_id}")
        assert isinstance(info, dict)
        return info


@pytest.fixture
async def drive(model: ScriptedModel) -> AsyncIterator[Callable[[ServerProcess], Driver]]:
    async with new_http_client() as http:

        def of(process: ServerProcess) -> Driver:
            url = f"http://127.0.0.1:{process.port}"
            return Driver(process, NestedServer(url, process.keys.session, http), model)

        yield of


@pytest.fixture
async def driver(process: ServerProcess, drive: Callable[[ServerProcess], Driver]) -> Driver:
    return drive(process)
