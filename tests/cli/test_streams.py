from __future__ import annotations

import json

import pytest

from loopnest import NestedError, Reason
from loopnest_cli import streams


class Dialect:
    """Tells two events, and goes on until it is asked to stop."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    async def events(self, server, conversation_id, *, follow):
        self.asked.append((server.url, server.session_key.get_secret_value(), conversation_id, follow))
        yield {"action": "message", "source": "user", "args": {"content": "hi"}, "timestamp": "2026-11-23T10:11:12"}
        yield {"observation": "run", "content": "there"}
        if follow:
            raise NestedError("gone", reason=Reason.NESTED_UNREACHABLE)


@pytest.fixture
def dialect(monkeypatch) -> Dialect:
    dialect = Dialect()
    monkeypatch.setattr(streams, "get_dialect", {"shelf": dialect}.__getitem__)
    return dialect


def test_events_are_read_from_the_url_with_the_key_that_the_listing_tells(shelf, loopnest, dialect):
    loopnest("start", "c1")
    assert loopnest("events", "c1").stdout == "10:11:12  user      hi\n          output    there\n"
    assert dialect.asked == [("http://127.0.0.1:9", "key-of-c1", "c1", False)]


def test_events_are_json_lines_for_programs(shelf, loopnest, dialect):
    loopnest("start", "c1")
    lines = loopnest("events", "c1", "--json").stdout.splitlines()
    assert [json.loads(line).get("content") for line in lines] == [None, "there"]


def test_following_ends_with_the_reason_why_it_can_not_go_on(shelf, loopnest, dialect):
    loopnest("start", "c1")
    result = loopnest("events", "c1", "--follow", code=1)
    assert "error (nested-unreachable): gone" in result.stderr
    assert len(result.stdout.splitlines()) == 2


def test_the_events_of_a_loop_that_does_not_run_can_not_be_read(shelf, loopnest):
    loopnest("start", "c1")
    loopnest("close", "c1")
    error = loopnest("events", "c1", code=1).stderr
    assert "error (not-running): The loop of c1 is stopped" in error
    assert "'loopnest start'" in error


def test_logs_are_lines_without_control_sequences_and_whole_for_programs(shelf, loopnest):
    loopnest("start", "c1")
    assert loopnest("logs", "c1").stdout == "one\ntwo\nthree\n"
    lines = loopnest("logs", "c1", "--tail", "2", "--json").stdout.splitlines()
    assert [json.loads(line)["line"] for line in lines] == ["\x1b]0;title\x07two", "three"]


def test_the_log_of_an_unknown_loop_is_not_found(shelf, loopnest):
    loopnest("logs", "nothing", code=3)
