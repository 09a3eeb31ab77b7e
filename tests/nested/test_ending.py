"""What the end of a nested server means, as one table."""

from __future__ import annotations

import pytest

from loopnest import LoopStatus
from loopnest_nested.ending import ending, is_clean, was_killed

STOPPED, FAILED = LoopStatus.STOPPED, LoopStatus.FAILED
REQUESTED, MEMORY, LOST = {"stop_requested": True}, {"out_of_memory": True}, {"lost": True}


@pytest.mark.parametrize(
    ("exit_code", "facts", "status", "reason"),
    [
        (0, {}, STOPPED, None),
        (130, {}, STOPPED, None),
        (143, {}, STOPPED, None),
        (0, MEMORY, STOPPED, None),
        (0, REQUESTED, STOPPED, None),
        (1, REQUESTED, STOPPED, None),
        (137, REQUESTED, STOPPED, None),
        (137, REQUESTED | MEMORY, STOPPED, None),
        (255, REQUESTED | LOST, STOPPED, None),
        (None, REQUESTED, STOPPED, None),
        (137, {}, FAILED, "killed"),
        (137, MEMORY, FAILED, "oom-killed"),
        (1, {}, FAILED, "exited"),
        (3, {}, FAILED, "exited"),
        (3, MEMORY, FAILED, "exited"),
        (129, {}, FAILED, "exited"),
        (139, {}, FAILED, "exited"),
        (255, {}, FAILED, "exited"),
        (255, LOST, FAILED, "killed"),
        (None, {}, FAILED, "killed"),
    ],
)
def test_an_end_means_the_same_wherever_it_is_judged(exit_code, facts, status, reason):
    end = ending(exit_code, **facts)
    assert (end.status, end.reason, end.exit_code) == (status, reason, exit_code)
    assert (end.message is None) == (status is STOPPED)


@pytest.mark.parametrize(
    ("exit_code", "facts", "reason"),
    [
        (0, {}, "exited-early"),
        (3, {}, "exited-early"),
        (143, {}, "exited-early"),
        (137, {}, "killed"),
        (137, MEMORY, "oom-killed"),
        (None, {}, "killed"),
        (255, LOST, "killed"),
    ],
)
def test_an_end_before_it_was_ready_is_a_failure(exit_code, facts, reason):
    end = ending(exit_code, ready=False, **facts)
    assert (end.status, end.reason, end.exit_code) == (FAILED, reason, exit_code)


def test_a_stop_during_the_start_interrupts_it():
    end = ending(143, stop_requested=True, ready=False)
    assert (end.status, end.reason, end.exit_code) == (FAILED, "interrupted", None)


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (3, "ended with exit code 3."),
        (139, "ended with exit code 139 (SIGSEGV)."),
        (137, "killed (SIGKILL)"),
        (None, "exit code was lost"),
    ],
)
def test_a_failure_says_how_the_server_ended(exit_code, words):
    assert words in str(ending(exit_code).message)


def test_only_ends_without_an_error_are_clean():
    assert [code for code in (None, *range(256)) if is_clean(code)] == [0, 130, 143]


def test_a_server_without_a_known_exit_code_counts_as_killed():
    assert [code for code in (None, *range(256)) if was_killed(code)] == [None, 137]
