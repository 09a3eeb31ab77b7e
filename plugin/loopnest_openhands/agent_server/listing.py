"""Search, count and batch get: one list over all nested servers, and what is known of stopped loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final
from uuid import UUID

from loopnest import Loop, LoopStatus
from loopnest_openhands.agent_server import history
from loopnest_openhands.agent_server.catalog import Entry
from loopnest_openhands.agent_server.conversations import Conversations

Info = dict[str, Any]
#: What the local conversations are, where the host has any.
Local = Callable[[], Awaitable[Sequence[Info]]]
_STATUSES: Final = {LoopStatus.RUNNING: "available", LoopStatus.STARTING: "starting"}
#: Where each order is by, as the agent server calls them.
_ORDERS: Final = {"CREATED_AT": "created_at", "UPDATED_AT": "updated_at"}


async def every_info(conversations: Conversations) -> list[Info]:
    """What is known of every conversation: asked of running loops all at once, remembered of the others."""
    loops = await conversations.every_loop()
    running = [loop for loop in loops.values() if loop.status is LoopStatus.RUNNING and loop.url]
    known: dict[str, set[UUID]] = {}
    for conversation_id, entry in conversations.catalog.all().items():
        known.setdefault(entry.loop_id, set()).add(conversation_id)
    await asyncio.gather(*(conversations.look(loop, known.get(loop.conversation_id, set())) for loop in running))
    entries = conversations.catalog.all()
    return [
        shown(entry, loops[entry.loop_id])
        for key, entry in entries.items()
        if entry.loop_id in loops and (entry.loop_id == str(key) or str(key) not in loops)
    ]


def shown(entry: Entry, loop: Loop) -> Info:
    """What was seen of a conversation, as it is true of its loop now: no agent is running where nothing runs."""
    info = dict(entry.info)
    if entry.lost:
        info["execution_status"] = "error"
    elif loop.status is not LoopStatus.RUNNING and info["execution_status"] == "running":
        info["execution_status"] = "paused"
    if entry.lost or "runtime_info" in info:
        info["runtime_info"] = runtime_info(loop, entry)
    return info


def runtime_info(loop: Loop, entry: Entry | None = None) -> Info:
    """The agent server's words for the state of a loop, as one of its conversations finds it."""
    if entry and entry.lost:
        lost = history.lost(entry)
        info = {"code": lost.reason, "message": lost.message}
        return {"runtime_status": "error", "can_resume": False, "runtime_error": info}
    failed = loop.status is LoopStatus.FAILED
    error = {"code": loop.reason or "failed", "message": loop.message or "The loop failed."} if failed else None
    state = "error" if failed else _STATUSES.get(loop.status, "missing")
    return {"runtime_status": state, "can_resume": not failed or loop.created_at is not None, "runtime_error": error}


def page_of(infos: Sequence[Info], *, page_id: str | None, limit: int, order: str) -> Info:
    """One page, as the agent server cuts it: ``page_id`` names the first conversation of the page."""
    key, descending = _ORDERS[order.removesuffix("_DESC")], order.endswith("_DESC")
    ordered = sorted(infos, key=lambda info: str(info[key]), reverse=descending)
    ids = [UUID(info["id"]).hex for info in ordered]
    start = ids.index(page_id) if page_id in ids else 0
    end = start + limit
    return {"items": ordered[start:end], "next_page_id": ids[end] if end < len(ids) else None}
