"""Conversations whose nested server does not have them any more, as after its disk was full."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from loopnest import LoopFailed, Reason
from loopnest_openhands.agent_server.catalog import Entry

_LOST: Final = (
    "The history of the conversation is lost: its nested server does not have it any more, as after a disk was full. "
    "The workspace is kept. "
)
_OWN: Final = (
    "Create the conversation again under the same id to go on in this workspace without the history, or delete it to "
    "remove both."
)
_SHARED: Final = "It belongs to the conversation {loop_id} as well. Delete this one, as it can't go on."


def lost(entry: Entry) -> LoopFailed:
    """The error of a conversation that is lost."""
    own = entry.info["id"] == entry.loop_id
    advice = _OWN if own else _SHARED.format(loop_id=entry.loop_id)
    return LoopFailed(_LOST + advice, reason=Reason.HISTORY_LOST, conversation_id=entry.info["id"])


def lost_by(entries: Collection[Entry]) -> LoopFailed | None:
    """The error of a loop with these conversations; None while it has any of them, or never had one."""
    if not entries or not all(entry.lost for entry in entries):
        return None
    return lost(next((entry for entry in entries if entry.info["id"] == entry.loop_id), next(iter(entries))))
