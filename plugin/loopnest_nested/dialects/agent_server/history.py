"""The events of a conversation: what happened so far and what happens next, each once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any, Final

from pydantic import JsonValue
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from loopnest import NestedError, Reason
from loopnest_nested.client import NestedServer

_Event = dict[str, JsonValue]

_LARGEST_FRAME: Final = 64 * 1024 * 1024
#: Seconds without any sign of the server, after which it counts as gone.
_PATIENCE: Final = 15.0
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
#: How the server says by closing a socket what it says by a status elsewhere.
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
            async for event in reader.read():
                yield event
        except (OSError, InvalidHandshake, ConnectionClosed, asyncio.TimeoutError, NestedError) as error:
            failure = error
        await reader.recover(failure)


class _Reader:
    """How far the reading has come, over all connections.

    The server's session sockets number the events of a conversation, so a new connection goes on after the last
    number. Older servers have event sockets only: those are connected first, then the past is read, so that nothing
    is missed, and what comes by both ways is given once.
    """

    def __init__(self, server: NestedServer, nested_id: str) -> None:
        self._server, self._nested_id = server, nested_id
        self._sequence, self._last = -1, ""
        self._numbered, self._too_large = True, False
        self._connected, self._heard, self._pause = False, time.monotonic(), _FIRST_PAUSE

    def read(self) -> AsyncIterator[_Event]:
        """Give events over one connection, until it ends."""
        if self._too_large:
            return self._read_one()
        return self._read_numbered() if self._numbered else self._read_published()

    async def recover(self, failure: Exception | None) -> None:
        """Prepare for the next connection.

        Raises:
            NestedError: there is no point in one.
        """
        if isinstance(failure, InvalidStatus) and self._numbered and failure.response.status_code in {403, 404}:
            self._numbered = False
        elif isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.reason == "frame_too_large":
            self._too_large = True
        else:
            self._raise_if_hopeless(failure)
            await asyncio.sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _raise_if_hopeless(self, failure: Exception | None) -> None:
        if isinstance(failure, NestedError) and failure.http_status:
            raise failure
        if isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.code in _HTTP_STATUS:
            raise NestedError(
                f"The nested server gives no events: {failure.rcvd.reason}.",
                http_status=_HTTP_STATUS[failure.rcvd.code],
            ) from failure
        if not self._connected or time.monotonic() - self._heard > _PATIENCE:
            raise NestedError(
                "The nested server can't be reached for its events.", reason=Reason.NESTED_UNREACHABLE
            ) from failure

    async def _read_numbered(self) -> AsyncIterator[_Event]:
        async with self._connection(f"/sockets/session/{self._nested_id}?after_seq={self._sequence}") as socket:
            async for text in socket:
                frame = self._heard_frame(text)
                if frame.get("type") == "durable" and frame["seq"] > self._sequence:
                    self._sequence = frame["seq"]
                    if self._advance(frame["event"]):
                        yield frame["event"]

    async def _read_published(self) -> AsyncIterator[_Event]:
        async with self._connection(f"/sockets/events/{self._nested_id}") as socket:
            first = self._heard_frame(await socket.recv())  # comes once the server has subscribed us
            known = set()
            async for event in past(self._server, self._nested_id, self._last or None):
                known.add(event["id"])
                if self._advance(event):
                    yield event
            async for event in self._frames(first, socket):
                if _kept(event) and event["id"] not in known and self._advance(event):
                    yield event

    async def _frames(self, first: _Event, rest: AsyncIterable[str | bytes]) -> AsyncIterator[_Event]:
        yield first
        async for text in rest:
            yield self._heard_frame(text)

    async def _read_one(self) -> AsyncIterator[_Event]:
        """Read the next event by request, as it is larger than what the server sends over a socket."""
        self._too_large = False
        page = await _page(self._server, self._nested_id, self._last or None, limit=2 if self._last else 1)
        for event in page["items"]:
            if self._advance(event):
                self._sequence += 1
                yield event

    def _advance(self, event: _Event) -> bool:
        """Note that this event was read; whether it is a new one."""
        new = event["id"] != self._last
        self._last = str(event["id"])
        return new

    def _heard_frame(self, text: str | bytes) -> dict[str, Any]:
        self._connected, self._heard, self._pause = True, time.monotonic(), _FIRST_PAUSE
        frame: dict[str, Any] = json.loads(text)
        return frame

    @contextlib.asynccontextmanager
    async def _connection(self, path: str) -> AsyncIterator[ClientConnection]:
        url = f"ws{self._server.url.removeprefix('http')}{path}"
        key = self._server.session_key.get_secret_value()
        async with connect(url, proxy=None, compression=None, max_size=_LARGEST_FRAME) as socket:
            await socket.send(json.dumps({"type": "auth", "session_api_key": key}))
            yield socket


async def _page(server: NestedServer, nested_id: str, page_id: str | None, limit: int = 100) -> dict[str, Any]:
    params = {"limit": limit, **({"page_id": page_id} if page_id else {})}
    page = await server.request("GET", f"/api/conversations/{nested_id}/events/search", params=params)
    if not isinstance(page, dict) or not isinstance(page.get("items"), list):
        raise NestedError("The nested server answered the request for events with something else.")
    return page


def _kept(event: _Event) -> bool:
    return event.get("kind") not in _TRANSIENT and event.get("key") != "full_state"
