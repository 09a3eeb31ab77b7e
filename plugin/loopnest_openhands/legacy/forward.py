"""Requests that the nested server of a conversation answers instead of the host."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from loopnest import Everyone, InvalidRequest, Loop, LoopNotFound, LoopStatus
from loopnest_nested.client import new_http_client

#: The nested server slows down what is beyond ten requests a second, and refuses what is beyond twenty.
_PAUSE: Final = 1.0
_ATTEMPTS: Final = 20
_AT_ONCE: Final = 4
#: Seconds for an answer that takes work: a listing of a large workspace, a difference, an archive.
_PATIENCE: Final = 60

User = str | Everyone | None
Find = Callable[[str, User], Awaitable[Loop]]


class Forward:
    """Asks nested servers, within their rate limit."""

    def __init__(self, find: Find) -> None:
        self._find = find
        self._http = new_http_client()
        self._gates: dict[str, asyncio.Semaphore] = {}

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()

    async def runtime_status(self, loop: Loop, limit: float) -> str | None:
        """What the nested server says of its runtime within ``limit`` seconds; None where it says nothing."""
        if loop.status is not LoopStatus.RUNNING or not loop.url or not loop.session_key:
            return None
        try:
            response = await self._http.get(_url(loop, ""), headers=_headers(loop), timeout=limit)
            answer = response.json() if response.is_success else None
        except (httpx.HTTPError, ValueError):
            return None
        return answer.get("runtime_status") if isinstance(answer, dict) else None

    def to(self, conversation_id: str, user_id: User) -> Nested:
        """The nested server of a conversation, for its user."""
        gate = self._gates.setdefault(conversation_id, asyncio.Semaphore(_AT_ONCE))
        return Nested(conversation_id, user_id, self._find, self._http, gate)


@dataclass(frozen=True)
class Nested:
    """One nested server; its address is looked up for each request."""

    conversation_id: str
    user_id: User
    find: Find
    http: httpx.AsyncClient
    gate: asyncio.Semaphore

    async def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request for ``/api/conversations/<id>/<path>``, and return the answer, whatever its status.

        Raises:
            ValueError: the conversation is not running; the host answers 404.
            httpx.HTTPError: the nested server did not answer; the host answers 502 or 504.
        """
        loop = await self._running()
        options.setdefault("timeout", _PATIENCE)
        for _ in range(_ATTEMPTS):
            async with self.gate:
                response = await self.http.request(method, _url(loop, path), headers=_headers(loop), **options)
            if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            await asyncio.sleep(_PAUSE)
        return response

    async def download(self, path: str) -> Path:
        """Store the answer to a GET request in a temporary file, which is the caller's to remove.

        Raises:
            ValueError, httpx.HTTPError: as for `request`, and where the status is no success.
        """
        loop = await self._running()
        async with self.http.stream("GET", _url(loop, path), headers=_headers(loop), timeout=_PATIENCE) as response:
            response.raise_for_status()
            with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
                async for chunk in response.aiter_bytes():
                    await asyncio.to_thread(file.write, chunk)
        return Path(file.name)

    async def _running(self) -> Loop:
        try:
            loop = await self.find(self.conversation_id, self.user_id)
        except (LoopNotFound, InvalidRequest) as error:
            raise ValueError(error.message) from error
        if loop.status is not LoopStatus.RUNNING or not loop.url:
            raise ValueError(f"Conversation {self.conversation_id} is not running ({loop.status}).")
        return loop


def _url(loop: Loop, path: str) -> str:
    return f"{loop.url}/api/conversations/{loop.conversation_id}/{path}".rstrip("/")


def _headers(loop: Loop) -> dict[str, str]:
    return {"X-Session-API-Key": loop.session_key.get_secret_value()} if loop.session_key else {}
