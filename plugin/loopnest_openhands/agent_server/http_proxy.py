"""Pass a request on to a nested server, and its answer back, as streams."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Sequence
from typing import Final
from urllib.parse import parse_qsl, urlencode

import httpx
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from loopnest import NestedError, Reason
from loopnest_nested.client import NestedServer
from loopnest_openhands.agent_server.auth import KEY_HEADER

#: For one connection (RFC 9110), or the business of either server, or a key: these end here.
_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
_NOT_SENT: Final = _HOP | {"host", "authorization", "cookie", "referer", KEY_HEADER, "content-length", "expect"}
#: What a nested server may say about its answer. All else is for the host's own origin to decide: cookies, CORS, where
#: the client goes next, what it stores.
_RETURNED: Final = frozenset(
    {"accept-ranges", "allow", "cache-control", "content-disposition", "content-encoding", "content-language"}
    | {"content-length", "content-range", "content-type", "etag", "expires", "last-modified", "retry-after", "vary"}
    | {"x-accel-buffering", "x-content-type-options"}
)
#: Of the agent server's own headers: how a workspace's archive was made, and which conversation answered.
_RETURNED_PREFIXES: Final = ("x-archive-", "x-openhands-")
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_KEYS: Final = frozenset({"session_api_key", KEY_HEADER, "authorization"})
#: An answer may take as long as the agent does; a nested server that takes nothing for this long is stuck (seconds).
_TIMEOUT: Final = httpx.Timeout(None, connect=3, write=120, pool=30)
#: What separates words in headers and parameters.
_BETWEEN: Final = re.compile(r"[\s,;:=&?\"']+")
_Headers = list[tuple[bytes, bytes]]


class Relay:
    """The answer of a nested server on its way to the client.

    Args:
        held: closed once the answer is through, or the client has gone away.
    """

    def __init__(self, answer: httpx.Response, held: contextlib.AsyncExitStack) -> None:
        self.answer, self._held = answer, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI
        """Send it."""
        async with self._held:
            sending, leaving = asyncio.ensure_future(self._send(send)), asyncio.ensure_future(_gone(receive))
            try:
                await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    sending.result()
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        headers = [(k.lower(), v) for k, v in self.answer.headers.raw if _is_returned(k.decode().lower())]
        await send({"type": "http.response.start", "status": self.answer.status_code, "headers": headers})
        async for chunk in self.answer.aiter_raw():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def forward(
    request: Request,
    server: NestedServer,
    held: contextlib.AsyncExitStack,
    *,
    path: str | None = None,
    body: bytes | None = None,
    keys: Sequence[str] = (),
) -> Relay:
    """Send ``request`` to ``server``, and return the answer once its headers are there.

    Args:
        held: what lasts until the answer is through.
        path, body: instead of the request's own.
        keys: of the outer server, which reach no nested one in any header or parameter.

    Raises:
        NestedError: ``nested-unreachable`` before anything was sent or answered, else ``nested-timeout``;
            ``nested-refused`` for a redirect, which could lead the client, and its key, anywhere.
        ClientDisconnect: the client went away in the middle of its request.
    """
    sent = ((name, value) for name, value in request.headers.raw if name.decode("latin-1").lower() not in _NOT_SENT)
    headers: _Headers = [pair for pair in sent if not _shows(pair[1].decode("latin-1"), keys)]
    headers.append((KEY_HEADER.encode(), server.session_key.get_secret_value().encode()))
    if "accept-encoding" not in request.headers:
        headers.append((b"accept-encoding", b"identity"))  # else httpx asks for what the client may not understand
    url = f"{server.url}{path or target(request, keys)}"
    content = _content(request, headers) if body is None else body
    built = server.http.build_request(request.method, url, headers=headers, content=content, timeout=_TIMEOUT)
    answer = await _send(server, built)
    held.push_async_callback(answer.aclose)
    if answer.status_code in _REDIRECTS:
        raise NestedError("The nested server answered with a redirect, which is not followed.", http_status=502)
    return Relay(answer, held)


def target(request: Request, keys: Sequence[str] = ()) -> str:
    """The path and query of a request as the nested server gets it, without keys."""
    root = request.scope.get("root_path", "").encode()
    path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    query = keyless(request.url.query, keys)
    return path.removeprefix(root).decode() + (f"?{query}" if query else "")


def keyless(query: str, keys: Sequence[str] = ()) -> str:
    """``query`` without the parameters in which clients show keys, and those whose value has one of ``keys``."""
    pairs = parse_qsl(query, keep_blank_values=True) if query else []
    kept = [pair for pair in pairs if pair[0].lower() not in _KEYS and not _shows(pair[1], keys)]
    return query if len(kept) == len(pairs) else urlencode(kept)


def _shows(text: str, keys: Sequence[str]) -> bool:
    """Whether one of the words in ``text`` is one of ``keys``."""
    return bool(keys) and not set(keys).isdisjoint(_BETWEEN.split(text))


def _is_returned(name: str) -> bool:
    return name in _RETURNED or name.startswith(_RETURNED_PREFIXES)


def _content(request: Request, headers: _Headers) -> AsyncIterator[bytes] | None:
    """The body as it comes in, framed as the client framed it."""
    length = request.headers.get("content-length")
    if length is not None:
        headers.append((b"content-length", length.encode()))
    elif "transfer-encoding" not in request.headers:
        return None
    return _chunks(request)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    async for chunk in request.stream():
        if chunk:
            yield chunk


async def _send(server: NestedServer, request: httpx.Request) -> httpx.Response:
    try:
        return await server.http.send(request, stream=True)
    except httpx.ConnectError as error:
        raise NestedError("The nested server can't be reached.", reason=Reason.NESTED_UNREACHABLE) from error
    except httpx.TimeoutException as error:
        raise NestedError("The nested server does not take the request.", reason=Reason.NESTED_TIMEOUT) from error
    except httpx.HTTPError as error:
        raise NestedError(
            f"The nested server broke off without an answer ({type(error).__name__}).", reason=Reason.EXITED
        ) from error


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
