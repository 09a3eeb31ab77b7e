"""The host between a real server of its own and nested servers that are doubles: fast, and without OpenHands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from loopnest import (
    Closed,
    Loop,
    LoopManager,
    LoopnestSettings,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    StartLoop,
    hookimpl,
)
from loopnest.models import utcnow
from loopnest_openhands.agent_server import upstream
from loopnest_openhands.agent_server.application import assemble

from ..packages.agent_server_imitation import NEWEST, AgentServer

KEY = "outer-key"
CHUNK = b"x" * 65536


@contextlib.asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[str]:
    """Serve ``app`` on a free port, in this event loop."""
    config = uvicorn.Config(app, port=0, log_level="warning", ws="websockets-sansio", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    task = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


@dataclass
class Nested:
    """All nested servers at once, each below a path of its own; ``requests`` is what reached them.

    ``pages`` has what those answer to a search that answer with something else than their conversations, and searches
    wait for ``may_answer`` with what they found.
    """

    infos: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    frames: list[str] = field(default_factory=list)
    refusal: tuple[int, Any] | None = None
    answer: Any = None
    sent_chunks: int = 0
    idle_time: Any = 3600
    pages: dict[str, bytes] = field(default_factory=dict)
    searched: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event | None = None

    def app(self) -> Starlette:
        one = "/api/conversations/{conversation_id}"
        loop = [
            Route("/server_info", self.server_info),
            Route("/api/bash/execute_bash_command", self.pwd, methods=["POST"]),
            Route("/api/conversations", self.create, methods=["POST"]),
            Route("/api/conversations/search", self.search),
            Route(one, self.get),
            Route(one, self.delete, methods=["DELETE"]),
            Route(one + "/fork", self.fork, methods=["POST"]),
            Route(one + "/agent_final_response", self.final),
            Route(one + "/upload", self.upload, methods=["POST"]),
            Route(one + "/download", self.download),
            Route(one + "/{tail:path}", self.echo, methods=["GET", "POST", "PATCH", "PUT"]),
            WebSocketRoute("/sockets/{kind}/{conversation_id}", self.socket),
        ]
        return Starlette(routes=[Mount("/{loop}", routes=loop)])

    def of(self, request: Request) -> dict[str, dict[str, Any]]:
        self.requests.append(request)
        assert request.headers["x-session-api-key"] == f"nested-{request.path_params['loop']}"
        infos = self.infos.setdefault(request.path_params["loop"], {})
        wanted = request.path_params.get("conversation_id")
        if wanted is not None and wanted not in infos:
            raise HTTPException(404, f"Conversation not found: {wanted}")
        return infos

    async def server_info(self, request: Request) -> Response:
        return JSONResponse({"idle_time": self.idle_time})

    async def pwd(self, request: Request) -> Response:
        self.commands.append((await request.json())["command"])
        return JSONResponse({"stdout": "/workspace/project\n"})

    async def create(self, request: Request) -> Response:
        infos, body = self.of(request), await request.json()
        self.bodies.append(body)
        if self.refusal:
            return JSONResponse(self.answer or {"detail": self.refusal[1]}, self.refusal[0])
        known = body["conversation_id"] in infos
        info = infos.setdefault(body["conversation_id"], new_info(body["conversation_id"]))
        return JSONResponse(info, 200 if known else 201)

    async def search(self, request: Request) -> Response:
        page = {"items": list(self.of(request).values()), "next_page_id": None}
        raw = self.pages.get(request.path_params["loop"])
        self.searched.set()
        if self.may_answer:
            await self.may_answer.wait()
        return JSONResponse(page) if raw is None else Response(raw, media_type="application/json")

    async def get(self, request: Request) -> Response:
        return JSONResponse(self.of(request)[request.path_params["conversation_id"]])

    async def delete(self, request: Request) -> Response:
        return JSONResponse({"success": bool(self.of(request).pop(request.path_params["conversation_id"]))})

    async def fork(self, request: Request) -> Response:
        if self.refusal:
            return JSONResponse({"detail": self.refusal[1]}, self.refusal[0])
        new = new_info((await request.json())["id"])
        self.of(request)[new["id"]] = new
        return JSONResponse(new, 201)

    async def final(self, request: Request) -> Response:
        self.of(request)
        return JSONResponse({"response": f"done in {request.path_params['loop']}"})

    async def upload(self, request: Request) -> Response:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return JSONResponse({"size": size})

    async def download(self, request: Request) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            for _ in range(int(request.query_params["chunks"])):
                if await request.is_disconnected():
                    return
                self.sent_chunks += 1
                yield CHUNK

        return StreamingResponse(chunks())

    async def echo(self, request: Request) -> Response:
        self.of(request)
        body = (await request.body()).decode()
        told = {"method": request.method, "query": request.url.query, "headers": dict(request.headers), "body": body}
        answer = JSONResponse(told)
        more = [("set-cookie", "a=b"), ("x-archive-twice", "1"), ("x-archive-twice", "2")]
        for name, value in [*more, *json.loads(request.headers.get("x-answer-with", "[]"))]:
            answer.headers.append(name, value)
        answer.status_code = int(request.headers.get("x-status", "200"))
        return answer

    async def socket(self, websocket: WebSocket) -> None:
        if websocket.headers["x-session-api-key"] != f"nested-{websocket.path_params['loop']}":
            await websocket.close(4001)
            return
        await websocket.accept()
        await websocket.send_text(json.dumps({"path": websocket.url.path, "query": websocket.url.query}))
        with contextlib.suppress(Exception):
            while (text := await websocket.receive_text()) != "bye":
                self.frames.append(text)
                if text.startswith("flood"):
                    for _ in range(int(text.split()[1])):
                        await websocket.send_text("x" * 65536)
                        self.sent_chunks += 1
                await websocket.send_text(f"echo {text}")
            await websocket.close(4004, "Conversation not found")


def new_info(conversation_id: str, **more: Any) -> dict[str, Any]:
    now = utcnow().isoformat()
    told = {"id": conversation_id, "execution_status": "idle", "created_at": now, "updated_at": now}
    return {**told, "runtime_info": {"runtime_status": "available"}, **more}


@dataclass
class Strategy:
    """Loops that are paths of `Nested`; ``starts`` counts how often each was started.

    Starts fail with ``failure``, or the next one with the first of ``failures``. With ``notes``, loops have these, as
    where another replica made them. To close one waits for ``may_close``.
    """

    base: str
    loops: dict[str, Loop] = field(default_factory=dict)
    starts: list[StartLoop] = field(default_factory=list)
    failure: Exception | None = None
    failures: list[Exception] = field(default_factory=list)
    notes: dict[str, str] | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    may_close: asyncio.Event | None = None

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        if self.failure:
            raise self.failure
        if self.failures:
            raise self.failures.pop(0)
        self.starts.append(request)
        key = request.conversation_id
        loop = Loop(
            conversation_id=key,
            status=LoopStatus.RUNNING,
            dialect="agent-server",
            url=f"{self.base}/{key}",
            session_key=f"nested-{key}",
            notes=request.notes if self.notes is None else self.notes,
            created_at=utcnow(),
        )
        return self.loops.setdefault(key, loop) if key not in self.loops else self._set(key, loop)

    @hookimpl
    async def close_session(self, conversation_id: str, remove: bool) -> Closed:
        self.closing.set()
        if self.may_close:
            await self.may_close.wait()
        if conversation_id not in self.loops:
            raise LoopNotFound(conversation_id)
        if remove:
            del self.loops[conversation_id]
        else:
            self._set(conversation_id, self.stopped(conversation_id))
        return Closed(conversation_id=conversation_id, removed=remove)

    @hookimpl
    def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        return [loop for loop in self.loops.values() if query.matches(loop)]

    @hookimpl
    def send_event(self) -> None:
        raise NotImplementedError

    def stopped(self, conversation_id: str) -> Loop:
        return self.loops[conversation_id].model_copy(update={"status": LoopStatus.STOPPED, "url": None})

    def _set(self, key: str, loop: Loop) -> Loop:
        self.loops[key] = loop
        return loop


@dataclass
class Host:
    """A running outer server, and all that is behind it."""

    url: str
    client: httpx.AsyncClient
    nested: Nested
    strategy: Strategy
    manager: LoopManager

    async def create(self, conversation_id: str, **more: Any) -> httpx.Response:
        return await self.client.post("/api/conversations", json={"conversation_id": conversation_id, **more})


OpenHost = Callable[..., Awaitable[Host]]


@pytest.fixture
def install(monkeypatch) -> Callable[..., AgentServer]:
    """Install the imitation of a release of the agent server, which no variable of the environment configures."""
    monkeypatch.delenv("OH_CONVERSATION_RUNTIME_SELECTABLE", raising=False)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "")  # so that what is set is undone
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP")

    def one(release: str = NEWEST) -> AgentServer:
        server = AgentServer(release)
        monkeypatch.setattr(upstream, "version", lambda name: release)
        for name, module in server.modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        return server

    return one


@pytest.fixture
def agent_server(install) -> AgentServer:
    server: AgentServer = install()
    return server


@pytest.fixture
async def open_host(tmp_path, agent_server) -> AsyncIterator[OpenHost]:
    """Open a host; keywords change the agent server's configuration."""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(*, beside: Host | None = None, state_dir: Path = tmp_path, **configured: Any) -> Host:
            """Open a host, or a replica of the one that it is ``beside``."""
            nested = beside.nested if beside else Nested()
            strategy = beside.strategy if beside else Strategy(await stack.enter_async_context(serving(nested.app())))
            manager = LoopManager.from_plugins(strategy, settings=LoopnestSettings(state_dir=state_dir))
            config = agent_server.config(session_api_keys=[KEY], conversation_idle_ttl_seconds=None)
            stock = upstream.load(config.model_copy(update=configured))
            url = await stack.enter_async_context(serving(assemble(stock, manager)))
            headers = {"x-session-api-key": KEY}
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, timeout=30))
            return Host(url, client, nested, strategy, manager)

        yield open_one


@pytest.fixture
async def host(open_host) -> Host:
    opened: Host = await open_host()
    return opened
