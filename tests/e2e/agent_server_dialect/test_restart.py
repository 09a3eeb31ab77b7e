from __future__ import annotations

import asyncio
import signal
from contextlib import aclosing

import pytest

from loopnest import Message
from loopnest_nested.dialects.agent_server import history


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_conversation_goes_on_after_its_server_was_started_again(new_process, drive, how, monkeypatch):
    monkeypatch.setattr(history, "_PATIENCE", 300)  # busy machines take a minute to start the server
    process = await asyncio.to_thread(new_process)
    driver = drive(process)
    request = driver.request(initial_message=Message(text="run: echo before"))
    conversation = await driver.ensure(request)
    before = await driver.until_status(conversation, "finished")

    async with aclosing(driver.dialect.events(driver.server, conversation, follow=True)) as events:
        followed = [(await anext(events))["id"]]
        await asyncio.to_thread(process.stop, how)
        reading = asyncio.ensure_future(collect_until_message(events, "run: echo after"))
        await asyncio.to_thread(process.start)
        await driver.ensure(request)
        await driver.dialect.send(driver.server, conversation, Message(text="run: echo after"))
        followed += await asyncio.wait_for(reading, 30)

    after = await driver.until_status(conversation, "finished", times=2)
    ids = [event["id"] for event in after]
    assert ids[: len(before)] == [event["id"] for event in before]
    assert followed == ids[: len(followed)]
    assert driver.model.requests[-1].api_key == "sk-very-secret"


async def collect_until_message(events, text) -> list[str]:
    ids = []
    async for event in events:
        ids.append(event["id"])
        if event["kind"] == "MessageEvent" and event["llm_message"]["content"][0]["text"] == text:
            return ids
    raise AssertionError
