from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loopnest import owner_of


def kept(shelf: Path) -> Any:
    return json.loads((shelf / "shelf.json").read_text())


def test_start_prints_the_loop_and_reports_its_phases_on_standard_error(shelf, loopnest):
    result = loopnest("start", "c1", "--user", "alice")
    assert result.stdout.splitlines()[0].split() == ["CONVERSATION", "OWNER", "STATUS", "STRATEGY", "AGE", "URL"]
    row = ["c1", owner_of("alice"), "running", "shelf", "0s", "http://127.0.0.1:9"]
    assert result.stdout.splitlines()[1].split() == row
    assert result.stderr.splitlines() == [f"c1: {it}" for it in ("requested", "pulling-image", "booting", "ready")]


def test_start_passes_on_all_that_it_is_given(shelf, loopnest, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_MODEL", "openai/gpt")
    monkeypatch.setenv("LLM_API_KEY", "sk-model")
    monkeypatch.setenv("PASSWORD", "hunter2")
    (tmp_path / "more.env").write_text("# comment\n\nFROM_FILE=a=b\n")
    options = ["--repository", "o/r", "--branch", "b", "--image", "i", "--instructions", "be brief", "--env", "K=V"]
    options += ["--env-file", "more.env", "--secret", "PASSWORD", "--secret", "TYPED=-", "-m", "hello"]
    loopnest("start", "c1", *options, stdin="typed in\n")
    made = kept(shelf)["c1"]
    assert made["api_key"] == "sk-model"
    assert made["secrets"] == {"PASSWORD": "hunter2", "TYPED": "typed in"}
    assert made["environment"] == {"FROM_FILE": "a=b", "K": "V"}
    conversation = made["request"]["conversation"]
    assert conversation["llm"]["model"] == "openai/gpt"
    assert conversation["initial_message"]["text"] == "hello"
    assert [conversation[it] for it in ("repository", "branch", "instructions")] == ["o/r", "b", "be brief"]
    assert made["request"]["image"] == "i"


def test_pausing_is_refused_by_the_name_of_the_strategy(shelf, loopnest):
    loopnest("start", "c1")
    result = loopnest("pause", "c1", code=1)
    assert result.stderr.startswith("error (unsupported): The strategy 'shelf' can't pause or resume loops")
    assert "c1: running" in loopnest("resume", "c1").stderr


def test_a_secret_is_never_taken_from_the_command_line(shelf, loopnest):
    result = loopnest("start", "c1", "--secret", "TOKEN=abc123", code=2)
    assert result.stderr.startswith("error (invalid-request): '--secret' takes a name only")
    assert "abc123" not in result.output


def test_a_secret_without_its_variable_is_an_error(shelf, loopnest):
    assert "'NO_SUCH_THING'" in loopnest("start", "c1", "--secret", "NO_SUCH_THING", code=2).stderr


def test_a_malformed_variable_is_not_repeated(shelf, loopnest):
    result = loopnest("start", "c1", "--env", "hunter2", code=2)
    assert "NAME=VALUE" in result.stderr
    assert "hunter2" not in result.output


@pytest.mark.parametrize("conversation_id", ["-x/..", "../c", "a b", "a" * 65])
def test_an_id_that_is_none_is_an_error_that_names_the_field(shelf, loopnest, conversation_id):
    assert "'conversation_id'" in loopnest("start", "--", conversation_id, code=2).stderr


def test_a_failed_start_says_why_and_shows_the_last_log_lines(shelf, loopnest):
    result = loopnest("start", "doomed", code=1)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-6:] == [
        "error (oom-killed): It ran out of memory.",
        "exit code of the nested server: 137",
        "its last log lines:",
        "  importing",
        "  MemoryError",
        "hint: Give loops more memory in the configuration; 'loopnest config' shows the limits.",
    ]
    assert loopnest.json("list")["loops"][0]["reason"] == "oom-killed"
    assert "doomed: It ran out of memory." in loopnest("list").stderr


def test_a_failed_start_is_one_json_document_for_programs(shelf, loopnest):
    result = loopnest("start", "doomed", "--json", code=1)
    assert result.stdout == ""
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert error["reason"] == "oom-killed"
    assert error["exit_code"] == 137
    assert error["log_tail"][0] == "importing"


def test_an_engine_that_is_off_has_an_exit_code_of_its_own(shelf, loopnest):
    assert "error (engine-unreachable)" in loopnest("start", "unplugged", code=4).stderr


def test_session_keys_are_shown_on_request_only(shelf, loopnest):
    start = loopnest("start", "c1", "--json").output
    assert "key-of-c1" not in start + loopnest("list").output + loopnest("list", "--json").output
    assert loopnest.json("list", "--show-keys")["loops"][0]["session_key"] == "key-of-c1"
    assert "key-of-c1" in loopnest("list", "--show-keys").stdout


def test_the_operator_lists_the_loops_of_everyone_and_a_user_his_own(shelf, loopnest):
    loopnest("start", "c2", "--user", "bob")
    loopnest("start", "c1", "--user", "alice")
    loopnest("close", "c2")
    assert [it["conversation_id"] for it in loopnest.json("list")["loops"]] == ["c1", "c2"]
    assert [it["conversation_id"] for it in loopnest.json("list", "--user", "bob")["loops"]] == ["c2"]
    assert [it["conversation_id"] for it in loopnest.json("list", "--status", "stopped")["loops"]] == ["c2"]
    assert [it["conversation_id"] for it in loopnest.json("list", "c1", "nobody")["loops"]] == ["c1"]


def test_list_asks_nested_servers_on_request(shelf, loopnest):
    loopnest("start", "c1")
    assert loopnest.json("list")["loops"][0]["agent_status"] is None
    assert loopnest.json("list", "--probe")["loops"][0]["agent_status"] == "idle"


def test_a_listing_of_nothing_is_empty_for_programs_and_says_so_to_people(shelf, loopnest):
    assert loopnest.json("list") == {"loops": []}
    result = loopnest("list")
    assert (result.stdout, result.stderr) == ("", "No loops.\n")


@pytest.mark.parametrize(
    ("given", "stdin", "event"),
    [
        (["hello"], None, {"kind": "message", "text": "hello", "image_urls": [], "run": True}),
        (["-"], "from a pipe", {"kind": "message", "text": "from a pipe", "image_urls": [], "run": True}),
        (
            ["x", "--image-url", "http://i"],
            None,
            {"kind": "message", "text": "x", "image_urls": ["http://i"], "run": True},
        ),
        (["--control", "pause"], None, {"kind": "control", "action": "pause"}),
        (["--raw", '{"a": 1}'], None, {"kind": "raw", "payload": {"a": 1}}),
    ],
)
def test_send_makes_an_event_of_what_it_is_given(shelf, loopnest, given, stdin, event):
    loopnest("start", "c1")
    sent = loopnest.json("send", "c1", *given, stdin=stdin)
    assert sent == {"conversation_id": "c1", "response": event}


@pytest.mark.parametrize(
    "given",
    [[], ["text", "--control", "run"], ["--control", "run", "--image-url", "u"], ["--raw", "["], ["--raw", "1"]],
)
def test_send_refuses_what_is_no_event(shelf, loopnest, given):
    loopnest("start", "c1")
    assert "error (invalid-request)" in loopnest("send", "c1", *given, code=2).stderr


def test_a_loop_of_somebody_else_is_not_found(shelf, loopnest):
    loopnest("start", "c1", "--user", "alice")
    for command in (["send", "c1", "hi"], ["close", "c1"], ["logs", "c1"], ["events", "c1"]):
        result = loopnest(*command, "--user", "mallory", code=3)
        assert result.stderr.splitlines() == [
            "error (not-found): No loop for conversation 'c1'.",
            "hint: 'loopnest list' shows the loops there are.",
        ]
    loopnest("send", "c1", "hi", "--user", "alice")


def test_close_says_how_it_went_and_may_be_repeated(shelf, loopnest):
    loopnest("start", "c1")
    assert loopnest("close", "c1").stderr.splitlines()[-1] == "c1: stopped"
    assert loopnest("close", "c1").stderr.splitlines()[-1] == "c1: it did not run"
    assert loopnest.json("close", "c1", "--remove")["removed"] is True
    assert loopnest.json("list") == {"loops": []}


def test_the_mistake_of_a_plugin_is_told_without_a_traceback(shelf, loopnest):
    loopnest("start", "c1")
    result = loopnest("send", "c1", "bug", code=1)
    assert result.stderr.splitlines()[0] == "error (internal): RuntimeError: a plugin's mistake"
    assert "Traceback" in loopnest("-v", "send", "c1", "bug", code=1).stderr
