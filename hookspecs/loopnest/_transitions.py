"""What changes the status of a loop: start, close, pause and resume, one at a time for each conversation."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from weakref import WeakValueDictionary

from loopnest._hooks import Calls
from loopnest._journal import Outcomes
from loopnest._lookup import Known, Lookup
from loopnest._starts import Starts
from loopnest.errors import InvalidRequest, LoopFailed, LoopnestError, LoopNotFound, Reason
from loopnest.models import Closed, Loop, LoopStatus, Phase
from loopnest.owners import Everyone
from loopnest.requests import StartLoop

_log = logging.getLogger(__name__)
_UP = (LoopStatus.STARTING, LoopStatus.RUNNING, LoopStatus.PAUSED)


class Transitions:
    """Calls the hooks that change a loop's status, and publishes each change once."""

    def __init__(self, calls: Calls, lookup: Lookup, starts: Starts, outcomes: Outcomes) -> None:
        self._calls, self._lookup, self._starts, self._outcomes = calls, lookup, starts, outcomes
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._ended = False

    async def end(self) -> None:
        """End the starts that go on here; they fail with the reason that the host stopped."""
        self._ended = True
        await self._starts.cancel()

    def begin(self, request: StartLoop, known: Known, owner: str, *, resume: bool = False) -> asyncio.Task[Loop]:
        """Begin a start for ``owner``, or join the one that goes on.

        Args:
            resume: start the loop only where it exists and no other process starts it, as ``request`` does not say
                what conversation to create. The task raises LoopNotFound or LoopFailed otherwise.

        Raises:
            LoopNotFound: another user starts the conversation.
        """
        request = request.model_copy(update={"owner": owner})
        return self._starts.begin(request, lambda it: self._start(it, known, resume=resume))

    async def close(self, known: Known, *, remove: bool, failure: LoopFailed | None) -> Closed:
        """Close a loop, also in the middle of its start.

        Args:
            failure: kept as the reason why the loop was closed.
        """
        interrupted = await self._starts.cancel(known.conversation_id)
        lock = self._lock(known.conversation_id)
        waits = lock.locked()
        async with lock:
            if interrupted or waits:  # the loop may be gone, or be another user's by now
                now = await self._lookup.find(known.conversation_id)
                mine = now if now.owner == known.owner else Known(known.conversation_id)
                known = replace(mine, shown=known.shown) if interrupted else mine
            closed = await self._close(known, remove=remove, interrupted=interrupted)
            if known.shown is not None:
                self._outcomes.closed(known.shown, closed, failure=failure)
            return closed

    async def set_paused(self, conversation_id: str, user_id: str | Everyone | None, paused: bool) -> Loop:
        """Pause a running loop, or resume a paused one; a loop in the wanted status is returned as it is.

        Raises:
            LoopNotFound: there is no such loop, or the user does not own it.
            LoopFailed: ``not-running``, or the reason for which the loop is not in the wanted status afterwards.
            LoopnestError: ``unsupported``.
        """
        before, after = LoopStatus.RUNNING, LoopStatus.PAUSED
        if not paused:
            before, after = after, before
        async with self._lock(conversation_id):
            known = await self._lookup.find(conversation_id)
            shown = known.visible_to(user_id)
            if shown.status is after:
                return shown
            if known.loop is None or shown.status is not before:
                raise LoopFailed(f"The loop is {shown.status}, not {before}.", reason=Reason.NOT_RUNNING)
            loop = await (self._calls.pause_loop if paused else self._calls.resume_loop)(known.loop)
            if loop.status is not after:
                message = loop.message or f"The loop is {loop.status}, not {after}."
                raise LoopFailed(message, reason=loop.reason or Reason.NOT_RUNNING, exit_code=loop.exit_code)
            self._outcomes.publish(loop, Phase.PAUSED if paused else Phase.READY)
            return loop

    def _lock(self, conversation_id: str) -> asyncio.Lock:
        return self._locks.setdefault(conversation_id, asyncio.Lock())

    async def _start(self, request: StartLoop, known: Known, *, resume: bool) -> Loop:
        lock = self._lock(request.conversation_id)
        waits = lock.locked()
        async with lock:
            if waits or (resume and known.loop is None):  # it was closed, paused or resumed, or its start has ended
                known = await self._lookup.find(request.conversation_id)
            if resume:
                _check_resumable(known)
            if known.loop is not None and known.loop.status is LoopStatus.RUNNING:
                return await self._call_start(request, known.loop, publish_refusal=False)
            self._outcomes.start_begins(request)
            loop = await self._call_start(request, known.loop)
            self._outcomes.publish(loop, Phase.READY)
            return loop

    async def _call_start(self, request: StartLoop, known: Loop | None, *, publish_refusal: bool = True) -> Loop:
        try:
            loop = await self._calls.start_loop(request, known)
        except LoopNotFound:
            raise
        except InvalidRequest as error:
            if publish_refusal:  # else the loop runs on as it was
                self._outcomes.start_failed(request, error)
            raise
        except LoopnestError as error:
            self._outcomes.start_failed(request, error)
            raise
        except Exception as error:
            _log.exception("start_loop of %s raised", request.conversation_id)
            failure = LoopFailed(f"A plugin failed: {type(error).__name__}.", reason=Reason.INTERNAL)
            self._outcomes.start_failed(request, failure)
            raise failure from error
        except asyncio.CancelledError:
            if self._ended:
                stopped = LoopFailed("The host stopped meanwhile.", reason=Reason.INTERRUPTED)
                self._outcomes.start_failed(request, stopped)
            raise
        if loop.owner != request.owner:  # another user took the conversation since it was looked up
            raise LoopNotFound(request.conversation_id)
        return loop

    async def _close(self, known: Known, *, remove: bool, interrupted: bool) -> Closed:
        gone = Closed(conversation_id=known.conversation_id, already=not interrupted, removed=True)
        if known.loop is None:
            return gone
        if known.loop.status in _UP:
            self._outcomes.publish(known.loop, Phase.STOPPING)
        try:
            closed = await self._calls.close_session(known.loop, remove)
        except LoopNotFound:
            if not interrupted and known.loop.status is not LoopStatus.FAILED:
                raise
            return gone
        return closed.model_copy(update={"already": False}) if interrupted else closed


def _check_resumable(known: Known) -> None:
    """Refuse to start a loop that an event was sent to and that a start without its conversation must not touch.

    Raises:
        LoopNotFound: the loop was removed since it was looked up.
        LoopFailed: another process starts it, or its start was interrupted.
    """
    if known.loop is None:
        raise LoopNotFound(known.conversation_id)
    if known.loop.status is LoopStatus.STARTING:
        raise LoopFailed(
            known.loop.message
            or "Another host is starting the loop, or its start was interrupted. Send again once it runs, or start it.",
            reason=known.loop.reason or Reason.NOT_RUNNING,
            conversation_id=known.conversation_id,
        )
