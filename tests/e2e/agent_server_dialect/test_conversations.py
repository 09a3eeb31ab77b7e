from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Any

import pytest
from pydantic import SecretStr

from loopnest import Control, Llm, Message, NestedError, ProviderToken, RawEvent, Secret

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5E"
    "rkJggg=="
)


def output_of(events: list[dict[str, Any]]) -> str:
    observations = [event["observation"] for event in events if event["kind"] == "ObservationEvent"]
    return "\n".join(part["text"] for seen in observations for part in seen["content"] if part["type"] == "text")


def said_by_user(events: list[dict[str, Any]]) -> list[str]:
    messages = [
        event["llm_message"] for event in events if event["kind"] == "MessageEvent" and event["source"] == "user"
    ]
    return [message["content"][0]["text"] for message in messages]


async def test_the_agent_runs_a_command_and_its_output_is_in_the_events(driver):
    conversation = await driver.start(initial_message=Message(text="run: echo answer-$((40 + 2))"))
    events = await driver.until_status(conversation, "finished")
    assert "answer-42" in output_of(events)
    assert await driver.status(conversation) == "finished"


async def test_a_later_message_gets_a_turn_of_its_own_and_no_event_is_read_twice(driver):
    conversation = await driver.start(initial_message=Message(text="run: echo first"))
    await driver.until_status(conversation, "finished")
    await driver.dialect.send(driver.server, conversation, Message(text="run: echo second"))
    followed = await driver.until_status(conversation, "finished", times=2)
    past = await driver.past(conversation)
    assert "first" in output_of(past)
    assert "second" in output_of(past)
    assert len({event["id"] for event in past}) == len(past)
    assert [event["id"] for event in followed] == [event["id"] for event in past][: len(followed)]


async def test_starts_at_the_same_time_make_one_conversation_and_send_its_message_once(driver):
    request = driver.request(initial_message=Message(text="run: echo once"))
    await asyncio.gather(*(driver.ensure(request) for _ in range(5)))
    await driver.ensure(request)
    events = await driver.until_status(request.conversation_id, "finished")
    assert said_by_user(events) == ["run: echo once"]


async def test_a_first_message_that_does_not_run_waits_for_the_agent_to_be_started(driver):
    request = driver.request(initial_message=Message(text="run: echo later", run=False))
    conversation = await driver.ensure(request)
    await driver.ensure(request)
    assert said_by_user(await driver.past(conversation)) == ["run: echo later"]
    assert await driver.status(conversation) == "idle"
    await driver.dialect.send(driver.server, conversation, Control(action="run"))
    assert "later" in output_of(await driver.until_status(conversation, "finished"))


async def test_secrets_are_in_the_agents_terminal_by_name_and_in_no_event(driver):
    conversation = await driver.start(
        initial_message=Message(text='run: printf %s "$DEPLOY_KEY$GITHUB_TOKEN" | sha256sum; echo "$DEPLOY_KEY"'),
        secrets={"DEPLOY_KEY": Secret(value=SecretStr("deploy-me-4711"), description="for the deployment")},
        provider_tokens={"github": ProviderToken(token=SecretStr("ghp-abcdef"))},
    )
    events = await driver.until_status(conversation, "finished")
    assert hashlib.sha256(b"deploy-me-4711ghp-abcdef").hexdigest() in output_of(events)
    everything = json.dumps(events) + json.dumps(await driver.info(conversation))
    for secret in ("deploy-me-4711", "ghp-abcdef", "sk-very-secret"):
        assert secret not in everything


async def test_images_instructions_tags_and_settings_reach_the_server(driver):
    seeing = Llm(model="openai/gpt-4o", api_key=SecretStr("sk-very-secret"), base_url=driver.model.url)
    conversation = await driver.start(
        llm=seeing,
        initial_message=Message(text="look", image_urls=(PIXEL,)),
        instructions="Always answer in verse.",
        tags={"team": "blue"},
        settings={"max_iterations": 7, "agent_settings": {"llm": {"temperature": 0.5}}},
    )
    events = await driver.until_status(conversation, "finished")
    info = await driver.info(conversation)
    assert info["tags"] == {"team": "blue"}
    assert info["max_iterations"] == 7
    assert info["agent"]["llm"]["temperature"] == 0.5
    assert info["agent"]["llm"]["model"] == "openai/gpt-4o"
    assert PIXEL in json.dumps(events)
    asked = json.dumps(driver.model.requests[-1].body)
    assert PIXEL in asked
    assert "Always answer in verse." in asked


async def test_an_agent_described_in_full_gets_the_model_and_the_instructions_too(driver):
    conversation = await driver.start(
        initial_message=Message(text="run: echo described"),
        instructions="Be brief.",
        settings={"agent": {"kind": "Agent", "tools": [{"name": "terminal"}]}},
    )
    assert "described" in output_of(await driver.until_status(conversation, "finished"))
    agent = (await driver.info(conversation))["agent"]
    assert [tool["name"] for tool in agent["tools"]] == ["terminal"]
    assert agent["agent_context"]["system_message_suffix"] == "Be brief."


async def test_what_the_server_refuses_is_said_without_the_secrets(driver):
    with pytest.raises(NestedError) as caught:
        await driver.start(tags={"Not Lower": "x"}, settings={"max_iterations": -1, "api_key": "sk-other"})
    assert caught.value.http_status == 422
    assert "tags" in caught.value.message
    assert "max_iterations" in caught.value.message
    assert "sk-" not in caught.value.message


async def test_a_replay_is_refused_in_words(driver):
    with pytest.raises(NestedError, match="replay"):
        await driver.start(replay=[{"kind": "MessageEvent"}])


async def test_quiesce_interrupts_a_long_step_and_the_agent_can_go_on(driver):
    conversation = await driver.start(initial_message=Message(text="run: echo warm"))
    await driver.until_status(conversation, "finished")
    await driver.dialect.send(driver.server, conversation, Message(text="run: sleep 20"))
    await driver.until_running(conversation)
    await asyncio.wait_for(driver.dialect.quiesce(driver.server, conversation), 15)
    assert await driver.status(conversation) == "paused"
    await driver.dialect.send(driver.server, conversation, Message(text="run: echo again"))
    assert "again" in output_of(await driver.until_status(conversation, "finished", times=2))


async def test_quiesce_of_a_bare_loop_stops_every_agent(driver):
    conversation = await driver.start(initial_message=Message(text="run: sleep 20"))
    await driver.until_running(conversation)
    assert await driver.dialect.agent_status(driver.server, None) == "ready"
    await driver.dialect.quiesce(driver.server, None)
    assert await driver.status(conversation) != "running"


async def test_quiesce_leaves_an_agent_that_does_nothing_as_it_is(driver):
    conversation = await driver.start()
    await driver.dialect.quiesce(driver.server, conversation)
    await driver.dialect.quiesce(driver.server, "no-such-conversation")
    assert await driver.status(conversation) == "idle"


async def test_controls_and_raw_events_are_delivered(driver):
    conversation = await driver.start()
    raw = {"role": "user", "content": [{"type": "text", "text": "run: sleep 20"}], "run": True}
    assert await driver.dialect.send(driver.server, conversation, RawEvent(payload=raw)) == {"success": True}
    await driver.until_running(conversation)
    await driver.dialect.send(driver.server, conversation, Control(action="run"))
    await driver.dialect.send(driver.server, conversation, Control(action="interrupt"))
    assert await driver.status(conversation) == "paused"


async def test_what_is_not_there_is_not_found(driver):
    assert await driver.status("no-such-conversation") is None
    with pytest.raises(NestedError) as caught:
        await driver.dialect.send(driver.server, "no-such-conversation", Message(text="hello"))
    assert caught.value.http_status == 404
