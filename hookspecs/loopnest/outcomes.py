"""What becomes of loops: kept for later, and told to everybody."""

from __future__ import annotations

from loopnest.changes import Changes
from loopnest.errors import LoopFailed, LoopnestError
from loopnest.models import Closed, Loop, LoopChange, LoopStatus, StartLoop
from loopnest.records import REMOVED, Records, died, failed, removed
from loopnest.starts import Starts


class Outcomes:
    """Keeps in ``records`` what nothing on the engine can tell later, and tells every change through ``changes``."""

    def __init__(self, strategy: str, records: Records, starts: Starts, changes: Changes) -> None:
        self._strategy, self._records, self._starts, self._changes = strategy, records, starts, changes

    def start_begins(self, request: StartLoop) -> None:
        """Publish that a start was requested, and drop the reason for which the last one failed."""
        self._records.forget(request.conversation_id)
        status = LoopStatus.STARTING
        loop = Loop(conversation_id=request.conversation_id, owner=request.owner, status=status)
        self.tell(loop, "requested", status)

    def start_failed(self, request: StartLoop, error: LoopnestError) -> None:
        """Keep and tell why; ``error`` then names the conversation."""
        error.conversation_id = request.conversation_id
        loop = failed(request, error, self._strategy)
        self._records.keep(loop)
        self.tell(loop, "failed", LoopStatus.FAILED)

    def closed(self, known: Loop, closed: Closed, *, remove: bool, failure: LoopFailed | None = None) -> None:
        """Publish that the loop that was ``known`` before is closed, unless it was closed already.

        Args:
            failure: why it was closed, where something is wrong with it; kept for listings.
        """
        self._records.forget(known.conversation_id)
        if closed.removed or remove:
            self._records.keep(removed(known))  # so that closing twice is no error
            if known.phase != REMOVED:
                self.tell(known, REMOVED, None, closed.message)
        elif failure:
            self.heard(
                LoopChange(
                    conversation_id=known.conversation_id,
                    owner=known.owner,
                    phase="failed",
                    status=LoopStatus.FAILED,
                    reason=failure.reason,
                    message=failure.message,
                )
            )
        elif not closed.already:
            self.tell(known, "stopped", LoopStatus.STOPPED, closed.message)

    def heard(self, change: LoopChange) -> None:
        """A plugin reports a change; that a loop died is kept, as the next process can't know it from the plugin."""
        if change.status is LoopStatus.FAILED:
            self._records.keep(died(change, self._strategy))
        elif change.status is LoopStatus.RUNNING:
            self._records.forget(change.conversation_id)
        self._emit(change)

    def tell(self, loop: Loop, phase: str, status: LoopStatus | None, message: str | None = None) -> None:
        """Tell that ``loop`` came to ``phase``."""
        change = LoopChange(
            conversation_id=loop.conversation_id,
            owner=loop.owner,
            phase=phase,
            status=status,
            message=message or loop.message,
        )
        if status is LoopStatus.FAILED:
            why = {"reason": loop.reason, "exit_code": loop.exit_code, "log_tail": loop.log_tail}
            change = change.model_copy(update=why)
        self._emit(change)

    def _emit(self, change: LoopChange) -> None:
        self._starts.moved(change.conversation_id, change.phase)
        self._changes.emit(change)
