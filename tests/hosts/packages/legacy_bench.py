"""Upstream's nested manager and ours over the same host objects, with doubles for the engine and nested servers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openhands.agenthub  # registers the agents
import openhands.server.shared  # noqa: F401 - in the order in which the host imports its modules
from docker.errors import NotFound
from openhands.core.config import OpenHandsConfig
from openhands.events.action import MessageAction
from openhands.server.config.server_config import ServerConfig
from openhands.server.conversation_manager.docker_nested_conversation_manager import DockerNestedConversationManager
from openhands.server.session.conversation_init_data import ConversationInitData
from openhands.storage import get_file_store
from pluggy import HookRelay
from pretend_v0 import PretendV0, Stub
from pydantic import SecretStr

import docker
from loopnest import HostContext, StartLoop
from loopnest_docker.container import ContainerSpec, new_spec
from loopnest_docker.image import Image
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import get_dialect
from loopnest_openhands import ConversationManager
from loopnest_openhands.legacy import build, users
from loopnest_openhands.legacy.host import Host
from loopnest_openhands.legacy.upstream import UpstreamContainers

Check = Callable[["Bench"], Awaitable[bool]]
#: By name: one function for upstream's manager, None where there is nothing to compare, and one for ours.
CHECKS: dict[str, tuple[Check | None, Check]] = {}


def check(name: str) -> Callable[[type], type]:
    """Register a class with two functions, ``upstream`` and ``ours``, under a name."""

    def register(both: Any) -> type:
        CHECKS[name] = (getattr(both, "upstream", None), both.ours)
        return both

    return register


class Sio:
    """The host's socket.io server; its clients say with their connection's name which event they had last."""

    def __init__(self) -> None:
        self.emitted: list[tuple[Any, Any]] = []

    async def emit(self, event: str, data: Any, to: Any = None) -> None:
        self.emitted.append((to, data))

    async def disconnect(self, connection_id: str) -> None: ...

    async def enter_room(self, connection_id: str, room: str) -> None: ...

    def get_environ(self, connection_id: str) -> dict[str, str]:
        return {"QUERY_STRING": f"latest_event_id={connection_id.rpartition(':')[2]}"}

    def ids(self, connection_id: str) -> list[int]:
        """The events that a client was sent."""
        return [data["id"] for to, data in self.emitted if to == connection_id and isinstance(data.get("id"), int)]


class Engine:
    """The docker SDK's low-level client, of an engine with upstream's containers."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.states: dict[str, str] = {}
        self.started: list[str] = []
        self.foreign: set[str] = set()
        self.vanished: set[str] = set()

    def containers(self, all: bool = False, **options: Any) -> list[dict[str, Any]]:  # noqa: A002 - the SDK names it
        shown = {sid: state for sid, state in self.states.items() if all or state == "running"}
        return [{"Id": sid, "Names": [f"/openhands-runtime-{sid}"], "State": it} for sid, it in shown.items()]

    def inspect_container(self, container: str) -> dict[str, Any]:
        sid = container.removeprefix("openhands-runtime-")
        if sid in self.vanished or sid not in self.states:
            raise NotFound(f"No such container: {container}")
        environment = [] if sid in self.foreign else [f"port={self._port}", "SESSION_API_KEY=k"]
        return {
            "Id": sid,
            "Name": f"/openhands-runtime-{sid}",
            "State": {"Status": self.states[sid]},
            "Config": {"Env": environment},
            "HostConfig": {"Binds": None},
        }

    def start(self, container: str, **options: Any) -> None:
        self.started.append(container)
        self.states[container] = "running"

    def stop(self, container: str, **options: Any) -> None:
        self.states[container] = "exited"


class Bench:
    """One manager of each kind. Upstream's uses `engine` by the docker SDK's own objects."""

    def __init__(self, directory: Path) -> None:
        self.directory, store = directory, str(directory)
        self.sio = Sio()
        self.config = OpenHandsConfig(
            file_store="local", file_store_path=store, jwt_secret=SecretStr("s"), max_concurrent_conversations=2
        )
        self.config.sandbox.local_runtime_url = "http://127.0.0.1"
        self.files = get_file_store("local", store)
        self.server_config = ServerConfig()
        self.stub = Stub()
        self.engine = Engine(self.stub.server_address[1])
        self.ours: Any = None
        self.plugin: Any = None

    @property
    def upstream(self) -> Any:
        client = docker.DockerClient.__new__(docker.DockerClient)
        client.api = self.engine
        return DockerNestedConversationManager(
            self.sio, self.config, self.server_config, self.files, docker_client=client
        )

    @property
    def strategy(self) -> PretendV0:
        return PretendV0.current

    @contextlib.asynccontextmanager
    async def opened(self) -> Any:
        """Open ours, beside upstream's containers as it is where the strategy is Docker's."""
        host = Host(self.sio, self.config, self.files, self.server_config)
        users.watch(self.server_config)
        built = build.build(host)
        self.plugin, self.ours = built.plugin, ConversationManager(host, built)
        async with self.ours:
            self.plugin._upstream = UpstreamContainers(SecretStr("s"), "docker", "http://127.0.0.1")
            self.plugin._upstream._engine = self.engine
            self.engine.close = lambda: None
            yield self

    def container(self, sid: str, state: str = "running") -> None:
        """Let the engine have a container of upstream's."""
        self.engine.states[sid] = state

    async def start(self, sid: str, user: str | None = None, message: str | None = None, **settings: Any) -> Any:
        """Start a loop with ours, and let it come up."""
        said = MessageAction(content=message) if message else None
        info = await self.ours.maybe_start_agent_loop(sid, init(**settings), user, said)
        await asyncio.sleep(0.05)
        return info

    def happens(self, sid: str, number: int, user: str | None = None, **more: Any) -> dict[str, Any]:
        """Store an event as the nested server does."""
        args = {"content": str(number), "image_urls": []}
        event = {"id": number, "timestamp": "2026-01-01T00:00:00", "source": "agent", "action": "message"}
        event |= {"message": str(number), "args": args, **more}
        place = f"users/{user}/conversations" if user else "sessions"
        self.files.write(f"{place}/{sid}/events/{number}.json", json.dumps(event))
        return event


def new_context(directory: Path) -> HostContext:
    """What the Docker strategy is told of its host."""
    return HostContext("docker", "tests", SecretStr("s"), directory, lambda change: None, HookRelay())


def new_container(request: StartLoop) -> ContainerSpec:
    """The container of a loop, before plugins change it."""
    settings, image = DockerSettings(data="/w/.openhands"), Image("image", "sha256:image", (), {})
    dialect = get_dialect("openhands-v0")
    return new_spec(settings, dialect, request, image=image, network="network", owner="owner")


def init(**more: Any) -> Any:
    return ConversationInitData(llm_model="openai/gpt-4o", llm_api_key=SecretStr("k"), llm_base_url="http://m", **more)


def metadata(sid: str) -> str:
    return json.dumps(
        {"conversation_id": sid, "title": "t", "created_at": "2026-01-01T00:00:00Z"}
        | {"user_id": None, "selected_repository": None}
    )


async def upstream_conversation(bench: Bench, settings: Any) -> None:
    """What upstream does once a container is up."""
    runtime = SimpleNamespace(wait_until_alive=lambda: None, setup_initial_env=lambda: None)
    message = MessageAction(content="look", image_urls=["data:x"])
    await bench.upstream._start_conversation("m", settings, runtime, message, None, bench.stub.url)


async def longest_stall(work: Any) -> float:
    """How long the event loop did nothing else at a time, in seconds."""
    task, longest, last = asyncio.ensure_future(work), 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.01)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


async def seconds(work: Any) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def until(wanted: Callable[[], bool], limit: float = 10) -> bool:
    """Whether something comes true within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not wanted() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return wanted()


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def refused(status: int, error: BaseException) -> bool:
    return getattr(error, "status_code", None) == status


async def run(checked: Check, directory: str, *, ours: bool) -> bool:
    os.environ["LOOPNEST_STATE_DIR"] = f"{directory}/state"  # failed starts are remembered there
    bench = Bench(Path(directory))
    if not ours:
        return bool(await checked(bench))
    async with bench.opened():
        return bool(await checked(bench))
