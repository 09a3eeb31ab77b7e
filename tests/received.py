"""What a nested server says it received: read back over HTTP, with the url and key that a listing returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from loopnest import EVERYONE, LoopManager
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import get_dialect


async def received(loops: LoopManager, conversation_id: str) -> list[str]:
    """The texts of the user's messages, oldest first; of the real agent server and of the stand-in."""
    loop = await loops.get_loop(conversation_id, EVERYONE)
    assert loop.url is not None
    assert loop.session_key is not None
    async with httpx.AsyncClient(trust_env=False) as http:
        server = NestedServer(loop.url, loop.session_key, http)
        events = get_dialect(loop.dialect or "").events(server, conversation_id, follow=False)
        return [text async for event in events for text in _texts(event)]


def _texts(event: Mapping[str, Any]) -> list[str]:
    message = event.get("llm_message", event)
    content = message.get("content", ()) if message.get("role") == "user" else ()
    return [part["text"] for part in content if part.get("type") == "text"]
