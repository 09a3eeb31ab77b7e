from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest

from loopnest_nested import pools
from loopnest_nested.client import new_http_client


@dataclass
class Listener:
    """Answers every request, and counts connections."""

    status: int = 200
    headers: str = ""
    port: int = 0
    connections: int = 0
    requests: list[str] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
                writer.write(f"HTTP/1.1 {self.status} X\r\n{self.headers}Content-Length: 2\r\n\r\nok".encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended.set()
        finally:
            writer.close()


@asynccontextmanager
async def listening(**facts: object) -> AsyncIterator[Listener]:
    listener = Listener(**facts)  # type: ignore[arg-type]
    async with await asyncio.start_server(listener.talk, "127.0.0.1", 0) as server:
        listener.port = server.sockets[0].getsockname()[1]
        yield listener


async def test_connections_are_used_again():
    async with listening() as one, listening() as other, new_http_client() as http:
        for listener in (one, other, one, other):
            assert (await http.get(listener.url)).text == "ok"
        assert (one.connections, other.connections) == (1, 1)
        await http.aclose()
        await asyncio.gather(one.ended.wait(), other.ended.wait())


async def test_connections_that_nobody_uses_are_closed(monkeypatch):
    monkeypatch.setattr(pools, "KEEPALIVE", 0.0)
    async with listening() as idle, listening() as used, new_http_client() as http:
        await http.get(idle.url)
        await http.get(used.url)
        await http.get(used.url)
        await asyncio.wait_for(idle.ended.wait(), 5)
        await http.aclose()
        await used.ended.wait()


async def test_an_answer_that_is_being_read_keeps_its_connection(monkeypatch):
    monkeypatch.setattr(pools, "KEEPALIVE", 0.0)
    async with listening() as slow, listening() as other, new_http_client() as http:
        async with http.stream("GET", slow.url) as answer:
            await http.get(other.url)
            await http.get(other.url)
            assert await answer.aread() == b"ok"
        await http.aclose()
        await asyncio.gather(slow.ended.wait(), other.ended.wait())


async def test_after_a_failure_a_new_connection_is_made():
    async with listening(status=500) as failing, new_http_client() as http:
        await asyncio.gather(http.get(failing.url), http.get(failing.url))
        await asyncio.wait_for(failing.ended.wait(), 5)
        await http.get(failing.url)
        assert failing.connections == 3
        await http.aclose()


async def test_cookies_are_not_kept_as_other_servers_would_get_them():
    async with listening(headers="Set-Cookie: a=b; Path=/\r\n") as one, listening() as other, new_http_client() as http:
        await http.get(one.url)
        await http.get(other.url)
        await http.get(one.url)
        assert not any("cookie" in request.lower() for request in [*other.requests, *one.requests])
        await http.aclose()
        await asyncio.gather(one.ended.wait(), other.ended.wait())


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with listening() as direct, new_http_client() as http:
        assert (await http.get(direct.url)).status_code == httpx.codes.OK
        await http.aclose()
        await direct.ended.wait()


async def test_a_redirect_is_an_answer_like_any_other():
    async with listening(status=307, headers="Location: /elsewhere\r\n") as one, new_http_client() as http:
        assert (await http.get(one.url, follow_redirects=True)).status_code == 307
        assert len(one.requests) == 1
        await http.aclose()
        await one.ended.wait()


async def test_a_request_looks_for_no_module_on_the_disk(monkeypatch):
    async with listening() as one, new_http_client() as http:
        await http.get(one.url)
        missing: list[str] = []

        class Finder:
            find_spec = staticmethod(lambda name, *_: missing.append(name))

        monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
        await http.get(one.url)
        assert missing == []
        await http.aclose()
        await one.ended.wait()


async def test_a_closed_client_opens_no_connection():
    http = new_http_client()
    await http.aclose()
    async with listening() as one:
        with pytest.raises(RuntimeError, match="closed"):
            await http.get(one.url)
        assert one.connections == 0
