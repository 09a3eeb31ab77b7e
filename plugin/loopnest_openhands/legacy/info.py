"""A loop as the host describes it to its clients."""

from __future__ import annotations

import os
from typing import Any, Final
from urllib.parse import urlsplit

from openhands.events.nested_event_store import NestedEventStore
from openhands.runtime.runtime_status import RuntimeStatus
from openhands.server.data_models.agent_loop_info import AgentLoopInfo
from openhands.storage.data_models.conversation_status import ConversationStatus

from loopnest import Loop, LoopStatus

#: Loops that the host calls running: they have a process, or are about to.
ACTIVE: Final = frozenset({LoopStatus.STARTING, LoopStatus.RUNNING, LoopStatus.PAUSED})
_STATUSES: Final = {
    LoopStatus.STARTING: ConversationStatus.STARTING,
    LoopStatus.RUNNING: ConversationStatus.RUNNING,
    LoopStatus.PAUSED: ConversationStatus.RUNNING,
    LoopStatus.STOPPED: ConversationStatus.STOPPED,
    LoopStatus.FAILED: ConversationStatus.ERROR,
}


def describe(loop: Loop, user_id: str | None, runtime_status: str | None = None) -> Any:
    """Return the host's ``AgentLoopInfo``; its URL is for browsers, its event store for the host."""
    key = loop.session_key.get_secret_value() if loop.session_key else None
    path = f"/api/conversations/{loop.conversation_id}"
    return AgentLoopInfo(
        conversation_id=loop.conversation_id,
        url=f"{browser_url(loop.url)}{path}" if loop.url else None,
        session_api_key=key,
        event_store=NestedEventStore(f"{loop.url}{path}", loop.conversation_id, user_id, key) if loop.url else None,
        status=_STATUSES[loop.status],
        runtime_status=_runtime_status(loop, runtime_status),
    )


def browser_url(url: str) -> str:
    """``url`` as a browser reaches it: at the host that ``NESTED_RUNTIME_BROWSER_HOST`` names, on the same port."""
    browser_host = os.environ.get("NESTED_RUNTIME_BROWSER_HOST", "").rstrip("/")
    port = urlsplit(url).port
    return f"{browser_host}:{port}" if browser_host and port else browser_host or url


def _runtime_status(loop: Loop, word: str | None) -> Any:
    try:
        return RuntimeStatus(word)
    except ValueError:
        pass
    if loop.status is LoopStatus.FAILED:
        return RuntimeStatus.ERROR
    if loop.status is LoopStatus.STOPPED:
        return RuntimeStatus.STOPPED
    return RuntimeStatus.STARTING_RUNTIME if loop.status is LoopStatus.STARTING else None
