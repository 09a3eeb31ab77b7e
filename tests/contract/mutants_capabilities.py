"""Strategies that do not do what they declare; the conformance suite must fail every one of them."""

from __future__ import annotations

from loopnest import Capability, hookimpl

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
