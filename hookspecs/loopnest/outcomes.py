"""What becomes of loops: kept for later, and published."""

from __future__ import annotations

from loopnest.changes import Changes
from loopnest.errors import LoopFailed, LoopnestError
from loopnest.models import Closed, Loop, LoopChange, LoopStatus, StartLoop
from loopnest.records import REMOVED, Records, died, failed, removed
from loopnest.starts import Starts


class Outcomes:
    """Keeps in ``records`` what no plugin can know later, and publishes every change through ``changes``."""

    def __init__(self, strategy: str, records: Records, starts: Starts, changes: Changes) -> None:
        self._strategy, self._records, self._starts, self._changes = strategy, records, starts, changes

    def start_begins(self, request: StartLoop) -> None:
        """Publish that a start was requested, and drop the reason for which the last one failed."""
        self._records.forget(request.conversation_id)
        status = LoopStatus.STARTING
        loop = Loop(conversation_id=request.conversation_id, owner=request.owner, status=status)
        self.publish(loop, "requested", status)

    def start_failed(self, request: StartLoop, error: LoopnestError) -> None:
        """Keep and publish the reason; ``error`` then names the conversation."""
        error.conversation_id = request.conversation_id
        loop = failed(request, error, self._strategy)
        self._records.keep(loop)
        self.publish(loop, "failed", LoopStatus.FAILED)

    def closed(self, known: Loop, closed: Closed, *, remove: bool, failure: LoopFailed | None = None) -> None:
        """Publish that a loop was closed, unless it was closed already.

        Args:
            known: the loop as it was before.
            failure: why it was closed, where something is wrong with it; kept for listings.
        """
        self._records.forget(known.conversation_id)
        if closed.removed or remove:
            self._records.keep(removed(known))  # so that closing twice is no error
            if known.phase != REMOVED:
                self.publish(known, REMOVED, None, closed.message)
        elif failure:
            self.accept(
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
            self.publish(known, "stopped", LoopStatus.STOPPED, closed.message)

    def accept(self, change: LoopChange) -> None:
        """Publish a change that a plugin emits. A failure is kept: the next process can't learn it from the plugin."""
        if change.status is LoopStatus.FAILED:
            self._records.keep(died(change, self._strategy))
        elif change.status is LoopStatus.RUNNING:
            self._records.forget(change.conversation_id)
        self._emit(change)

    def publish(self, loop: Loop, phase: str, status: LoopStatus | None, message: str | None = None) -> None:
        """Publish that ``loop`` came to ``phase``."""
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
