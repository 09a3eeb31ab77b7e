"""Requests of tests, from the facts that matter to one."""

from __future__ import annotations

from typing import Any

from loopnest import Conversation, StartLoop


def start_request(conversation_id: str = "c1", **facts: Any) -> StartLoop:
    """A request to start a loop; facts of the conversation and of the loop may be mixed."""
    own = {name: facts.pop(name) for name in list(facts) if name in Conversation.model_fields}
    conversation = {"conversation": Conversation(**own)} if own else {}
    return StartLoop(conversation_id=conversation_id, **conversation, **facts)
