from __future__ import annotations

import pytest
from pydantic import SecretStr

from loopnest import Llm, Message, NestedError, ProviderToken, Secret
from loopnest_nested.dialects.agent_server.creation import creation, merged, message

from ..start_requests import start_request

LLM = Llm(model="openai/x", api_key=SecretStr("sk"), base_url="http://model/v1")


def body_of(tools=("terminal", "glob", "file_editor", "task_tracker"), **facts):
    return creation(start_request("c", **facts), "nested-id", "/work", tools)


def test_without_anything_the_server_decides_about_the_agent():
    body = body_of(tools=())
    assert body["conversation_id"] == "nested-id"
    assert body["workspace"] == {"kind": "LocalWorkspace", "working_dir": "/work"}
    assert body["agent_settings"] == {}
    assert "initial_message" not in body


def test_the_agent_gets_the_model_the_instructions_and_the_tools_that_the_server_can_run():
    agent = body_of(llm=LLM, instructions="Be brief.")["agent_settings"]
    assert agent["llm"] == {"model": "openai/x", "api_key": "sk", "base_url": "http://model/v1", "usage_id": "agent"}
    assert agent["agent_context"] == {"system_message_suffix": "Be brief."}
    assert agent["tools"] == [{"name": "terminal"}, {"name": "file_editor"}, {"name": "task_tracker"}]


def test_secrets_and_provider_tokens_are_variables_of_which_custom_ones_win():
    body = body_of(
        secrets={"A": Secret(value=SecretStr("a"), description="an A"), "GITLAB_TOKEN": Secret(value=SecretStr("own"))},
        provider_tokens={
            "github": ProviderToken(token=SecretStr("gh")),
            "gitlab": ProviderToken(token=SecretStr("gl"), host="git.example.org"),
        },
    )
    assert body["secrets"] == {
        "GITHUB_TOKEN": {"kind": "StaticSecret", "value": "gh", "description": "Access token for github"},
        "GITLAB_TOKEN": {"kind": "StaticSecret", "value": "own"},
        "A": {"kind": "StaticSecret", "value": "a", "description": "an A"},
    }


def test_a_first_message_goes_along_unless_the_agent_must_not_run():
    assert body_of(initial_message=Message(text="go"))["initial_message"] == message(Message(text="go"))
    assert "initial_message" not in body_of(initial_message=Message(text="wait", run=False))


def test_messages_carry_their_images():
    assert message(Message(text="look", image_urls=("https://a/b.png",), run=False)) == {
        "role": "user",
        "content": [{"type": "text", "text": "look"}, {"type": "image", "image_urls": ["https://a/b.png"]}],
        "run": False,
    }


def test_settings_are_merged_over_everything_and_their_secrets_are_read():
    body = body_of(
        llm=LLM,
        tags={"a": "1"},
        settings={
            "max_iterations": 5,
            "tags": {"b": "2"},
            "agent_settings": {"llm": {"api_key": SecretStr("other"), "stop": ("x",)}, "tools": [{"name": "glob"}]},
        },
    )
    assert body["max_iterations"] == 5
    assert body["tags"] == {"a": "1", "b": "2"}
    assert body["agent_settings"]["llm"]["api_key"] == "other"
    assert body["agent_settings"]["llm"]["stop"] == ["x"]
    assert body["agent_settings"]["llm"]["model"] == "openai/x"
    assert body["agent_settings"]["tools"] == [{"name": "glob"}]


def test_an_agent_described_in_full_gets_the_rest_of_the_request():
    body = body_of(llm=LLM, instructions="Be brief.", settings={"agent": {"kind": "Agent", "llm": {"temperature": 1}}})
    assert "agent_settings" not in body
    assert body["agent"]["llm"]["model"] == "openai/x"
    assert body["agent"]["llm"]["temperature"] == 1
    assert body["agent"]["agent_context"] == {"system_message_suffix": "Be brief."}


@pytest.mark.parametrize("settings", [{"agent": {"kind": "ACPAgent"}}, {"agent_settings": {"agent_kind": "acp"}}])
def test_agents_of_other_kinds_have_tools_of_their_own(settings):
    body = body_of(settings=settings)
    assert "tools" not in (body.get("agent") or body["agent_settings"])


def test_a_stored_agent_gets_the_instructions_its_own_way_and_no_second_model():
    settings = {"agent_profile_id": "4711"}
    body = body_of(instructions="Be brief.", settings=settings)
    assert body["agent_profile_id"] == "4711"
    assert body["agent_launch_additions"] == {"system_message_suffix_append": "Be brief."}
    assert "agent_settings" not in body
    with pytest.raises(NestedError, match="leave out 'llm'"):
        body_of(llm=LLM, settings=settings)


def test_what_the_server_would_refuse_is_left_to_it():
    assert body_of(llm=LLM, settings={"agent": "mine"})["agent"] == "mine"


def test_merging_replaces_what_is_not_a_mapping_and_changes_neither_side():
    below, above = {"a": {"x": 1, "y": [1]}, "b": 1}, {"a": {"y": [2]}, "b": {"z": 1}}
    assert merged(below, above) == {"a": {"x": 1, "y": [2]}, "b": {"z": 1}}
    assert below == {"a": {"x": 1, "y": [1]}, "b": 1}
