"""Strategies that do not do what they declare; the conformance suite must fail every one of them."""

from __future__ import annotations

from loopnest import Capability, Closed, LoopFailed, LoopStatus, Reason, hookimpl

from .doubles import Pausable
from .mutants import caught_by


@caught_by("test_capabilities_are_declared_as_implemented")
class DeclaresNoPause(Pausable):
    CAPABILITIES = Pausable.CAPABILITIES - {Capability.PAUSE}


@caught_by("test_operations_are_refused_unless_declared")
class KeepsLogsUndeclared(Pausable):
    CAPABILITIES = Pausable.CAPABILITIES - {Capability.LOGS}


@caught_by("test_the_log_of_a_loop_is_read_from_its_end")
class IgnoresTheTail(Pausable):
    @hookimpl
    def loop_logs(self, conversation_id):
        return super().loop_logs(conversation_id, 100)


@caught_by("test_the_log_of_a_loop_is_read_from_its_end")
class EndsLinesTwice(Pausable):
    @hookimpl
    async def loop_logs(self, conversation_id, tail):
        lines = super().loop_logs(conversation_id, tail)
        return (f"{line}\n" async for line in lines)


@caught_by("test_a_paused_loop_goes_on_where_it_was")
class PausesNothing(Pausable):
    @hookimpl
    def pause_loop(self, conversation_id):
        return self._nest(conversation_id).loop


@caught_by("test_a_paused_loop_goes_on_where_it_was")
class ForgetsWhatItPauses(Pausable):
    @hookimpl
    def pause_loop(self, conversation_id):
        self._nest(conversation_id).events.clear()
        return super().pause_loop(conversation_id)


@caught_by("test_an_event_resumes_a_paused_loop")
class StaysPaused(Pausable):
    @hookimpl
    def start_loop(self, request):
        nest = self.nests.get(request.conversation_id)
        if nest and nest.loop.status is LoopStatus.PAUSED:
            raise LoopFailed("It is paused.", reason=Reason.NOT_RUNNING)
        return super().start_loop(request)


@caught_by("test_a_paused_loop_can_be_closed")
class ClosesNoPausedLoops(Pausable):
    @hookimpl
    def close_session(self, conversation_id, remove):
        if self._nest(conversation_id).loop.status is LoopStatus.PAUSED:
            return Closed(conversation_id=conversation_id, already=True)
        return super().close_session(conversation_id, remove)
