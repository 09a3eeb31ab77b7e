"""Join a client's WebSocket with a nested server's, with back-pressure both ways."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any, Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from loopnest import NestedError, Reason
from loopnest_nested.client import MAX_ANSWER, NestedServer
from loopnest_openhands.agent_server.auth import KEY_HEADER, close, is_auth_frame

#: "Service restart" and "try again later": clients connect again, from the last sequence number they have.
RESTARTED: Final = 1012
TRY_AGAIN: Final = 1013
#: Codes that are said about a connection, and never in one.
_UNSAYABLE: Final = frozenset({1005, 1006, 1015})
#: Newer versions take proxies from the environment, and nested servers are near.
NO_PROXY: Final[dict[str, Any]] = {"proxy": None} if "proxy" in inspect.signature(connect.__init__).parameters else {}


async def bridge(client: WebSocket, server: NestedServer, path: str) -> None:
    """Pass frames on both ways until one side closes, and close the other with the same code.

    Args:
        client: accepted already.

    Raises:
        NestedError: the nested server did not open the socket.
    """
    nested = await _open(server, path)
    upward = asyncio.ensure_future(_upward(client, nested))
    downward = asyncio.ensure_future(_downward(client, nested))
    try:
        await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (upward, downward):
            task.cancel()
        await asyncio.gather(upward, downward, return_exceptions=True)
        await nested.close()
    if client.application_state is WebSocketState.CONNECTED:
        await close(client, *_farewell(nested))


async def _open(server: NestedServer, path: str) -> ClientConnection:
    url = "ws" + server.url.removeprefix("http") + path
    key = {KEY_HEADER: server.session_key.get_secret_value()}
    try:
        # One frame may be a whole event; four of them wait here at most while the client is slow.
        return await connect(
            url, additional_headers=key, max_size=MAX_ANSWER, max_queue=4, compression=None, ping_timeout=60, **NO_PROXY
        )
    except (OSError, WebSocketException, asyncio.TimeoutError) as error:
        raise NestedError(
            f"The nested server did not open the socket ({type(error).__name__}).", reason=Reason.NESTED_UNREACHABLE
        ) from error


async def _upward(client: WebSocket, nested: ClientConnection) -> None:
    try:
        while (message := await client.receive())["type"] != "websocket.disconnect":
            text = message.get("text")
            if text is None:
                await nested.send(message["bytes"])
            elif not is_auth_frame(text):
                await nested.send(text)
    except ConnectionClosed:
        return


async def _downward(client: WebSocket, nested: ClientConnection) -> None:
    try:
        async for message in nested:
            if isinstance(message, str):
                await client.send_text(message)
            else:
                await client.send_bytes(message)
    except (WebSocketDisconnect, ConnectionClosed, RuntimeError):
        return  # RuntimeError is how Starlette says that the client's socket is closed


def _farewell(nested: ClientConnection) -> tuple[int, str]:
    code = nested.protocol.close_code  # websockets 13 has it nowhere else
    if code is None or code in _UNSAYABLE:
        return RESTARTED, "The loop stopped"
    return code, nested.protocol.close_reason or ""
