"""What a nested server says of itself when it is looked at, which changes nothing."""

from __future__ import annotations

import logging
import math
from typing import Final

from loopnest import NestedError
from loopnest_nested.client import NestedServer
from loopnest_openhands.agent_server.claims import PAGE, Page, read_page

_log = logging.getLogger(__name__)
#: Seconds for an answer; a nested server that hangs must not hold up the others.
GLANCE: Final = 3.0


async def conversations(server: NestedServer, loop_id: str) -> Page | None:
    """The conversations that it lists, those first that changed last; None where it does not answer."""
    params = {"limit": PAGE, "sort_order": "UPDATED_AT_DESC"}
    try:
        page = read_page(await server.request("GET", "/api/conversations/search", params=params, timeout=GLANCE))
    except (NestedError, RecursionError) as error:
        _log.info("Loop %s does not list its conversations: %s", loop_id, error)
        return None
    if page is None:
        _log.info("Loop %s answers a search with something else", loop_id)
    return page


async def idle_time(server: NestedServer) -> float:
    """Seconds since it saw events, commands or files, through whatever host; infinite where it does not say.

    Reading and WebSockets don't count there. A nested server that does not answer counts as used now.
    """
    try:
        info = await server.request("GET", "/server_info", timeout=GLANCE)
    except RecursionError:
        return math.inf
    except NestedError as error:
        return math.inf if error.http_status else 0.0
    seconds = info.get("idle_time") if isinstance(info, dict) else None
    return max(0.0, seconds) if isinstance(seconds, int | float) else math.inf
