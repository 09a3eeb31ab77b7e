"""A strategy whose loops are one HTTP server in this process that speaks as much of ``openhands-v0`` as hosts use."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from http.server import ThreadingHTTPServer
from typing import Any

from json_answers import JsonAnswers
from pydantic import SecretStr

from loopnest import (
    Closed,
    Delivery,
    Event,
    Loop,
    LoopFailed,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
)


class Stub(ThreadingHTTPServer):
    """Remembers what it was told; `hung` makes it take a request and say nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.hung = False
        self.status = "RUNNING"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(JsonAnswers):
    server: Stub

    def do_GET(self) -> None:
        if self.server.hung:
            threading.Event().wait(20)
        told = {"status": self.server.status, "runtime_status": "STATUS$READY"}
        # An agent that has done so much that its last change of state is far back.
        self.answer({"events": [], "has_more": True} if "/events" in self.path else told)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.server.told.append((self.path, body))
        if self.path.endswith("/start"):
            self.server.status = "RUNNING"
        self.answer({"status": "ok"})


class PretendV0:
    """Remembers the requests it had; a start with the message ``fail`` fails."""

    current: PretendV0

    def __init__(self) -> None:
        PretendV0.current = self
        self.stub = Stub()
        self.loops: dict[str, Loop] = {}
        self.requests: list[StartLoop] = []
        self.closed: list[str] = []
        self.urls: dict[str, str] = {}

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        self.requests.append(request)
        if (first := request.conversation.initial_message) and first.text == "fail":
            raise LoopFailed("The image is gone.", reason=Reason.IMAGE_MISSING)
        self.loops[request.conversation_id] = Loop(
            conversation_id=request.conversation_id,
            owner=request.owner,
            status=LoopStatus.RUNNING,
            url=self.urls.get(request.conversation_id, self.stub.url),
            session_key=SecretStr(f"key of {request.conversation_id}"),
        )
        return self.loops[request.conversation_id]

    @hookimpl
    def close_session(self, conversation_id: str, remove: bool) -> Closed:
        if conversation_id not in self.loops:
            raise LoopNotFound(conversation_id)
        self.closed.append(conversation_id)
        stopped = {"status": LoopStatus.STOPPED, "url": None, "session_key": None}
        self.loops[conversation_id] = self.loops[conversation_id].model_copy(update=stopped)
        if remove:
            del self.loops[conversation_id]
        return Closed(conversation_id=conversation_id, graceful=True, removed=remove)

    @hookimpl
    def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        return [loop for loop in self.loops.values() if query.matches(loop)]

    @hookimpl
    def send_event(self, conversation_id: str, event: Event) -> Delivery:
        self.stub.told.append((conversation_id, event.model_dump()))
        return Delivery(conversation_id=conversation_id)
