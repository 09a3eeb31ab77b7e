"""How many loops a user may run at once."""

from __future__ import annotations

import asyncio
from datetime import datetime, timezone
from typing import Any, Final

from openhands.events.event_store import EventStore
from openhands.server.constants import ROOM_KEY

from loopnest import Loop, LoopManager, LoopQuery, QuotaExceeded
from loopnest_openhands.legacy.host import Host
from loopnest_openhands.legacy.info import ACTIVE
from loopnest_openhands.legacy.settings import HostSettings

_TOO_MANY: Final = {
    "status_update": True,
    "type": "error",
    "id": "AGENT_ERROR$TOO_MANY_CONVERSATIONS",
    "message": "Too many conversations at once. If you are still using this one, try reactivating it by prompting the "
    "agent to continue",
}
_LONG_AGO: Final = datetime.min.replace(tzinfo=timezone.utc)


async def to_close(
    host: Host, loops: LoopManager, settings: HostSettings, conversation_id: str, user_id: str | None
) -> list[str]:
    """Return which of the user's conversations must be closed before this one may start, idle longest first.

    Raises:
        QuotaExceeded: the policy is to refuse.
    """
    limit = settings.limit or host.config.max_concurrent_conversations
    mine = await loops.list_loops(LoopQuery(user_id=user_id, statuses=ACTIVE))
    others = [loop for loop in mine if loop.conversation_id != conversation_id]
    if len(others) == len(mine) and len(mine) >= limit:
        if settings.limit_policy == "reject":
            raise QuotaExceeded(
                f"You have {len(mine)} conversations running, and may have {limit}. Stop one of them first.",
                conversation_id=conversation_id,
            )
        used = await asyncio.gather(*(_last_used(host, loop, user_id) for loop in mine))
        by_use = sorted(zip(used, (loop.conversation_id for loop in mine), strict=True))
        return [conversation for _, conversation in by_use[: len(mine) - limit + 1]]
    return []


async def notify(host: Host, conversation_id: str) -> None:
    """Tell the conversation's clients why it is closed."""
    await host.sio.emit("oh_event", _TOO_MANY, to=ROOM_KEY.format(sid=conversation_id))


async def _last_used(host: Host, loop: Loop, user_id: str | None) -> datetime:
    """When something last happened in the conversation."""
    store = EventStore(loop.conversation_id, host.file_store, user_id)
    try:
        event: Any = await asyncio.to_thread(store.get_latest_event)
    except (FileNotFoundError, ValueError):
        return loop.created_at or _LONG_AGO
    when = datetime.fromisoformat(event.timestamp) if event.timestamp else None
    if when is None:
        return loop.created_at or _LONG_AGO
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)
