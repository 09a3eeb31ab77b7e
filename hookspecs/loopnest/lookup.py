"""Finding loops: those of the plugins, the starts that go on here, and what became of loops that are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loopnest.calls import Calls
from loopnest.errors import LoopNotFound
from loopnest.models import Loop, LoopQuery, LoopStatus
from loopnest.owners import Everyone, owns
from loopnest.records import REMOVED, Records
from loopnest.starts import Starts
from loopnest.turns import Turns
from loopnest.validation import check_conversation_id


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


class Lookup:
    """Finds the loop of a conversation, once for each operation, and lists loops."""

    def __init__(self, calls: Calls, starts: Starts, records: Records) -> None:
        self._calls, self._starts, self._records = calls, starts, records
        self._turns = Turns()

    async def find(self, conversation_id: str, *, probe: bool = False) -> Known:
        """Look one loop up, without regard to its owner.

        Raises:
            InvalidRequest: no conversation can have this id.
        """
        check_conversation_id(conversation_id)
        await self._turns.mine()
        loop = await self._calls.find_loop(conversation_id, probe=probe)
        shown = self._merged([loop] if loop else [], frozenset({conversation_id}))
        return Known(conversation_id, loop, shown[0] if shown else None)

    async def list(self, query: LoopQuery) -> list[Loop]:
        """List the loops that were asked for, but those that were removed."""
        await self._turns.mine()
        listed = await self._calls.list_loops(query.model_copy(update={"statuses": None}))
        merged = self._merged(listed, query.conversation_ids)
        return [loop for loop in query.select(merged) if loop.phase != REMOVED]

    def _merged(self, listed: Iterable[Loop], conversation_ids: frozenset[str] | None) -> Sequence[Loop]:
        return _merge(listed, self._starts.of(conversation_ids), self._records.of(conversation_ids))


def _merge(listed: Iterable[Loop], starts: Iterable[Loop], records: Iterable[Loop]) -> list[Loop]:
    """Return one loop for each conversation."""
    loops = {loop.conversation_id: loop for loop in listed}
    for start in starts:
        loops[start.conversation_id] = _with_start(start, loops.get(start.conversation_id))
    for record in records:
        loops[record.conversation_id] = _with_record(record, loops.get(record.conversation_id))
    return list(loops.values())


def _with_start(start: Loop, listed: Loop | None) -> Loop:
    """A loop that is being started here is shown in status ``starting`` until the plugins list it as running."""
    if listed is None:
        return start
    if listed.status is LoopStatus.RUNNING:
        return listed
    return listed.model_copy(
        update={"status": LoopStatus.STARTING, "phase": start.phase, "reason": None, "message": None}
    )


def _with_record(record: Loop, listed: Loop | None) -> Loop:
    """A loop that is stopped or failed is shown with the reason that was kept, and the facts that the plugins know."""
    if listed is None:
        return record
    if listed.status not in (LoopStatus.STOPPED, LoopStatus.FAILED) or record.status is not LoopStatus.FAILED:
        return listed
    facts = ("strategy", "dialect", "nested_id", "created_at")
    return record.model_copy(update={name: getattr(listed, name) for name in facts})
