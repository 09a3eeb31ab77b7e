"""The scripted model, asked over HTTP as an agent server asks."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from loopnest_cli.scripted_model import Asked, Call, ScriptedModel, Text, Turn, serve

TERMINAL_AND_FINISH = ("terminal", "finish")


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    with serve("127.0.0.1") as running:
        yield running


def ask(model: ScriptedModel, *messages: dict[str, Any], tools: tuple[str, ...] = (), **more: Any) -> httpx.Response:
    offered = [{"type": "function", "function": {"name": name}} for name in tools]
    body = {"model": "scripted", "messages": list(messages), "tools": offered, **more}
    headers = {"Authorization": "Bearer sk-test"}
    return httpx.post(f"{model.url}/chat/completions", json=body, headers=headers, trust_env=False)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


ASSISTANT: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": []}
TOOL: dict[str, Any] = {"role": "tool", "tool_call_id": "x", "content": "output"}


def message_of(response: httpx.Response) -> dict[str, Any]:
    return dict(response.raise_for_status().json()["choices"][0]["message"])


def call_of(response: httpx.Response) -> tuple[str, dict[str, Any]]:
    function = message_of(response)["tool_calls"][0]["function"]
    return function["name"], json.loads(function["arguments"])


def test_a_run_message_is_answered_with_a_terminal_call(model: ScriptedModel) -> None:
    response = ask(model, user("please\nrun: echo hello"), tools=TERMINAL_AND_FINISH)
    assert call_of(response) == ("terminal", {"command": "echo hello"})
    assert response.json()["choices"][0]["finish_reason"] == "tool_calls"


def test_the_legacy_servers_tool_is_called_by_its_own_name(model: ScriptedModel) -> None:
    assert call_of(ask(model, user("run: ls"), tools=("execute_bash", "finish"))) == ("execute_bash", {"command": "ls"})


def test_after_the_terminal_call_the_model_finishes(model: ScriptedModel) -> None:
    response = ask(model, user("run: ls"), ASSISTANT, TOOL, tools=TERMINAL_AND_FINISH)
    assert call_of(response) == ("finish", {"message": "I ran: ls"})


def test_a_new_user_message_starts_the_script_again(model: ScriptedModel) -> None:
    said = [user("run: ls"), ASSISTANT, TOOL, ASSISTANT, TOOL, user("run: pwd")]
    assert call_of(ask(model, *said, tools=TERMINAL_AND_FINISH)) == ("terminal", {"command": "pwd"})


def test_a_script_may_depend_on_what_the_tools_returned() -> None:
    def script(asked: Asked) -> list[Turn]:
        return [Text("go")] * asked.turn + [Text(f"returned {asked.results}")]

    before = [user("go"), ASSISTANT, TOOL]
    parts = {**TOOL, "content": [{"type": "text", "text": "in parts"}]}
    with serve("127.0.0.1", script=script) as model:
        said = message_of(ask(model, *before, user("go"), ASSISTANT, TOOL, ASSISTANT, parts))
        assert said["content"] == "returned ('output', 'in parts')"
        assert message_of(ask(model, *before, user("go")))["content"] == "returned ()"


def test_context_that_a_server_adds_beside_the_users_words_does_not_hide_them(model: ScriptedModel) -> None:
    said = [user([{"type": "text", "text": "run: ls"}]), user("<RUNTIME_INFORMATION>\nhost\n</RUNTIME_INFORMATION>")]
    assert call_of(ask(model, *said, tools=TERMINAL_AND_FINISH)) == ("terminal", {"command": "ls"})


def test_any_other_message_is_acknowledged(model: ScriptedModel) -> None:
    assert call_of(ask(model, user("hello"), tools=TERMINAL_AND_FINISH)) == ("finish", {"message": "You said: hello"})


def test_without_tools_the_model_answers_in_text(model: ScriptedModel) -> None:
    assert message_of(ask(model, user("run: ls")))["content"] == "You said: run: ls"


def test_a_fixed_script_is_followed_turn_by_turn_and_then_says_that_it_is_over() -> None:
    with serve("127.0.0.1", script=[Text("one"), Call("terminal", {"command": "two"})]) as model:
        assert message_of(ask(model, user("go")))["content"] == "one"
        assert call_of(ask(model, user("go"), ASSISTANT)) == ("terminal", {"command": "two"})
        assert message_of(ask(model, user("go"), ASSISTANT, ASSISTANT))["content"] == "The script is over."


@pytest.mark.parametrize("message", ["run: ls", "hello"])
def test_a_streamed_answer_carries_the_same_turn_in_chunks(model: ScriptedModel, message: str) -> None:
    whole = message_of(ask(model, user(message), tools=("terminal",)))
    response = ask(model, user(message), tools=("terminal",), stream=True)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    delta = json.loads(lines[0])["choices"][0]["delta"]
    assert response.headers["content-type"] == "text/event-stream"
    assert lines[-1] == "[DONE]"
    assert delta["content"] == whole["content"]
    assert [call["function"] for call in delta.get("tool_calls", [])] == [
        call["function"] for call in whole.get("tool_calls", [])
    ]


def test_the_models_it_has_are_listed(model: ScriptedModel) -> None:
    listed = httpx.get(f"{model.url}/models", trust_env=False).raise_for_status().json()
    assert [entry["id"] for entry in listed["data"]] == ["scripted"]


def test_requests_are_kept_with_the_key_they_came_with(model: ScriptedModel) -> None:
    ask(model, user("hello"), tools=("finish",))
    (seen,) = model.requests
    assert (seen.api_key, seen.asked.message, seen.asked.tools) == ("sk-test", "hello", frozenset({"finish"}))


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"messages": "x"}', b'{"messages": [1]}'])
def test_a_body_that_is_no_request_is_refused_with_a_reason(model: ScriptedModel, content: bytes) -> None:
    response = httpx.post(f"{model.url}/chat/completions", content=content, trust_env=False)
    assert response.status_code == 400
    assert "not a chat completion request" in response.json()["error"]["message"]


def test_an_unknown_path_is_named(model: ScriptedModel) -> None:
    assert "/v1/completions" in httpx.post(f"{model.url}/completions", json={}, trust_env=False).text


def test_fifty_conversations_are_served_at_once(model: ScriptedModel) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: message_of(ask(model, user(f"number {n}")))["content"], range(50)))
    assert answers == [f"You said: number {n}" for n in range(50)]
