"""The outer server's own keys guard the outer API, in every way that the agent server takes them."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterable, Sequence
from typing import Any, Final

from starlette.requests import HTTPConnection, Request
from starlette.websockets import WebSocket, WebSocketDisconnect

KEY_HEADER: Final = "x-session-api-key"
_KEY_QUERY: Final = "session_api_key"
#: Lets frames and images of a browser load files of a workspace, and nothing else.
_WORKSPACE_COOKIE: Final = "oh_workspace_session_key"
#: Seconds until the first frame of a socket that came without a key.
_FIRST_FRAME: Final = 10.0
_UNAUTHORIZED: Final = 4001


def may(request: Request, keys: Sequence[str], *, cookie: bool = False) -> bool:
    """Whether the request shows one of ``keys``.

    Args:
        cookie: the workspace cookie counts too.
    """
    shown = [request.headers.get(KEY_HEADER)]
    if cookie:
        shown.append(request.cookies.get(_WORKSPACE_COOKIE))
    return not keys or _is_known(shown, keys)


async def accept(websocket: WebSocket, keys: Sequence[str]) -> bool:
    """Accept the socket if it shows one of ``keys``, by header, query or first frame; close it otherwise."""
    shown = _key_of(websocket)
    if not keys or shown is None or _is_known([shown], keys):
        await websocket.accept()
        if not keys or shown is not None or _is_known([await _first_frame(websocket)], keys):
            return True
    await close(websocket, _UNAUTHORIZED, "Authentication failed")
    return False


def is_auth_frame(text: str) -> bool:
    """Whether a client shows its key in this frame, which therefore must not go on to the nested server."""
    return "session_api_key" in text and _auth_key(text) is not None


async def close(websocket: WebSocket, code: int, reason: str) -> None:
    """Close a socket that may be closed already."""
    try:
        await websocket.close(code, reason)
    except (RuntimeError, WebSocketDisconnect):
        return


def _key_of(connection: HTTPConnection) -> str | None:
    key: str | None = connection.query_params.get(_KEY_QUERY, connection.headers.get(KEY_HEADER))
    return key


async def _first_frame(websocket: WebSocket) -> str | None:
    try:
        return _auth_key(await asyncio.wait_for(websocket.receive_text(), _FIRST_FRAME))
    except (asyncio.TimeoutError, WebSocketDisconnect, KeyError):
        return None


def _auth_key(text: str) -> str | None:
    try:
        frame: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_auth = isinstance(frame, dict) and frame.get("type") == "auth"
    return str(frame.get("session_api_key") or "") if is_auth else None


def _is_known(shown: Iterable[str | None], keys: Sequence[str]) -> bool:
    """In constant time, so that a key can't be guessed letter by letter."""
    given = [one.encode(errors="surrogatepass") for one in shown if one]
    return any(secrets.compare_digest(one, key.encode()) for one in given for key in keys)
