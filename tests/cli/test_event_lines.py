from __future__ import annotations

import pytest

from loopnest_cli.event_lines import Line, describe, print_event


def text(said: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": said}]


def observed(said: str, code: int | None = 0, tool: str = "terminal") -> dict[str, object]:
    observation = {"kind": "TerminalObservation", "content": text(said), "exit_code": code}
    return {"kind": "ObservationEvent", "source": "environment", "tool_name": tool, "observation": observation}


def acted(tool: str, thought: str = "", **action: object) -> dict[str, object]:
    return {"kind": "ActionEvent", "source": "agent", "tool_name": tool, "thought": text(thought), "action": action}


CURRENT = [
    ({"kind": "MessageEvent", "source": "user", "llm_message": {"content": text("hi")}}, Line("user", "hi")),
    (acted("terminal", command="ls -l"), Line("agent", "$ ls -l")),
    (acted("file_editor", command="view", path="/x"), Line("agent", "file_editor view /x")),
    (acted("finish", message="done"), Line("agent", "done")),
    (acted("think", "hm"), Line("agent", "think hm")),
    (acted("browse", kind="Browse", url="http://x", depth=None), Line("agent", "browse url='http://x'")),
    (observed("a\nb\n"), Line("output", "a\nb\n")),
    (observed("oops", 2), Line("output", "oops\nexit code 2")),
    (observed("again", tool="finish"), None),
    (
        {"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": "finished"},
        Line("status", "finished"),
    ),
    ({"kind": "ConversationStateUpdateEvent", "key": "full_state", "value": {}}, None),
    ({"kind": "SystemPromptEvent", "source": "agent"}, None),
    ({"kind": "ConversationErrorEvent", "code": "Auth", "detail": "no key"}, Line("error", "no key")),
    ({"kind": "AgentErrorEvent", "error": "bad tool"}, Line("error", "bad tool")),
    ({"kind": "BrandNewEvent", "source": "agent"}, Line("agent", "BrandNewEvent")),
]
LEGACY = [
    ({"source": "user", "action": "message", "args": {"content": "hi"}}, Line("user", "hi")),
    ({"source": "agent", "action": "run", "args": {"command": "ls"}}, Line("agent", "$ ls")),
    ({"source": "agent", "observation": "run", "content": "a"}, Line("output", "a")),
    ({"observation": "agent_state_changed", "extras": {"agent_state": "running"}}, Line("status", "running")),
    ({"source": "agent", "action": "finish", "args": {"final_thought": "done"}}, Line("agent", "done")),
    ({"source": "agent", "action": "system", "args": {"content": "You are"}}, None),
    ({"source": "environment", "observation": "error", "content": "bad"}, Line("error", "bad")),
]


@pytest.mark.parametrize(("event", "line"), CURRENT)
def test_events_of_the_current_server_are_told_in_a_few_words(event, line):
    assert describe(event) == line


@pytest.mark.parametrize(("event", "line"), LEGACY)
def test_events_of_the_legacy_server_are_told_in_a_few_words(event, line):
    assert describe(event) == line


def test_an_event_of_no_known_server_is_shown_at_all():
    assert describe({"what": 1}) == Line("event", "unknown event")


def test_an_event_is_printed_with_its_time_and_speaker_and_its_lines_below_each_other(capsys):
    print_event({**observed("a\nb"), "timestamp": "2026-11-23T10:11:12.123"})
    assert capsys.readouterr().out == "10:11:12  output    a\n" + " " * 20 + "b\n"


def test_long_output_is_shown_by_its_end(capsys):
    print_event(observed("\n".join(map(str, range(100)))))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].endswith("... 80 lines more")
    assert (len(lines), lines[-1]) == (21, "99")


def test_markup_in_what_an_agent_says_is_no_markup(capsys):
    print_event(observed("[red]x[/red] [/nothing]"))
    assert "[red]x[/red] [/nothing]" in capsys.readouterr().out
