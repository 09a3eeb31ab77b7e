from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from loopnest import NestedError
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects.agent_server import AgentServer, history

ID = AgentServer().nested_id("c")


@dataclass
class Log:
    """A conversation's events, and a server of them that loses connections and has limits.

    ``numbered`` is whether it has session sockets; ``drops`` after how many frames it loses a connection; ``largest``
    the longest text that it sends over a socket; ``unreadable`` how many events its search leaves out at the front.
    """

    events: list[dict[str, Any]] = field(default_factory=list)
    numbered: bool = True
    drops: int = 10**9
    largest: int = 10**9
    page: int = 3
    unreadable: int = 0
    connections: list[str] = field(default_factory=list)
    more: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def add(self, *names: str, text: str = "") -> None:
        async with self.more:
            self.events += [{"id": name, "kind": "MessageEvent", "text": text} for name in names]
            self.more.notify_all()

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = urlsplit(request.path)
        if path.path.startswith("/sockets/session") and not self.numbered:
            return connection.respond(403, "")
        if path.path.startswith("/sockets"):
            return None
        readable = [event for event in self.events[self.unreadable :] if event["kind"] == "MessageEvent"]
        page_id = parse_qs(path.query).get("page_id", [""])[0]
        start = next((n for n, event in enumerate(readable) if event["id"] == page_id), 0)
        beyond = readable[start + self.page :]
        page = {"items": readable[start : start + self.page], "next_page_id": beyond[0]["id"] if beyond else None}
        found = ID in path.path
        body = json.dumps(page if found else {"detail": "Not found"}).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"})
        return Response(200 if found else 404, "", headers, body)

    async def talk(self, socket: ServerConnection) -> None:
        path = urlsplit(socket.request.path)  # type: ignore[union-attr]
        self.connections.append(path.path + "?" + path.query)
        if json.loads(await socket.recv()) != {"type": "auth", "session_api_key": "k"}:
            return await socket.close(4001, "Authentication failed")
        if "/session/" in path.path:
            start = int(parse_qs(path.query)["after_seq"][0]) + 1
            await socket.send(json.dumps({"type": "sync"}))
        else:
            start = len(self.events)
            await socket.send(json.dumps({"id": "-", "kind": "ConversationStateUpdateEvent", "key": "full_state"}))
        following = asyncio.ensure_future(self.follow(socket, start, wrapped="/session/" in path.path))
        await socket.wait_closed()
        following.cancel()
        return None

    async def follow(self, socket: ServerConnection, start: int, *, wrapped: bool) -> None:
        for number in range(start, start + self.drops):
            async with self.more:
                await self.more.wait_for(lambda: len(self.events) > number)  # noqa: B023
            event = self.events[number]
            if len(event["text"]) > self.largest:
                return await socket.close(1013, "frame_too_large")
            await socket.send(json.dumps({"type": "durable", "seq": number, "event": event} if wrapped else event))
            if wrapped:
                await socket.send(json.dumps({"type": "delta", "content": "..."}))
        return await socket.close(1012)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def server(log: Log) -> AsyncIterator[NestedServer]:
    async with serve(log.talk, "127.0.0.1", 0, process_request=log.answer) as listener, new_http_client() as http:
        port = listener.sockets[0].getsockname()[1]
        yield NestedServer(f"http://127.0.0.1:{port}", SecretStr("k"), http)


async def first(count: int, server: NestedServer) -> str:
    async with aclosing(history.follow(server, ID)) as events:
        return "".join([str((await anext(events))["id"]) for _ in range(count)])


async def connected(log: Log) -> None:
    while not log.connections:
        await asyncio.sleep(0.01)


async def growing(log: Log, names: str) -> None:
    await connected(log)
    for name in names:
        await log.add(name)
        await asyncio.sleep(0.01)


async def test_the_past_is_read_page_by_page(log, server):
    await log.add(*"abcdefgh")
    events = [event["id"] async for event in AgentServer().events(server, "c", follow=False)]
    assert "".join(events) == "abcdefgh"


@pytest.mark.parametrize("numbered", [True, False])
async def test_following_gives_the_past_and_what_comes_after_it(log, server, numbered):
    log.numbered = numbered
    await log.add(*"abcd")
    adding = asyncio.ensure_future(growing(log, "efgh"))
    assert await first(8, server) == "abcdefgh"
    await adding


@pytest.mark.parametrize("numbered", [True, False])
async def test_nothing_is_missed_or_repeated_where_connections_are_lost(log, server, numbered, monkeypatch):
    monkeypatch.setattr(history, "_FIRST_PAUSE", 0.001)
    log.numbered, log.drops = numbered, 2
    await log.add(*"abc")
    adding = asyncio.ensure_future(growing(log, "defghijkl"))
    assert await first(12, server) == "abcdefghijkl"
    assert log.connections
    await adding


async def test_a_connection_goes_on_after_the_last_number(log, server):
    log.drops = 1
    await log.add(*"ab")
    adding = asyncio.ensure_future(growing(log, "cd"))
    await first(4, server)
    assert [path.partition("=")[2] for path in log.connections][:2] == ["1", "2"]
    await adding


async def test_an_event_that_is_too_large_for_the_socket_is_read_by_request(log, server):
    log.largest = 10
    await log.add("a")
    following = asyncio.ensure_future(first(4, server))
    await connected(log)
    await log.add("b", text="x" * 100)
    await log.add("c", "d")
    assert await asyncio.wait_for(following, 5) == "abcd"


async def test_events_that_the_search_leaves_out_repeat_none_of_the_others(log, server):
    log.unreadable = 2
    await log.add(*"abcdef")
    adding = asyncio.ensure_future(growing(log, "gh"))
    assert await first(6, server) == "cdefgh"
    await adding


async def test_events_that_the_server_does_not_keep_are_left_out(log, server):
    log.numbered = False
    following = asyncio.ensure_future(first(2, server))
    await connected(log)
    async with log.more:
        log.events.append({"id": "s", "kind": "StreamingDeltaEvent", "text": ""})
        log.more.notify_all()
    await log.add("a", "b")
    assert await following == "ab"


@pytest.mark.parametrize("follow", [True, False])
async def test_a_conversation_that_is_not_there_is_an_error_at_once(server, follow):
    with pytest.raises(NestedError) as caught:
        await anext(AgentServer().events(server, "other", follow=follow))
    assert caught.value.http_status == 404


async def test_a_wrong_key_is_an_error_at_once(log, server):
    wrong = NestedServer(server.url, SecretStr("wrong"), server.http)
    with pytest.raises(NestedError) as caught:
        await first(1, wrong)
    assert caught.value.http_status == 401


async def test_a_server_that_was_never_there_is_an_error_at_once():
    async with new_http_client() as http:
        nowhere = NestedServer("http://127.0.0.1:9", SecretStr("k"), http)
        with pytest.raises(NestedError) as caught:
            await first(1, nowhere)
    assert caught.value.reason == "nested-unreachable"


async def test_a_server_that_stays_away_is_an_error_after_a_while(log, monkeypatch):
    monkeypatch.setattr(history, "_PATIENCE", 0.2)
    await log.add("a")
    async with new_http_client() as http:
        async with serve(log.talk, "127.0.0.1", 0, process_request=log.answer) as listener:
            port = listener.sockets[0].getsockname()[1]
            server = NestedServer(f"http://127.0.0.1:{port}", SecretStr("k"), http)
            events = history.follow(server, ID)
            assert (await anext(events))["id"] == "a"
        with pytest.raises(NestedError) as caught:
            await asyncio.wait_for(anext(events), 10)
    assert caught.value.reason == "nested-unreachable"
