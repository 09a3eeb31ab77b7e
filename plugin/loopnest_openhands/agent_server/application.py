"""Put together: the stock application, with the loops in front of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from loopnest import LoopManager
from loopnest_nested.client import new_http_client
from loopnest_openhands.agent_server import gateway, upstream
from loopnest_openhands.agent_server.catalog import Catalog
from loopnest_openhands.agent_server.conversations import Conversations
from loopnest_openhands.agent_server.dispatch import Dispatch
from loopnest_openhands.agent_server.upstream import Stock
from loopnest_openhands.findings import log_findings


def build(config: Any = None, loops: LoopManager | None = None) -> Starlette:
    """Build the application.

    Args:
        config: the agent server's ``Config``; by default from its file and the environment.
        loops: not yet entered; by default from ``loopnest.toml`` and the environment.

    Raises:
        ConfigurationError: with what is wrong, where, and what to do about it.
    """
    manager = loops or LoopManager.from_config()  # first, as it reports mistakes within a second
    return assemble(upstream.load(config), manager)


def assemble(stock: Stock, loops: LoopManager) -> Starlette:
    """Put the loops in front of the stock application, inside of its CORS."""
    http = new_http_client()
    catalog = Catalog(loops.settings.state_dir / loops.settings.namespace / "agent-server")
    conversations = Conversations(loops, catalog, http, idle_after=stock.idle_after, environment=stock.variables)
    gateway.install(stock, conversations)
    stock.app.user_middleware.append(Middleware(Dispatch, stock=stock, conversations=conversations))

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with http, loops, conversations.idle, stock.app.router.lifespan_context(stock.app):
            examining = asyncio.ensure_future(log_findings(loops))
            yield
            examining.cancel()
            await asyncio.gather(examining, return_exceptions=True)

    return Starlette(routes=[Mount("/", app=stock.app)], lifespan=lifespan)
