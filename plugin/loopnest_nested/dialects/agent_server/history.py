"""The events of a conversation: what happened so far and what happens next, each once."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

from pydantic import JsonValue
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from loopnest import NestedError, Reason
from loopnest_nested.client import MAX_ANSWER, NestedServer

_Event = dict[str, JsonValue]

#: Seconds for which a lost server is looked for: as long as one may need to be started again on a busy machine.
_PATIENCE: Final = 60.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
#: The HTTP statuses that have the meaning of the codes with which the server closes a socket.
_HTTP_STATUS: Final = {4001: 401, 4004: 404}
#: Published but not kept by the server, so a reader who comes later never sees them.
_TRANSIENT: Final = {"StreamingDeltaEvent", "ServerErrorEvent"}


async def past(server: NestedServer, nested_id: str, after: str | None = None) -> AsyncIterator[_Event]:
    """Give what happened so far, oldest first; after the event with the id ``after``, where one is given.

    Raises:
        NestedError: the server has no such conversation, or can't be asked.
    """
    page_id = after
    while True:
        page = await _page(server, nested_id, page_id)
        for event in page["items"]:
            if event["id"] != after:
                yield event
        page_id = page.get("next_page_id")
        if not page_id:
            return


async def follow(server: NestedServer, nested_id: str) -> AsyncIterator[_Event]:
    """Give what happened so far and what happens next, over as many connections as it takes.

    Raises:
        NestedError: the server has no such conversation, or is gone.
    """
    reader = _Reader(server, nested_id)
    while True:
        failure: Exception | None = None
        try:
            async with aclosing(reader.read()) as events:  # else the connection stays open until it is collected
                async for event in events:
                    yield event
        except (OSError, InvalidHandshake, ConnectionClosed, asyncio.TimeoutError, NestedError) as error:
            failure = error
        except (ValueError, KeyError, TypeError) as error:
            raise NestedError("The nested server sent an event that can't be read.") from error
        await reader.recover(failure)


class _Reader:
    """How far the reading has come, over all connections.

    What happened so far is read by requests: a socket sends nothing until the agent has ended its step, and drops
    events of more than 4 MB. The server's session sockets number the events, so a connection goes on after the last
    number. Older servers have event sockets only: there the past is read once more when the socket is connected, and
    what comes by both ways is given once.
    """

    def __init__(self, server: NestedServer, nested_id: str) -> None:
        self._server, self._nested_id = server, nested_id
        self._sequence = -1
        self._recent: deque[str] = deque(maxlen=200)
        self._behind, self._numbered = True, True
        self._connected, self._pause = False, _FIRST_PAUSE
        self._lost: float | None = None

    async def read(self) -> AsyncGenerator[_Event, None]:
        """Give events over one connection, until it ends."""
        if self._behind:
            async for event in self._catch_up():
                yield event
            self._behind = False
        async with aclosing(self._read_numbered() if self._numbered else self._read_published()) as events:
            async for event in events:
                yield event

    async def recover(self, failure: Exception | None) -> None:
        """Prepare for the next connection.

        Raises:
            NestedError: there is no point in one.
        """
        if isinstance(failure, InvalidStatus) and self._numbered and failure.response.status_code in {403, 404}:
            self._numbered = False
            return
        self._raise_if_hopeless(failure)
        self._behind = isinstance(failure, ConnectionClosed) and _close_of(failure) == (1013, "frame_too_large")
        await asyncio.sleep(self._pause)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _raise_if_hopeless(self, failure: Exception | None) -> None:
        if isinstance(failure, NestedError) and failure.http_status:
            raise failure
        if status := _status_of(failure):
            raise NestedError(
                f"The nested server gives no events of this conversation ({status}).", http_status=status
            ) from failure
        self._lost = self._lost or time.monotonic()
        if not self._connected or time.monotonic() - self._lost > _PATIENCE:
            raise NestedError(
                "The nested server can't be reached for its events.", reason=Reason.NESTED_UNREACHABLE
            ) from failure

    async def _catch_up(self) -> AsyncGenerator[_Event, None]:
        last = self._recent[-1] if self._recent else None
        async for event in past(self._server, self._nested_id, last):
            self._note_connected()
            self._sequence += 1
            if self._is_new(event):
                yield event

    async def _read_numbered(self) -> AsyncGenerator[_Event, None]:
        async with self._connection(f"/sockets/session/{self._nested_id}?after_seq={self._sequence}") as socket:
            async for text in socket:
                frame = self._frame(text)
                if frame.get("type") == "durable" and frame["seq"] > self._sequence:
                    self._sequence = frame["seq"]
                    if self._is_new(frame["event"]):
                        yield frame["event"]

    async def _read_published(self) -> AsyncGenerator[_Event, None]:
        async with self._connection(f"/sockets/events/{self._nested_id}") as socket:
            event = self._frame(await socket.recv())  # comes once the server has subscribed us
            async for missed in self._catch_up():
                yield missed
            while True:
                if _kept(event) and self._is_new(event):
                    yield event
                event = self._frame(await socket.recv())

    def _is_new(self, event: _Event) -> bool:
        """Note that this event was read; whether for the first time."""
        name = str(event["id"])
        if name in self._recent:
            return False
        self._recent.append(name)
        return True

    def _note_connected(self) -> None:
        self._connected, self._lost, self._pause = True, None, _FIRST_PAUSE

    def _frame(self, text: str | bytes) -> dict[str, Any]:
        self._note_connected()
        frame: dict[str, Any] = json.loads(text)
        return frame

    @asynccontextmanager
    async def _connection(self, path: str) -> AsyncIterator[ClientConnection]:
        url = f"ws{self._server.url.removeprefix('http')}{path}"
        key = self._server.session_key.get_secret_value()
        async with connect(url, proxy=None, compression=None, max_size=MAX_ANSWER) as socket:
            await socket.send(json.dumps({"type": "auth", "session_api_key": key}))
            yield socket


def _close_of(failure: ConnectionClosed) -> tuple[int, str]:
    return (failure.rcvd.code, failure.rcvd.reason) if failure.rcvd else (0, "")


def _status_of(failure: Exception | None) -> int | None:
    """The HTTP status of a refusal, where it is one."""
    if isinstance(failure, ConnectionClosed):
        return _HTTP_STATUS.get(_close_of(failure)[0])
    if isinstance(failure, InvalidStatus) and failure.response.status_code < 500:
        return failure.response.status_code
    return None


async def _page(server: NestedServer, nested_id: str, page_id: str | None) -> dict[str, Any]:
    params = {"limit": 100, **({"page_id": page_id} if page_id else {})}
    page = await server.request("GET", f"/api/conversations/{nested_id}/events/search", params=params)
    if not isinstance(page, dict) or not isinstance(page.get("items"), list):
        raise NestedError("The nested server answered the request for events with something else.")
    return page


def _kept(event: _Event) -> bool:
    return event.get("kind") not in _TRANSIENT and event.get("key") != "full_state"
