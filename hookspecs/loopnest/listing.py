"""What a host sees: the loops that the plugins list, the starts that go on, and what became of loops that are gone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loopnest.errors import LoopNotFound
from loopnest.models import Loop, LoopStatus
from loopnest.owners import Everyone, owns
from loopnest.records import REMOVED


@dataclass(frozen=True)
class Known:
    """What one lookup found of a conversation's loop.

    Attributes:
        loop: as the plugins see it; None where they have none.
        shown: as users see it: with the start that goes on here, or with the reason that was kept.
    """

    conversation_id: str
    loop: Loop | None
    shown: Loop | None

    def visible_to(self, user_id: str | Everyone | None) -> Loop:
        """Return the loop as users see it.

        Raises:
            LoopNotFound: there is none, it was removed, or another user owns it.
        """
        if self.shown is None or self.shown.phase == REMOVED or not owns(user_id, self.shown.owner):
            raise LoopNotFound(self.conversation_id)
        return self.shown


def merge(listed: Iterable[Loop], starts: Iterable[Loop], records: Iterable[Loop]) -> list[Loop]:
    """Return one loop for each conversation."""
    loops = {loop.conversation_id: loop for loop in listed}
    for start in starts:
        loops[start.conversation_id] = _with_start(start, loops.get(start.conversation_id))
    for record in records:
        loops[record.conversation_id] = _with_record(record, loops.get(record.conversation_id))
    return list(loops.values())


def _with_start(start: Loop, listed: Loop | None) -> Loop:
    """A start that goes on here is told as such until the plugins see the loop run."""
    if listed is None:
        return start
    if listed.status is LoopStatus.RUNNING:
        return listed
    return listed.model_copy(
        update={"status": LoopStatus.STARTING, "phase": start.phase, "reason": None, "message": None}
    )


def _with_record(record: Loop, listed: Loop | None) -> Loop:
    """A loop that is down is told with the reason that was kept, and the facts that the plugins know."""
    if listed is None:
        return record
    if listed.status not in (LoopStatus.STOPPED, LoopStatus.FAILED) or record.status is not LoopStatus.FAILED:
        return listed
    facts = ("strategy", "dialect", "nested_id", "created_at")
    return record.model_copy(update={name: getattr(listed, name) for name in facts})
