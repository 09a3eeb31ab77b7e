"""Looking loops up: those of the plugins, the starts that go on here, and the records of loops that are gone."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeVar

from loopnest._hooks import Calls
from loopnest._journal import Records, Removed
from loopnest._starts import Starts
from loopnest.aio import Turns
from loopnest.errors import LoopnestError, LoopNotFound, Reason
from loopnest.models import Loop, LoopQuery, LoopStatus
from loopnest.owners import Everyone, owns
from loopnest.validation import check_conversation_id

_Start = TypeVar("_Start", Loop, Loop | None)
_Record = TypeVar("_Record", Loop, Loop | None)


@dataclass(frozen=True)
class Known:
    """What one lookup found of a conversation's loop.

    Attributes:
        loop: as the plugins see it; None where they have none.
        shown: as users see it: with the start that goes on here, or with the reason of a record.
        removed: that it was removed, where neither of the two is there.
    """

    conversation_id: str
    loop: Loop | None = None
    shown: Loop | None = None
    removed: Removed | None = None

    @property
    def owner(self) -> str | None:
        """Who owns the loop, or owned the one that was removed; None where nothing is known of it."""
        known = self.shown or self.removed
        return known.owner if known else None

    def visible_to(self, user_id: str | Everyone | None) -> Loop:
        """Return the loop as users see it.

        Raises:
            LoopNotFound: there is none, it was removed, or another user owns it.
        """
        if self.shown is None or not owns(user_id, self.shown.owner):
            raise LoopNotFound(self.conversation_id)
        return self.shown


class Lookup:
    """Finds the loop of a conversation, once for each operation, and lists loops."""

    def __init__(self, calls: Calls, starts: Starts, records: Records) -> None:
        self._calls, self._starts, self._records = calls, starts, records
        self._turns = Turns()
        self._event_loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Note the event loop that this belongs to from now on."""
        self._event_loop = asyncio.get_running_loop()

    async def find(self, conversation_id: str, *, probe: bool = False) -> Known:
        """Look one loop up, without regard to its owner.

        Raises:
            InvalidRequest: no conversation can have this id.
        """
        check_conversation_id(conversation_id)
        self._check_event_loop()
        await self._turns.mine()
        loop = await self._calls.find_loop(conversation_id, probe=probe)
        record, start = self._records.get(conversation_id), self._starts.get(conversation_id)
        failure, removed = (None, record) if isinstance(record, Removed) else (record, None)
        shown = _with_record(failure, _with_start(start, loop))
        return Known(conversation_id, loop, shown, None if shown else removed)

    async def list(self, query: LoopQuery) -> list[Loop]:
        """List the loops that were asked for, one for each conversation."""
        self._check_event_loop()
        await self._turns.mine()
        listed = await self._calls.list_loops(query.model_copy(update={"statuses": None}))
        loops = {loop.conversation_id: loop for loop in listed}
        for start in self._starts.of(query.conversation_ids):
            loops[start.conversation_id] = _with_start(start, loops.get(start.conversation_id))
        for failure in self._records.failures(query.conversation_ids):
            loops[failure.conversation_id] = _with_record(failure, loops.get(failure.conversation_id))
        return query.select(loops.values())

    def _check_event_loop(self) -> None:
        if self._event_loop not in (None, asyncio.get_running_loop()):
            raise LoopnestError(
                "This LoopManager was opened in another event loop. Open one in each event loop, or call it through "
                "'asyncio.run_coroutine_threadsafe'.",
                reason=Reason.UNSUPPORTED,
            )


def _with_start(start: _Start, listed: Loop | None) -> Loop | _Start:
    """A loop that is being started here is shown in status ``starting`` until the plugins list it as running."""
    if listed is None:
        return start
    if start is None or listed.status is LoopStatus.RUNNING:
        return listed
    return listed.model_copy(
        update={"status": LoopStatus.STARTING, "phase": start.phase, "reason": None, "message": None}
    )


def _with_record(record: _Record, listed: Loop | None) -> Loop | _Record:
    """A loop that is stopped or failed is shown with the reason that was kept, and the facts that the plugins know."""
    if listed is None:
        return record
    if record is None or listed.status not in (LoopStatus.STOPPED, LoopStatus.FAILED):
        return listed
    facts = ("strategy", "dialect", "nested_id", "created_at")
    return record.model_copy(update={name: getattr(listed, name) for name in facts})
