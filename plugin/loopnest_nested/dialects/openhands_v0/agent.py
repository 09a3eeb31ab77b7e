"""What the agent of a conversation does, and whether it listens yet."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from loopnest import NestedError, Reason
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects.openhands_v0.patience import ask

LOADING: Final = "loading"
#: Seconds for an agent to load; cloning a repository and its setup script are part of that.
_LOADING_LIMIT: Final = 120.0
_PAUSE: Final = 0.25
#: Events that are looked through for the last change of state; while an agent loads there are only a few.
_RECENT: Final = 100


async def conversation(server: NestedServer, path: str) -> dict[str, Any] | None:
    """What the server knows of a conversation: ``status``, ``runtime_status``, ...; it answers null for no such one."""
    info = await ask(server, "GET", path)
    return info if isinstance(info, dict) else None


async def state(server: NestedServer, path: str) -> str | None:
    """The agent's state in the server's own word (``loading``, ``running``, ``awaiting_user_input``, ``error``, ...).

    None where no agent runs: the conversation is unknown, or stopped, as after a restart of the server.

    Raises:
        NestedError: the server could not be asked, or says that the agent's runtime failed.
    """
    info = await conversation(server, path)
    if info is None or info.get("status") not in {"STARTING", "RUNNING"}:
        return None
    runtime = str(info.get("runtime_status") or "")
    if "ERROR" in runtime:
        return "error"
    return await _last_state(server, path) if info["status"] == "RUNNING" else LOADING


async def until_listening(server: NestedServer, path: str) -> None:
    """Wait until the agent takes events, resuming a stopped conversation.

    The server accepts events earlier, and stores them, but an agent that is still loading never acts on them.

    Raises:
        NestedError: ``nested-timeout``, or as `state`.
    """
    deadline = time.monotonic() + _LOADING_LIMIT
    while (found := await state(server, path)) in {None, LOADING}:
        if time.monotonic() > deadline:
            raise NestedError(
                f"The agent is still loading after {_LOADING_LIMIT:g} s: see the nested server's log.",
                reason=Reason.NESTED_TIMEOUT,
            )
        if found is None:
            await resume(server, path)
        await asyncio.sleep(_PAUSE)


async def resume(server: NestedServer, path: str, providers: tuple[str, ...] = ()) -> None:
    """Start the agent of a conversation that the server knows, with its history; harmless where it runs.

    Raises:
        NestedError: 404 for one that it doesn't know.
    """
    await ask(server, "POST", f"{path}/start", json={"providers_set": list(providers)})


async def _last_state(server: NestedServer, path: str) -> str:
    page: Any = await ask(server, "GET", f"{path}/events", params={"reverse": True, "limit": _RECENT})
    for event in page["events"]:
        if event.get("observation") == "agent_state_changed":
            return str(event["extras"]["agent_state"])
    return "running" if page["has_more"] else LOADING
