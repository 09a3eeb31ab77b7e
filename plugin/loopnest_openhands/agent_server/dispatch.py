"""Which requests are about loops: those go to `Routes`, all others to the stock application."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from loopnest import LoopnestError, LoopNotFound
from loopnest_openhands.agent_server import auth, gateway
from loopnest_openhands.agent_server.conversations import Conversations
from loopnest_openhands.agent_server.errors import as_response
from loopnest_openhands.agent_server.http_proxy import keyless
from loopnest_openhands.agent_server.local import LocalConversations
from loopnest_openhands.agent_server.routes import Routes
from loopnest_openhands.agent_server.socket_proxy import TRY_AGAIN, bridge
from loopnest_openhands.agent_server.upstream import Stock

_ONE: Final = re.compile(r"/api/conversations/([^/]+)(/.*)?")
_TRAJECTORY: Final = re.compile(r"/api/file/download-trajectory/([^/]+)")
_SOCKET: Final = re.compile(r"/sockets/(?:events|session)/([^/]+)")
#: A close code of the agent server's: its client does not try again.
_NOT_FOUND: Final = 4004
Handler = Callable[[Request], Awaitable[ASGIApp]]


class Dispatch:
    """Middleware of the stock application, inside of its CORS."""

    def __init__(self, app: ASGIApp, stock: Stock, conversations: Conversations) -> None:
        self._app, self._stock, self._conversations = app, stock, conversations
        self._local = LocalConversations(app, stock) if stock.local else None
        if self._local:
            conversations.claims.local = self._local.ids
        self._routes = Routes(stock, conversations, self._local)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or socket."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if scope["type"] == "http" and _climbs(path):
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)
        elif scope["type"] == "websocket" and (match := _SOCKET.fullmatch(path)) and _is_uuid(match[1]):
            await self._socket(scope, receive, send, path, UUID(match[1]))
        elif scope["type"] == "http" and (handler := self._handler(scope["method"], path)):
            await self._answer(handler, path, scope, receive, send)
        elif scope["type"] == "http" and gateway.is_gateways(scope):
            await self._gateway(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _handler(self, method: str, path: str) -> Handler | None:
        """Whose request it is; ids that are no UUIDs are the stock application's to refuse."""
        if path == "/api/conversations":
            return {"GET": self._routes.batch, "POST": self._routes.create}.get(method)
        if method == "GET" and path == "/api/conversations/search":
            return self._routes.search
        if method == "GET" and path == "/api/conversations/count":
            return self._routes.count
        match = _ONE.fullmatch(path) or _TRAJECTORY.fullmatch(path)
        if match is None or not _is_uuid(match[1]):
            return None
        tail = (match[2] or "") if match.re is _ONE else None
        return lambda request: self._of_one(method, tail)(request, UUID(match[1]))

    def _of_one(self, method: str, tail: str | None) -> Callable[[Request, UUID], Awaitable[ASGIApp]]:
        special = {
            ("GET", ""): self._routes.get,
            ("DELETE", ""): self._routes.delete,
            ("GET", "/runtime"): self._routes.runtime,
            ("DELETE", "/runtime"): self._routes.runtime,
            ("POST", "/runtime/reprovision"): self._routes.reprovision,
            ("POST", "/runtime/credentials"): self._routes.credentials,
            ("POST", "/secrets"): self._routes.secrets,
            ("POST", "/switch_profile"): self._routes.switch_profile,
            ("POST", "/fork"): self._routes.derive,
            ("POST", "/children"): self._routes.derive,
        }
        return special.get((method, tail or ""), self._routes.proxy) if tail is not None else self._routes.proxy

    async def _answer(self, handler: Handler, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        frames = bool(re.match(r"/api/conversations/[^/]+/workspace(/|$)", path)) and scope["method"] in ("GET", "HEAD")
        if not auth.may(request, self._stock.session_keys, cookie=frames):
            await JSONResponse({"detail": "Unauthorized"}, 401)(scope, receive, send)
            return
        try:
            answer = await handler(request)
        except ClientDisconnect:
            return
        except LoopNotFound as error:
            answer = self._app if self._local else as_response(error)
        except LoopnestError as error:
            answer = as_response(error)
        await answer(scope, receive, send)

    async def _gateway(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave it to the stock application, which asks `Gateway` for conversations and does not know our errors."""
        try:
            await self._app(scope, receive, send)
        except LoopnestError as error:
            await as_response(error)(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send, path: str, conversation_id: UUID) -> None:
        if self._local and await self._conversations.find(conversation_id) is None:
            await self._app(scope, receive, send)
            return
        websocket = WebSocket(scope, receive, send)
        if not await auth.accept(websocket, self._stock.session_keys):
            return
        try:
            async with self._conversations.open(conversation_id) as server:
                query = keyless(websocket.url.query, self._stock.session_keys)
                await bridge(websocket, server, f"{path}?{query}" if query else path)
        except LoopNotFound:
            await auth.close(websocket, _NOT_FOUND, "Conversation not found")
        except LoopnestError as error:
            await auth.close(websocket, TRY_AGAIN, error.message[:100])


def _climbs(path: str) -> bool:
    """Whether a path has dot segments: a nested server could resolve them to a route that was not checked here."""
    return not {".", ".."}.isdisjoint(path.split("/"))


def _is_uuid(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False
