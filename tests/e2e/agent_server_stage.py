"""Outer agent servers for tests: real ones, whose nested servers run in containers."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from .. import requirements
from ..ports import free_port
from ..processes import inherited

KEY = "outer-key"
NEWEST = "1.58.0"
#: Seconds for what needs a container to boot on a busy machine.
PATIENCE = 600.0


class Outer:
    """An outer server, killed and started again at will: everything that matters is elsewhere."""

    def __init__(self, python: str, directory: Path, environment: dict[str, str]) -> None:
        self._python, self._directory, self._environment = python, directory, environment
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        headers = {"x-session-api-key": KEY}
        self.client = httpx.AsyncClient(base_url=self.url, headers=headers, timeout=PATIENCE)
        self.log = directory / "outer.log"
        self._process: asyncio.subprocess.Process

    async def start(self, **variables: str) -> None:
        command = (self._python, "-m", "uvicorn", "loopnest_openhands.agent_server:app", "--factory")
        environment = {**inherited(self._directory), **self._environment, **variables}
        with self.log.open("a") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, "--port", str(self._port), env=environment, cwd=self._directory, stdout=output, stderr=output
            )
        await until(self._is_ready, "the outer server is ready")

    async def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process.returncode is None:
            self._process.send_signal(how)
            await self._process.wait()

    def peak_memory(self) -> int:
        """In bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024

    async def _is_ready(self) -> bool:
        assert self._process.returncode is None, self.log.read_text()[-2000:]
        with contextlib.suppress(httpx.TransportError):
            return (await self.client.get("/ready")).status_code == 200
        return False


@contextlib.asynccontextmanager
async def open_outer(version: str, environment: dict[str, str], directory: Path) -> AsyncIterator[Outer]:
    outer = Outer(requirements.server(f"agent-server-{version}"), directory, environment)
    await outer.start()
    try:
        yield outer
    finally:
        await outer.end()
        await outer.client.aclose()


def environment_of(namespace: str, directory: Path) -> dict[str, str]:
    """What configures an outer server that keeps its files below ``directory``."""
    return {
        "LOOPNEST_NAMESPACE": namespace,
        "LOOPNEST_STATE_DIR": str(directory / "state"),
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
        "COLUMNS": "1000",  # in which the server wraps what it logs
    }


async def until(true: Callable[[], Awaitable[bool]], what: str) -> None:
    async def ask() -> None:
        while not await true():
            await asyncio.sleep(0.2)

    try:
        await asyncio.wait_for(ask(), PATIENCE)
    except asyncio.TimeoutError:
        pytest.fail(f"It took more than {PATIENCE:g} s until {what}")


def body(model_url: str, **more: Any) -> dict[str, Any]:
    llm = {"model": "openai/scripted", "api_key": "sk-scripted", "base_url": model_url, "usage_id": "agent"}
    agent = {"kind": "Agent", "llm": llm, "tools": [{"name": "terminal", "params": {}}]}
    return {"agent": agent, "workspace": {"working_dir": "/workspace/project"}, "autotitle": False, **more}


def message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": "text", "text": text}], "run": True}


async def created(outer: Outer, model_url: str, **more: Any) -> str:
    """Create a conversation, and return its path."""
    answer = await outer.client.post("/api/conversations", json=body(model_url, **more))
    assert answer.status_code == 201, answer.text
    return f"/api/conversations/{answer.json()['id']}"


def session(outer: Outer, path: str, *, after: int) -> Any:
    url = f"{outer.url.replace('http', 'ws')}/sockets/session/{uuid.UUID(path.rsplit('/', 1)[1])}?after_seq={after}"
    return connect(url, additional_headers={"x-session-api-key": KEY}, max_size=None, proxy=None)
