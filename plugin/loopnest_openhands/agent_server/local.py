"""Conversations that run in the host's own process, beside the loops, where the configuration allows it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Final
from uuid import UUID

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loopnest_openhands.agent_server.auth import KEY_HEADER
from loopnest_openhands.agent_server.upstream import Stock

_PAGE: Final = 100


class LocalConversations:
    """The stock application's conversations.

    Args:
        inner: the stock application below `Dispatch`.
    """

    def __init__(self, inner: ASGIApp, stock: Stock) -> None:
        self.app, self._stock = inner, stock

    async def infos(self) -> Sequence[dict[str, Any]]:
        """All of them, as the stock application tells them."""
        keys = self._stock.session_keys[:1]
        transport = httpx.ASGITransport(app=self._as_stock)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as here:
            here.headers.update([(KEY_HEADER, key) for key in keys])
            found: list[dict[str, Any]] = []
            page_id: str | None = ""
            while page_id is not None:
                params = {"limit": str(_PAGE), **({"page_id": page_id} if page_id else {})}
                page = (await here.get("/api/conversations/search", params=params)).raise_for_status().json()
                found += page["items"]
                page_id = page["next_page_id"]
            return found

    async def ids(self) -> Set[UUID]:
        """The ids of all of them."""
        return {UUID(info["id"]) for info in await self.infos()}

    async def _as_stock(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app({**scope, "app": self._stock.app}, receive, send)


def replayed(app: ASGIApp, body: bytes) -> ASGIApp:
    """``app`` with a request body that was read already."""

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        left: list[Message] = [{"type": "http.request", "body": body}]

        async def again() -> Message:
            return left.pop() if left else await receive()

        await app(scope, again, send)

    return serve
