"""The host's socket.io and the nested servers': what happens in a container reaches the host's clients.

One connection to a nested server serves all clients of its conversation. It delivers new events; earlier ones come
from the store. A client gets every stored event once: whenever the connection is made, and whenever a client joins,
what the store has beyond what the client was sent is sent, and what arrives meanwhile waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
import socketio

from loopnest import Loop, LoopChange, LoopnestError, LoopStatus
from loopnest_openhands.legacy.history import Progress, unsent
from loopnest_openhands.legacy.host import Host

_log = logging.getLogger(__name__)
#: Seconds between looks for loops that other replicas start; those of this one are published.
_LOOK_AGAIN: Final = 5
#: Seconds until a connection that ended is made again.
_AGAIN: Final = 0.5
_CONNECT_TIMEOUT: Final = 15
#: Beyond every event: the nested server replays nothing, as the store has it.
_NO_REPLAY: Final = 2**53

Find = Callable[[str], Awaitable[Loop]]


class Client:
    """One client of the host's socket.io, in one conversation."""

    def __init__(self, relay: Relay, connection_id: str, latest_event_id: int) -> None:
        self._relay, self._connection_id = relay, connection_id
        self._progress = Progress(latest_event_id)
        self._inbox: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run())

    def send(self, data: dict[str, Any]) -> None:
        """Send an event of the nested server, unless the client has it; one without an id is always sent."""
        self._inbox.put_nowait(data)

    def catch_up(self) -> None:
        """Send the events of the store that the client lacks, before any later one."""
        self._inbox.put_nowait(None)

    def close(self) -> None:
        """Send nothing more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            data = await self._inbox.get()
            try:
                if data is None:
                    await self._replay()
                elif self._is_new(data):
                    await self._emit(data)
            except Exception:  # noqa: BLE001 - the next event is sent all the same
                _log.exception("Connection %s was not sent an event", self._connection_id)

    async def _replay(self) -> None:
        relay = self._relay
        async for data in unsent(relay.host, relay.conversation_id, relay.user_id, self._progress):
            await self._emit(data)

    def _is_new(self, data: dict[str, Any]) -> bool:
        event_id = data.get("id")
        return not isinstance(event_id, int) or event_id < 0 or self._progress.first(event_id)

    async def _emit(self, data: dict[str, Any]) -> None:
        await self._relay.host.sio.emit("oh_event", data, to=self._connection_id)


class Relay:
    """Connects the clients of one conversation with its nested server, for as long as there are any."""

    def __init__(self, host: Host, find: Find, conversation_id: str, user_id: str | None) -> None:
        self.host, self.conversation_id, self.user_id = host, conversation_id, user_id
        self.clients: dict[str, Client] = {}
        self._find = find
        self._changed = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    def add(self, connection_id: str, latest_event_id: int) -> None:
        """Send the client what was after ``latest_event_id``, then all that comes."""
        client = self.clients[connection_id] = Client(self, connection_id, latest_event_id)
        client.catch_up()

    def remove(self, connection_id: str) -> None:
        """Send the client nothing more."""
        if client := self.clients.pop(connection_id, None):
            client.close()

    async def aclose(self) -> None:
        """Disconnect from the nested server."""
        for client in self.clients.values():
            client.close()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def changed(self, change: LoopChange) -> None:
        """Note that the loop changed, and send the clients its status."""
        self._changed.set()
        if data := _status_update(change):
            self._publish(data)

    def _publish(self, data: dict[str, Any]) -> None:
        for client in self.clients.values():
            client.send(data)

    async def _run(self) -> None:
        while True:
            loop = await self._running()
            self._changed.clear()
            try:
                await self._follow(loop)
            except (socketio.exceptions.SocketIOError, OSError, asyncio.TimeoutError) as error:
                _log.info("No connection to the nested server of %s: %s", self.conversation_id, type(error).__name__)
            await self._change(_AGAIN)

    async def _running(self) -> Loop:
        """Wait for the loop to run; to connect earlier would make the nested server create a conversation itself."""
        while True:
            self._changed.clear()
            with contextlib.suppress(LoopnestError):
                loop = await self._find(self.conversation_id)
                if loop.status is LoopStatus.RUNNING and loop.url and loop.session_key:
                    return loop
            await self._change()

    async def _change(self, limit: float = _LOOK_AGAIN) -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), limit)

    async def _follow(self, loop: Loop) -> None:
        """Take in what the nested server says until the connection ends."""
        query = {
            "conversation_id": self.conversation_id,
            "latest_event_id": _NO_REPLAY,
            "session_api_key": loop.session_key.get_secret_value() if loop.session_key else "",
        }
        async with aiohttp.ClientSession() as session:
            upstream = socketio.AsyncClient(reconnection=False, http_session=session)
            early: list[dict[str, Any]] = []  # events from before the clients caught up, which comes first
            upstream.on("oh_event", early.append)
            try:
                url = f"{loop.url}?{urlencode(query)}"
                await upstream.connect(url, transports=["websocket"], wait_timeout=_CONNECT_TIMEOUT)
                for client in self.clients.values():
                    client.catch_up()  # we are in the room: an event that is stored by now was missed, or comes twice
                upstream.on("oh_event", self._publish)
                for data in early:
                    self._publish(data)
                await upstream.wait()
            finally:
                await upstream.shutdown()


class Relays:
    """All conversations that clients of this host process are in."""

    def __init__(self, host: Host, find: Find) -> None:
        self._host, self._find = host, find
        self._relays: dict[str, Relay] = {}
        self._conversations: dict[str, str] = {}

    def connections(self) -> dict[str, str]:
        """The conversation of each connection."""
        return dict(self._conversations)

    def join(self, connection_id: str, conversation_id: str, user_id: str | None, latest: int) -> None:
        """Let a connection take part; it has the events up to ``latest`` already."""
        relay = self._relays.get(conversation_id)
        if relay is None:
            relay = self._relays[conversation_id] = Relay(self._host, self._find, conversation_id, user_id)
        self._conversations[connection_id] = conversation_id
        relay.add(connection_id, latest)

    async def leave(self, connection_id: str) -> None:
        """Forget a connection; the last one of a conversation ends the connection to its nested server."""
        relay = self._relays.get(self._conversations.pop(connection_id, ""))
        if relay is None:
            return
        relay.remove(connection_id)
        if not relay.clients:
            del self._relays[relay.conversation_id]
            await relay.aclose()

    def members(self, conversation_id: str) -> list[str]:
        """The connections that are in a conversation."""
        return [connection for connection, joined in self._conversations.items() if joined == conversation_id]

    def changed(self, change: LoopChange) -> None:
        """Pass on that a loop changed."""
        if relay := self._relays.get(change.conversation_id):
            relay.changed(change)

    async def aclose(self) -> None:
        """End them all."""
        relays, self._relays = list(self._relays.values()), {}
        self._conversations.clear()
        await asyncio.gather(*(relay.aclose() for relay in relays))


def _status_update(change: LoopChange) -> dict[str, Any] | None:
    """What a host says to its clients of a change of the loop; None where they need not know."""
    if change.status is LoopStatus.FAILED:
        words = f"{change.loop.message or 'The loop failed.'} ({change.loop.reason})"
        return {"status_update": True, "type": "error", "id": "STATUS$ERROR", "message": words}
    if change.status is LoopStatus.STARTING:
        words = change.loop.message or change.phase
        return {"status_update": True, "type": "info", "id": "STATUS$STARTING_RUNTIME", "message": words}
    return None
