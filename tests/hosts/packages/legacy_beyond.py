"""What ours does and upstream's nested manager has no counterpart of."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import socketio
import uvicorn
from fastapi import HTTPException
from legacy_bench import Bench, check, init, new_container, new_context, until

from loopnest import StartLoop
from loopnest_openhands.legacy import sandbox
from loopnest_openhands.legacy.plugin import HostPlugin
from loopnest_openhands.legacy.settings import HostSettings


@check("at the limit a start may be refused instead")
class _Refusal:
    async def ours(bench: Bench) -> bool:
        bench.ours._settings = HostSettings(limit=1, limit_policy="reject")
        await bench.start("a1", "alice")
        await bench.start("b1", "bob")
        with contextlib.suppress(HTTPException):
            await bench.start("a2", "alice")
            return False
        return await bench.ours.get_running_agent_loops() == {"a1", "b1"}


@check("who asks for another's conversation changes nothing for its user")
class _Thief:
    async def ours(bench: Bench) -> bool:
        await bench.start("a", "alice")
        await bench.start("b", "bob")
        bench.ours._settings = HostSettings(limit=1)
        for attempt in (bench.start("a", "bob"), bench.start("a", "bob", "mine now")):
            with contextlib.suppress(HTTPException):
                await attempt
                return False
        await bench.ours.send_event_to_conversation("a", {"action": "message", "args": {"content": "hers"}})
        kept = await bench.ours._host.pending("a", "bob")
        told = [args["text"] for sid, args in bench.strategy.stub.told if sid == "a"]
        return bench.strategy.closed == [] and not kept and told == ["hers"]


@check("containers that upstream started are left alone where the settings say so")
class _LeftAlone:
    async def ours(bench: Bench) -> bool:
        bench.container("old")
        found = await bench.ours.get_running_agent_loops()
        plugins = [HostPlugin(HostSettings(upstream_containers=wanted)) for wanted in (True, False)]
        for plugin in plugins:
            plugin.open_strategy(new_context(bench.directory))
        looks = [plugin._upstream is not None for plugin in plugins]
        await plugins[0].close_strategy()
        return found == {"old"} and looks == [True, False]


@check("a file store that is not on this machine is not mounted")
class _Elsewhere:
    async def ours(bench: Bench) -> bool:
        bench.config.file_store = "memory"
        request = StartLoop(conversation_id="e")
        spec = new_container(request)
        await bench.plugin.configure_container(request, spec)
        return spec.binds == []


@check("the host's own sandbox table shapes containers")
class _Sandbox:
    async def ours(bench: Bench) -> bool:
        table = bench.config.sandbox
        table.local_runtime_url, table.base_container_image = "http://10.0.0.9", "our-base:1"
        defaults = sandbox.docker_defaults(table)
        table.runtime_container_image = "our-image:1"
        table.volumes, table.enable_gpu = "/data:/data:ro, /work:/work", True
        table.docker_runtime_kwargs = {"shm_size": "1g", "environment": {"A": "b"}, "name": "no"}
        spec = new_container(StartLoop(conversation_id="s"))
        sandbox.apply(table, spec)
        return (
            defaults["url_template"] == "http://10.0.0.9:{port}"
            and defaults["build"] == {"base_image": "our-base:1"}
            and sandbox.docker_defaults(table)["image"] == "our-image:1"
            and spec.binds == ["/data:/data:ro", "/work:/work:rw"]
            and (spec.gpus, spec.environment["A"], spec.host_config["ShmSize"]) == (-1, "b", 2**30)
        )


class NestedServer:
    """The socket.io server of a nested server."""

    def __init__(self) -> None:
        self.sio = socketio.AsyncServer(async_mode="asgi")
        self.connected: list[str] = []
        self.ever = 0
        self.greeting: Callable[[], Awaitable[None]] | None = None
        self.sio.on("connect", self._connect)
        self.sio.on("disconnect", self._disconnect)
        self._server = uvicorn.Server(uvicorn.Config(socketio.ASGIApp(self.sio), port=0, log_config=None))

    async def __aenter__(self) -> NestedServer:
        self._task = asyncio.ensure_future(self._server.serve())
        await until(lambda: self._server.started)
        return self

    async def __aexit__(self, *details: object) -> None:
        self._server.should_exit = True
        await self._task

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _connect(self, sid: str, environ: Any) -> None:
        self.connected.append(sid)
        self.ever += 1
        if self.greeting:
            self._greeted = asyncio.ensure_future(self.greeting())

    async def _disconnect(self, sid: str, *reason: object) -> None:
        self.connected.remove(sid)

    async def drop(self) -> None:
        for sid in list(self.connected):
            await self.sio.disconnect(sid)


@check("a connection to a nested server that breaks loses and repeats nothing, and all clients share it")
class _Reconnection:
    async def ours(bench: Bench) -> bool:
        async with NestedServer() as nested:
            bench.strategy.urls["r"] = nested.url

            async def happen(first: int, last: int) -> None:
                for number in range(first, last):
                    await nested.sio.emit("oh_event", bench.happens("r", number))

            await happen(0, 5)
            await bench.ours.join_conversation("r", "old:-1", init(), None)
            await bench.ours.join_conversation("r", "new:2", init(), None)
            shared = await until(lambda: len(nested.connected) == 1)
            await happen(5, 10)
            for round_ in range(10, 40, 10):
                await nested.drop()
                await happen(round_, round_ + 5)  # nobody listens
                # In the same breath as the connection, so before the client knows of it.
                nested.greeting = lambda first=round_ + 5: happen(first, first + 5)
                await until(lambda: len(nested.connected) == 1)
            await until(lambda: 39 in bench.sio.ids("old:-1") and 39 in bench.sio.ids("new:2"))
            shared = shared and len(nested.connected) == 1 and nested.ever == 4
            for client in ("old:-1", "new:2"):
                await bench.ours.disconnect_from_session(client)
            alone = await until(lambda: not nested.connected)
        return (
            shared
            and alone
            and bench.sio.ids("old:-1") == list(range(40))
            and bench.sio.ids("new:2") == list(range(3, 40))
        )
