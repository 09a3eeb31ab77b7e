"""The one pooled HTTP client, and a nested server seen through it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

# httpx imports the next two in its first request, which stalls the event loop for 0.2 s.
import anyio._backends._asyncio  # noqa: F401
import httpcore  # noqa: F401
import httpx
from pydantic import JsonValue, SecretStr

from loopnest import Loop, LoopFailed, NestedError, Reason
from loopnest.aio import Turns, limited
from loopnest_nested.pools import PoolPerServer
from loopnest_nested.redaction import redacted

#: Seconds for a whole answer, where the call does not say otherwise.
ANSWER_LIMIT: Final = 30.0
#: Bytes of a whole answer, and of one frame of a WebSocket, where settings do not say otherwise.
MAX_ANSWER: Final = 64 * 1024 * 1024
_HEADER: Final = "X-Session-API-Key"
_LONGEST_REASON: Final = 500


def new_http_client(max_answer: int = MAX_ANSWER) -> httpx.AsyncClient:
    """Return the client that a strategy keeps while it is open.

    One for all nested servers, so that all share its connections and its turns. It ignores proxies of the environment,
    as nested servers are near, and cookies: they would be shared by all servers on one address.

    Args:
        max_answer: bytes of an answer that is not streamed; a longer one is an error.
    """
    return _Client(PoolPerServer(), max_answer, timeout=httpx.Timeout(ANSWER_LIMIT, connect=3), trust_env=False)


class MalformedAnswer(httpx.HTTPError):
    """A nested server, which its agent controls, answered what can't be read."""


class _Client(httpx.AsyncClient):
    """Begins one request at each turn of the event loop, and takes the straight way to the connection.

    To begin one costs a millisecond of processor time: fifty at once would keep everything else waiting. A quarter of
    it went into redirects, authentication and cookies, which no nested server asks for.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport, max_answer: int, **options: Any) -> None:
        # A compressed answer of a kilobyte can fill the memory, and between near servers it saves nothing.
        super().__init__(transport=transport, headers={"accept-encoding": "identity"}, **options)
        self._straight, self._turns, self._max_answer = transport, Turns(), max_answer

    async def send(self, request: httpx.Request, *, stream: bool = False, **_: Any) -> httpx.Response:
        """As httpx's, whose methods all end here."""
        if self.is_closed:
            raise RuntimeError("The client is closed.")
        await self._turns.mine()
        response = await self._straight.handle_async_request(request)
        response.request = request
        if stream:
            return response
        try:
            content = await self._read(response)
        finally:
            await response.aclose()
        return httpx.Response(response.status_code, headers=response.headers, content=content, request=request)

    async def _read(self, response: httpx.Response) -> bytes:
        if (encoding := response.headers.get("content-encoding", "identity")) != "identity":
            raise MalformedAnswer(f"it is encoded as {encoding!r:.40}, which was not asked for")
        content = bytearray()
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > self._max_answer:
                raise MalformedAnswer(f"it is longer than {self._max_answer} bytes")
        return bytes(content)


@dataclass(frozen=True)
class NestedServer:
    """Where one nested server is, and what opens it.

    Attributes:
        secrets: never quoted from what the server answers; see `hiding`.
    """

    url: str
    session_key: SecretStr
    http: httpx.AsyncClient = field(repr=False)
    secrets: tuple[SecretStr, ...] = field(default=(), repr=False)

    def hiding(self, secrets: Iterable[SecretStr]) -> NestedServer:
        """Return this server such that ``secrets`` are in no error text, even where the server repeats them."""
        return dataclasses.replace(self, secrets=(*self.secrets, *secrets))

    async def request(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> JsonValue:
        """Send a request and return the JSON (or text) of a successful answer.

        Args:
            timeout: seconds for the whole answer, instead of 30.
            options: as httpx takes them (``json``, ``params``, ``files``).

        Raises:
            NestedError: ``nested-unreachable``, ``nested-timeout``, ``nested-malformed``, or ``nested-refused`` with
                ``http_status``.
        """
        response = await self.respond(method, path, timeout=timeout, **options)
        if not response.is_success:
            raise self.refusal(response)
        return self.content(response)

    def content(self, response: httpx.Response) -> JsonValue:
        """Return the JSON (or text) of an answer.

        Raises:
            NestedError: ``nested-malformed``: it is not the JSON or the text that it says it is.
        """
        try:
            if not response.headers.get("content-type", "").startswith("application/json"):
                return response.text
            answer: JsonValue = response.json()
        except (ValueError, RecursionError) as error:
            raise self._malformed(response.request, "it can't be decoded") from error
        return answer

    async def respond(self, method: str, path: str, *, timeout: float | None = None, **options: Any) -> httpx.Response:
        """Send a request and return the answer, whatever its status.

        Raises:
            NestedError: ``nested-unreachable``, ``nested-timeout`` or ``nested-malformed``.
        """
        if timeout is not None:
            options["timeout"] = httpx.Timeout(timeout, connect=3)
        headers = {_HEADER: self.session_key.get_secret_value()}
        try:
            # httpx limits the wait for each part of an answer, not for all of it.
            sent = self.http.request(method, f"{self.url}{path}", headers=headers, **options)
            return await limited(sent, timeout or ANSWER_LIMIT)
        except (httpx.TimeoutException, asyncio.TimeoutError) as error:
            raise NestedError(
                f"The nested server did not answer {method} {path} within {timeout or ANSWER_LIMIT:g} s.",
                reason=Reason.NESTED_TIMEOUT,
            ) from error
        except MalformedAnswer as error:
            raise self._malformed(httpx.Request(method, f"{self.url}{path}"), str(error)) from error
        except httpx.HTTPError as error:
            raise NestedError(
                f"The nested server can't be reached for {method} {path}: {type(error).__name__}.",
                reason=Reason.NESTED_UNREACHABLE,
            ) from error

    def refusal(self, response: httpx.Response) -> NestedError:
        """Say what the server answered instead of what it was asked for."""
        request = response.request
        why = redacted(_explanation(response), (self.session_key, *self.secrets))[:_LONGEST_REASON]
        return NestedError(
            f"The nested server answered {request.method} {request.url.path} with {response.status_code}: {why}",
            http_status=response.status_code,
        )

    def _malformed(self, request: httpx.Request, why: str) -> NestedError:
        message = f"The nested server's answer to {request.method} {request.url.path} can't be read: {why}."
        return NestedError(message, reason=Reason.NESTED_MALFORMED)


def server_of(loop: Loop, http: httpx.AsyncClient) -> NestedServer:
    """Return the nested server of a loop.

    Raises:
        LoopFailed: the loop has no address or key, for the reason that it is listed with.
        NestedError: it has none, and no reason.
    """
    if loop.url is None or loop.session_key is None:
        if loop.reason:
            raise LoopFailed(loop.message or "The loop can't be reached.", reason=loop.reason)
        raise NestedError("The nested server can't be reached.", reason=Reason.NESTED_UNREACHABLE)
    return NestedServer(loop.url, loop.session_key, http)


def _explanation(response: httpx.Response) -> str:
    """What FastAPI's ``detail`` says, without the input that it quotes; any other body as it is."""
    try:
        body = response.json()
        detail, exception = body["detail"], body.get("exception")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return _text(response) or response.reason_phrase
    if isinstance(detail, list):
        return "; ".join(map(_problem, detail))
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return f"{text}: {exception}" if exception else text


def _text(response: httpx.Response) -> str:
    try:
        return response.text.strip()
    except ValueError:  # of a charset that is none for texts
        return ""


def _problem(error: Any) -> str:
    try:
        place = ".".join(str(part) for part in error["loc"] if part != "body")
        return f"{place}: {error['msg']}" if place else str(error["msg"])
    except (KeyError, TypeError):
        return json.dumps(error)
