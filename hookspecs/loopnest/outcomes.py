"""What becomes of loops: kept for later, and published."""

from __future__ import annotations

from loopnest.changes import Changes
from loopnest.errors import LoopFailed, LoopnestError
from loopnest.models import Closed, Loop, LoopChange, LoopStatus, Phase, StartLoop
from loopnest.records import Records, Removed, failed
from loopnest.starts import Starts


class Outcomes:
    """Keeps in ``records`` what no plugin can know later, and publishes every change through ``changes``."""

    def __init__(self, strategy: str, records: Records, starts: Starts, changes: Changes) -> None:
        self._strategy, self._records, self._starts, self._changes = strategy, records, starts, changes

    def start_begins(self, request: StartLoop) -> None:
        """Publish that a start was requested, and drop the reason for which the last one failed."""
        self._records.forget(request.conversation_id)
        name, owner = request.conversation_id, request.owner
        loop = Loop(conversation_id=name, owner=owner, status=LoopStatus.STARTING, strategy=self._strategy)
        self.publish(loop, Phase.REQUESTED)

    def start_failed(self, request: StartLoop, error: LoopnestError) -> None:
        """Keep and publish the reason; ``error`` then names the conversation."""
        error.conversation_id = request.conversation_id
        loop = failed(request, error, self._strategy)
        self._records.keep(loop)
        self.publish(loop, Phase.FAILED)

    def closed(self, known: Loop, closed: Closed, *, failure: LoopFailed | None) -> None:
        """Publish that a loop was closed, unless it was closed already.

        Args:
            known: the loop as it was before.
            failure: why it was closed, where something is wrong with it; kept for listings.
        """
        self._records.forget(known.conversation_id)
        stopped = _down(known, message=closed.message, exit_code=closed.exit_code)
        if closed.removed:
            self._records.keep(Removed(conversation_id=known.conversation_id, owner=known.owner))
            self.publish(stopped, Phase.REMOVED)
        elif failure:
            why = {"status": LoopStatus.FAILED, "reason": failure.reason, "message": failure.message}
            self.accept(LoopChange(loop=stopped.model_copy(update=why), phase=Phase.FAILED))
        elif not closed.already:
            self.publish(stopped, Phase.STOPPED)

    def accept(self, change: LoopChange) -> None:
        """Publish a change that a plugin emits. A failure is kept: the next process can't learn it from the plugin."""
        loop = change.loop.model_copy(update={"strategy": change.loop.strategy or self._strategy})
        change = change.model_copy(update={"loop": loop})
        if change.status is LoopStatus.FAILED:
            self._records.keep(loop.model_copy(update={"changed_at": change.at}))
        elif change.status is LoopStatus.RUNNING:
            self._records.forget(change.conversation_id)
        self._emit(change)

    def publish(self, loop: Loop, phase: Phase) -> None:
        """Publish that ``loop`` came to ``phase``."""
        self._emit(LoopChange(loop=loop, phase=phase))

    def _emit(self, change: LoopChange) -> None:
        self._starts.moved(change.conversation_id, change.phase)
        self._changes.emit(change)


def _down(known: Loop, *, message: str | None, exit_code: int | None) -> Loop:
    """A loop as it is once its nested server has ended."""
    gone: dict[str, object] = {
        "url": None,
        "urls": {},
        "session_key": None,
        "agent_status": None,
        "phase": None,
        "reason": None,
    }
    return known.model_copy(
        update={**gone, "status": LoopStatus.STOPPED, "message": message, "exit_code": exit_code, "log_tail": ()}
    )
