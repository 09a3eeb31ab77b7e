"""Asking a nested server to stop its agent before the server itself is stopped."""

from __future__ import annotations

import asyncio
from typing import Final

from loopnest import NestedError
from loopnest.aio import limited
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Dialect

#: The message of a close where the nested server has no address or no key that is known here.
UNREACHABLE: Final = "The nested server could not be asked to stop its agent."


async def quiesce(dialect: Dialect, server: NestedServer, conversation_id: str | None, limit: float) -> str | None:
    """Ask the agent to stop.

    Args:
        conversation_id: None for a loop whose conversations the host creates: all agents are asked.
        limit: seconds.

    Returns:
        What went wrong, which must not keep the server from being stopped; None where the agent stopped.
    """
    try:
        await limited(dialect.quiesce(server, conversation_id), limit)
    except asyncio.TimeoutError:
        return f"The nested server did not stop its agent within {limit:g} s."
    except NestedError as error:
        return f"The nested server did not stop its agent: {error.message}"
    return None
