"""The legacy OpenHands server in a process of its own, and a client of it as browsers are."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import socketio

from ..ports import free_port
from ..processes import end, inherited

ADAPTER = "loopnest_openhands.ConversationManager"
#: Seconds: the server imports for 10 on a quiet machine.
_BOOT = 300
Event = dict[str, Any]


class LegacyHost:
    """Serves on loopback; killed and started again at will, as everything that matters is in ``directory``."""

    def __init__(self, python: str, directory: Path, **variables: str) -> None:
        self._python, self.directory, self._variables = python, directory, variables
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{free_port()}"

    @property
    def log(self) -> str:
        return (self.directory / "host.log").read_text()

    @contextmanager
    def running(self) -> Iterator[LegacyHost]:
        """Start, and stop at the end, also where the start fails."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def start(self) -> None:
        port = httpx.URL(self.url).port
        command = [self._python, "-m", "uvicorn", "openhands.server.listen:app", "--host", "127.0.0.1"]
        with (self.directory / "host.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--port", str(port)],
                cwd=self.directory,
                env=environment(self.directory, **self._variables),
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + _BOOT
        while not self._alive():
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.2)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process:
            end(self._process, self.directory / "host.log", how)

    def _alive(self) -> bool:
        try:
            return httpx.get(f"{self.url}/alive", timeout=5).is_success
        except httpx.HTTPError:
            return False


class Listener:
    """A browser's connection to a conversation: what it was sent, in order."""

    def __init__(self, client: socketio.AsyncClient) -> None:
        self.client, self.events = client, list[Event]()
        self._more = asyncio.Event()
        client.on("oh_event", self._take)

    @classmethod
    async def connect(
        cls, url: str, conversation_id: str, latest_event_id: int = -1, user: str | None = None
    ) -> Listener:
        listener = cls(socketio.AsyncClient(reconnection=False))
        query = f"conversation_id={conversation_id}&latest_event_id={latest_event_id}"
        headers = {"Cookie": f"user={user}"} if user else {}
        try:
            await listener.client.connect(f"{url}?{query}", headers, transports=["websocket"], wait_timeout=60)
        except BaseException:  # also where the test has no patience
            await listener.client.shutdown()
            raise
        return listener

    async def leave(self) -> None:
        """Disconnect."""
        await self.client.disconnect()

    async def say(self, text: str) -> None:
        """Send a message as the frontend does."""
        args = {"content": text, "image_urls": [], "file_urls": [], "timestamp": "2026-01-01T00:00:00"}
        await self.client.emit("oh_user_action", {"action": "message", "args": args})

    async def until(self, wanted: Callable[[Event], bool], limit: float = 300, after: int = 0) -> Event:
        """Return the first event that is ``wanted``, of those from the ``after``-th on."""
        deadline = time.monotonic() + limit
        while True:
            self._more.clear()
            for event in self.events[after:]:
                if wanted(event):
                    return event
            left = deadline - time.monotonic()
            assert left > 0, [summary(event) for event in self.events[-30:]]
            try:
                await asyncio.wait_for(self._more.wait(), left)
            except asyncio.TimeoutError:
                continue

    @property
    def ids(self) -> list[int]:
        """The ids of the stored events it was sent."""
        return [event["id"] for event in self.events if isinstance(event.get("id"), int)]

    def _take(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """The variables of a host that keeps everything in ``directory``."""
    return {
        **inherited(directory),
        "CONVERSATION_MANAGER_CLASS": ADAPTER,
        "RUNTIME": "docker",
        "ENABLE_V1": "0",
        "SERVE_FRONTEND": "false",
        "FILE_STORE": "local",
        "FILE_STORE_PATH": str(directory / "store"),
        # Or releases share a database in the home directory, which the older ones then can't read.
        "OH_PERSISTENCE_DIR": str(directory / "persistence"),
        "JWT_SECRET": "a secret of the tests",
        "RUN_AS_OPENHANDS": "false",
        "ENABLE_BROWSER": "false",
        # Or the host pulls an image for conversations of its current kind, which there are none of.
        "OH_SANDBOX_SPEC_KIND": "DockerSandboxSpecServiceInjector",
        "OH_SANDBOX_SPEC_PULL_IF_MISSING": "false",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LOOPNEST_STATE_DIR": str(directory / "state"),
        **variables,
    }


def printed(text: str) -> Callable[[Event], bool]:
    """A command's output that contains ``text``."""
    return lambda event: event.get("observation") == "run" and text in str(event.get("content"))


def state(word: str) -> Callable[[Event], bool]:
    """The agent's change to a state."""
    return lambda event: event.get("extras", {}).get("agent_state") == word


def said(text: str) -> Callable[[Event], bool]:
    """A message of the user's that contains ``text``."""
    return lambda event: (
        event.get("action") == "message" and event.get("source") == "user" and text in event["args"]["content"]
    )


def summary(event: Event) -> tuple[Any, ...]:
    kind = event.get("action") or event.get("observation") or event.get("type")
    return event.get("id"), kind, str(event.get("content") or event.get("message"))[:60]
