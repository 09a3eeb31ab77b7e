"""Connections to many servers, kept so that one request costs the same however many servers there are."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import httpx

#: Seconds that an unused connection is kept: less than the 5 after which uvicorn closes it, as a request that meets
#: the closing is lost.
KEEPALIVE: Final = 4.0
_Server = tuple[str, str, "int | None"]
#: Events wait in the server for the agent's step, each on a connection, and must not keep an interruption waiting.
_LIMITS: Final = httpx.Limits(max_connections=1000, max_keepalive_connections=20, keepalive_expiry=KEEPALIVE)


@dataclass
class _Pool:
    transport: httpx.AsyncHTTPTransport
    active: int = 0
    retired: bool = False
    used: float = field(default_factory=time.monotonic)

    def is_stale(self, now: float) -> bool:
        return not self.active and now - self.used > KEEPALIVE

    async def release(self) -> None:
        self.active -= 1
        self.used = time.monotonic()
        if self.retired and not self.active:
            await self.transport.aclose()


class PoolPerServer(httpx.AsyncBaseTransport):
    """One small connection pool for each server.

    httpx's pool looks at each of its idle connections, with a system call, at each request: with 100 idle ones a
    request took 8 times as long as with none. Pools that are not in use are closed by later requests to any server.
    """

    def __init__(self) -> None:
        self._pools: dict[_Server, _Pool] = {}
        #: With no authorities in it, as no TLS is spoken over http, and each transport wants one.
        self._none = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authorities: asyncio.Future[ssl.SSLContext] | None = None
        self._swept = time.monotonic()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send over a connection to the request's server."""
        context = await self._trusted() if request.url.scheme == "https" else self._none
        pool = self._pool(request.url, context)
        pool.active += 1
        try:
            await self._sweep()
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            await pool.release()
            raise
        if response.status_code >= 500:
            self._retire(request.url, pool)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Released(response.stream, pool)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            await pool.transport.aclose()

    def _retire(self, url: httpx.URL, pool: _Pool) -> None:
        """Use none of these connections again: after a failure uvicorn closes its own without saying so."""
        pool.retired = True
        if self._pools.get(_server(url)) is pool:
            del self._pools[_server(url)]

    async def _trusted(self) -> ssl.SSLContext:
        """Load the system's authorities, once and on a thread: that takes 50 ms."""
        if self._authorities is None:
            self._authorities = asyncio.ensure_future(asyncio.to_thread(ssl.create_default_context))
        return await asyncio.shield(self._authorities)

    def _pool(self, url: httpx.URL, context: ssl.SSLContext) -> _Pool:
        server = _server(url)
        if server not in self._pools:
            transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=_LIMITS)
            self._pools[server] = _Pool(transport)
        return self._pools[server]

    async def _sweep(self) -> None:
        now = time.monotonic()
        if now - self._swept < KEEPALIVE:
            return
        self._swept = now
        for server in [server for server, pool in self._pools.items() if pool.is_stale(now)]:
            if (pool := self._pools.get(server)) and pool.is_stale(now):
                del self._pools[server]
                await pool.transport.aclose()


def _server(url: httpx.URL) -> _Server:
    return url.scheme, url.host, url.port


class _Released(httpx.AsyncByteStream):
    """A response's body that gives its connection back once."""

    def __init__(self, body: httpx.AsyncByteStream, pool: _Pool) -> None:
        self._body, self._pool, self._open = body, pool, True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()
        if self._open:
            self._open = False
            await self._pool.release()
