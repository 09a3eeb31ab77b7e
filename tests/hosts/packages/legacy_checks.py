"""What upstream's nested manager gets wrong, asked of it and of ours; run by the host's own interpreter.

Usage: legacy_checks.py DIRECTORY. Prints ``{check: {"upstream": bool, "ours": bool}}``, True where it is right. Engine
and nested servers are doubles here: what needs the real ones is tested with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import openhands.server.shared  # noqa: F401 - in the order in which the host imports its modules
from openhands.core.config import OpenHandsConfig
from openhands.events.action import MessageAction
from openhands.integrations.provider import CustomSecret
from openhands.runtime.impl.docker import docker_runtime
from openhands.server.config.server_config import ServerConfig
from openhands.server.conversation_manager import docker_nested_conversation_manager as upstream_module
from openhands.server.session.conversation_init_data import ConversationInitData
from openhands.storage import get_file_store
from pretend_v0 import PretendV0, Stub
from pydantic import SecretStr

from loopnest_openhands import ConversationManager
from loopnest_openhands.legacy import users

Upstream = upstream_module.DockerNestedConversationManager
Check = Callable[["Bench"], Awaitable[bool]]
NOBODYS: dict[str, Any] = {"user_id": None, "selected_repository": None}
CHECKS: dict[str, tuple[Check, Check]] = {}


class Sio:
    """The host's socket.io server, without clients."""

    def __init__(self) -> None:
        self.emitted: list[tuple[Any, Any]] = []

    async def emit(self, event: str, data: Any, to: Any = None) -> None:
        self.emitted.append((to, data))

    async def disconnect(self, connection_id: str) -> None: ...


class Bench:
    """One manager of each kind, over the same host objects."""

    def __init__(self, directory: Path) -> None:
        store = str(directory)
        self.sio = Sio()
        self.config = OpenHandsConfig(
            file_store="local", file_store_path=store, jwt_secret=SecretStr("s"), max_concurrent_conversations=2
        )
        self.files = get_file_store("local", store)
        self.server_config = ServerConfig()
        self.containers: list[Any] = []
        self.stub = Stub()
        self.ours: Any = None

    @property
    def upstream(self) -> Any:
        containers = SimpleNamespace(list=self.list, get=self.get)
        client = SimpleNamespace(containers=containers)
        return Upstream(self.sio, self.config, self.server_config, self.files, docker_client=client)

    @property
    def strategy(self) -> PretendV0:
        return PretendV0.current

    # --- what upstream asks of the docker SDK ---

    def list(self) -> list[Any]:
        return self.containers

    def get(self, name: str) -> Any:
        self.asked = name
        return next(it for it in self.containers if it.name == name)

    def container(self, sid: str, **more: Any) -> Any:
        port = self.stub.server_address[1]
        attributes = {"Config": {"Env": [f"port={port}"]}}
        made = SimpleNamespace(name=f"openhands-runtime-{sid}", status="running", attrs=attributes, stopped=False)
        made.stop = lambda: setattr(made, "stopped", True)
        made.__dict__.update(more)
        self.containers.append(made)
        return made

    async def start(self, sid: str, user: str | None = None, message: str | None = None, **settings: Any) -> Any:
        """Start a loop with ours, and let it come up."""
        said = MessageAction(content=message) if message else None
        info = await self.ours.maybe_start_agent_loop(sid, init(**settings), user, said)
        await asyncio.sleep(0.05)
        return info


def init(**more: Any) -> Any:
    return ConversationInitData(llm_model="openai/gpt-4o", llm_api_key=SecretStr("k"), llm_base_url="http://m", **more)


def check(name: str) -> Callable[[type], type]:
    """Register a class with two functions, ``upstream`` and ``ours``, under a name."""

    def register(both: Any) -> type:
        CHECKS[name] = (both.upstream, both.ours)
        return both

    return register


@check("one user sees nothing of another's")
class _Users:
    async def upstream(bench: Bench) -> bool:
        bench.container("a1")
        return not await bench.upstream.get_agent_loop_info(user_id="bob")

    async def ours(bench: Bench) -> bool:
        await bench.start("a1", "alice")
        by_name = await bench.ours.get_agent_loop_info(user_id="bob")
        users.note("bob")
        unnamed = await bench.ours.get_agent_loop_info(filter_to_sids={"a1"})
        await bench.ours.close_session("a1")
        users.note("alice")
        return not by_name and not unnamed and await bench.ours.is_agent_loop_running("a1")


@check("the limit counts each user's own, and closes the one idle longest")
class _Limit:
    async def upstream(bench: Bench) -> bool:
        others = [bench.container("b1"), bench.container("b2")]
        bench.files.write("sessions/b1/metadata.json", METADATA.replace("ID", "b1"))
        bench.files.write("sessions/b2/metadata.json", METADATA.replace("ID", "b2"))
        await bench.upstream.ensure_num_conversations_below_limit("mine", "alice")
        return not any(it.stopped for it in others)

    async def ours(bench: Bench) -> bool:
        await bench.start("b1", "bob")
        for sid, hour in (("m1", 9), ("m2", 8)):
            await bench.start(sid, "alice")
            event = {"id": 0, "timestamp": f"2026-01-01T{hour:02}:00:00", "source": "user", "action": "message"}
            path = f"users/alice/conversations/{sid}/events/0.json"
            bench.files.write(path, json.dumps({**event, "args": {"content": "x"}, "message": "x"}))
        await bench.start("m3", "alice")
        running = await bench.ours.get_running_agent_loops()
        told = [to for to, data in bench.sio.emitted if data.get("id") == "AGENT_ERROR$TOO_MANY_CONVERSATIONS"]
        return running == {"b1", "m1", "m3"} and told == ["room:m2"]


@check("a container of somebody else's breaks no listing")
class _Foreign:
    async def upstream(bench: Bench) -> bool:
        bench.container("x", attrs={"Config": {"Env": []}})
        with contextlib.suppress(Exception):
            await bench.upstream.get_agent_loop_info()
            return True
        return False

    async def ours(bench: Bench) -> bool:
        from loopnest_openhands.legacy.upstream import _fixed

        container = {"Config": {"Env": ["PATH=/bin"]}, "HostConfig": {"Binds": None}}
        return _fixed(container) is None


@check("ids that are paths, empty or options are refused")
class _Ids:
    async def upstream(bench: Bench) -> bool:
        bench.container("../other")
        await bench.upstream.close_session("../other")
        return not bench.containers[0].stopped

    async def ours(bench: Bench) -> bool:
        refused = 0
        for sid in ("../other", "", "-x"):
            try:
                await bench.ours.maybe_start_agent_loop(sid, init(), None)
            except Exception as error:  # noqa: BLE001 - of whatever kind the host maps to a status
                refused += getattr(error, "status_code", None) == 400
        return refused == 3 and not bench.strategy.requests


@check("images and instructions reach the nested server")
class _Message:
    async def upstream(bench: Bench) -> bool:
        await upstream_conversation(bench, init(conversation_instructions="be kind"))
        body = dict(bench.stub.told)["/api/conversations"]
        return body["image_urls"] == ["data:x"] and body.get("conversation_instructions") == "be kind"

    async def ours(bench: Bench) -> bool:
        message = MessageAction(content="look", image_urls=["data:x"])
        await bench.ours.maybe_start_agent_loop("m", init(conversation_instructions="be kind"), None, message)
        await asyncio.sleep(0.05)
        [request] = bench.strategy.requests
        return request.initial_message.image_urls == ("data:x",) and request.instructions == "be kind"


@check("settings with secrets do not break a start")
class _Secrets:
    async def upstream(bench: Bench) -> bool:
        with contextlib.suppress(Exception):
            await upstream_conversation(bench, init(sandbox_api_key=SecretStr("hidden")))
            return True
        return False

    async def ours(bench: Bench) -> bool:
        secrets = {"TOKEN": CustomSecret(secret=SecretStr("t"), description="d")}
        await bench.start("s", sandbox_api_key=SecretStr("hidden"), custom_secrets=secrets)
        [request] = bench.strategy.requests
        json.dumps(dict(request.settings))
        value = request.secrets["TOKEN"].value.get_secret_value()
        return request.settings["sandbox_api_key"] == "hidden" and value == "t" and "hidden" not in repr(request)


@check("the event store carries the session key")
class _Store:
    async def upstream(bench: Bench) -> bool:
        bench.container("e")
        [info] = await bench.upstream.get_agent_loop_info()
        return bool(info.event_store.session_api_key)

    async def ours(bench: Bench) -> bool:
        await bench.start("e")
        [info] = await bench.ours.get_agent_loop_info()
        return info.event_store.session_api_key == info.session_api_key == "key of e"


@check("a start that failed is listed as failed")
class _Failure:
    async def upstream(bench: Bench) -> bool:
        bench.container("f")
        manager = bench.upstream
        runtime = SimpleNamespace(wait_until_alive=mock.Mock(side_effect=RuntimeError("never")), api_url="")
        starting = asyncio.ensure_future(manager._start_conversation("f", init(), runtime, None, None, ""))
        await asyncio.wait({starting})
        starting.exception()
        [info] = await manager.get_agent_loop_info()
        return bool(info.status.value == "ERROR")

    async def ours(bench: Bench) -> bool:
        await bench.start("f", message="fail")
        [info] = await bench.ours.get_agent_loop_info()
        return bool(info.status.value == "ERROR")


@check("the engine's slowness does not stall the host")
class _Stall:
    async def upstream(bench: Bench) -> bool:
        with mock.patch.object(bench, "list", side_effect=lambda: time.sleep(0.3) or []):
            return await longest_stall(bench.upstream.get_running_agent_loops()) < 0.15

    async def ours(bench: Bench) -> bool:
        await bench.start("q")
        return await longest_stall(bench.ours.get_agent_loop_info()) < 0.15


@check("nested servers that hang delay a listing by one short limit in all")
class _Hung:
    async def upstream(bench: Bench) -> bool:
        bench.stub.hung = True
        for sid in ("h1", "h2"):
            bench.container(sid)
        return await seconds(bench.upstream.get_agent_loop_info()) < 3

    async def ours(bench: Bench) -> bool:
        for sid in ("h1", "h2"):
            await bench.start(sid)
        bench.strategy.stub.hung = True
        return await seconds(bench.ours.get_agent_loop_info()) < 3


@check("the host's end leaves the loops running")
class _End:
    async def upstream(bench: Bench) -> bool:
        refused = mock.patch.object(docker_runtime.DockerRuntime, "_init_docker_client", side_effect=RuntimeError)
        with mock.patch.object(docker_runtime, "stop_all_containers") as stop, refused:
            with mock.patch.object(docker_runtime, "add_shutdown_listener") as add, contextlib.suppress(RuntimeError):
                docker_runtime.DockerRuntime(bench.config, None, None)
            add.call_args.args[0]()  # as the host does when it ends
        return not stop.called

    async def ours(bench: Bench) -> bool:
        await bench.start("z")
        await bench.ours.__aexit__(None, None, None)
        return bench.strategy.loops["z"].status.value == "running"


@check("a start that the host's death interrupted is taken up with its first message")
class _Interrupted:
    async def upstream(bench: Bench) -> bool:
        bench.container("i")  # it boots, and nobody remembers what for
        await bench.upstream.maybe_start_agent_loop("i", init(), None)
        return "/api/conversations" in dict(bench.stub.told)

    async def ours(bench: Bench) -> bool:
        pending = {"message": {"text": "first", "image_urls": []}}
        await bench.ours._host.keep_pending("i", None, pending)  # as the host that died had
        await bench.ours.maybe_start_agent_loop("i", init(), None)
        await asyncio.sleep(0.2)
        [request] = bench.strategy.requests
        return request.initial_message.text == "first" and not await bench.ours._host.pending("i", None)


@check("nothing is unsupported")
class _Supported:
    async def upstream(bench: Bench) -> bool:
        try:
            await bench.upstream.attach_to_conversation("u")
        except ValueError:
            return False
        return True

    async def ours(bench: Bench) -> bool:
        await bench.start("u", "alice")
        mine = await bench.ours.attach_to_conversation("u", "alice")
        theirs = await bench.ours.attach_to_conversation("u", "bob")
        return mine.sid == "u" and mine.runtime.vscode_url is None and theirs is None


METADATA = json.dumps({"conversation_id": "ID", "title": "t", "created_at": "2026-01-01T00:00:00Z"} | NOBODYS)


async def upstream_conversation(bench: Bench, settings: Any) -> None:
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
    return longest


async def seconds(work: Any) -> float:
    begin = time.perf_counter()
    await work
    return time.perf_counter() - begin


async def run(one: Check, directory: str, *, ours: bool) -> bool:
    bench = Bench(Path(directory))
    if not ours:
        return await one(bench)
    bench.ours = ConversationManager.get_instance(bench.sio, bench.config, bench.files, bench.server_config, None)
    async with bench.ours:
        return await one(bench)


def main(directory: str) -> None:
    logging.disable()
    results = {}
    for name, (upstream, ours) in CHECKS.items():
        results[name] = {
            which: asyncio.run(run(one, tempfile.mkdtemp(dir=directory), ours=which == "ours"))
            for which, one in (("upstream", upstream), ("ours", ours))
        }
    print(json.dumps(results))


main(sys.argv[1])
