"""The real legacy server, openhands-ai 1.6.0, in a real container, with a real agent whose model follows a script."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from loopnest import Llm, Loop, LoopFailed, LoopManager, LoopQuery, Message, RawEvent, Secret, StartLoop
from loopnest_cli import scripted_model
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import get_dialect

from .. import requirements
from ..scripts import insistent
from ..start_requests import start_request
from . import planted

#: Seconds from a request until its last event: a boot of the server, and of its action server, on a busy machine.
PATIENCE = 420
Wait = Callable[[list[dict[str, Any]]], bool]
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="session")
def openhands_v0_image(engine) -> str:
    return requirements.image(engine, f"loopnest/openhands-v0:{get_dialect('openhands-v0').program.version}")


@pytest.fixture
async def model(settings) -> AsyncIterator[scripted_model.ScriptedModel]:
    """A scripted model on the one address of this host that loops see."""
    docker_settings = DockerSettings()
    engine = Engine(docker_settings.engine)
    gateway = await Network(engine, docker_settings, settings.namespace).gateway()
    with scripted_model.serve(gateway, script=insistent) as served:
        yield served
    await engine.aclose()


@pytest.fixture
async def manager(open_manager, openhands_v0_image, model) -> LoopManager:
    port = httpx.URL(model.url).port
    return await open_manager(
        dialect="openhands-v0",
        image=openhands_v0_image,
        host_access=[port],
        start_timeout=PATIENCE,
        close_timeout=20,
        probe_timeout=10,
    )


def request(model: scripted_model.ScriptedModel, text: str | None = None, **more: Any) -> StartLoop:
    # The legacy server offers tools only to models that it knows to understand them.
    llm = Llm(model="openai/gpt-4o", api_key="sk-scripted", base_url=model.url)
    message = Message(text=text) if text else None
    return start_request("c1", llm=llm, initial_message=message, **more)


async def until(loop: Loop, enough: Wait) -> list[dict[str, Any]]:
    """The conversation's events, read until there are enough of them."""
    return await asyncio.wait_for(_until(loop, enough), PATIENCE)


async def _until(loop: Loop, enough: Wait) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async with new_http_client() as http:
        assert loop.url
        assert loop.session_key
        server = NestedServer(loop.url, loop.session_key, http)
        async for event in get_dialect("openhands-v0").events(server, loop.conversation_id, follow=True):
            found.append(event)
            if enough(found):
                return found
    return found


def finished(turns: int) -> Wait:
    return lambda events: sum(1 for it in events if it.get("action") == "finish") >= turns


def outputs(events: list[dict[str, Any]]) -> str:
    return "\n".join(it["content"] for it in events if it.get("observation") == "run")


def story(events: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{it['id']} {it['source']} {it.get('action') or it.get('observation')} {it['message']}" for it in events
    )


def said(events: list[dict[str, Any]]) -> list[str]:
    return [it["args"]["content"] for it in events if it.get("action") == "message" and it.get("source") == "user"]


async def test_an_agent_works_and_comes_back_with_its_history_workspace_and_secrets(manager, model):
    commands = "echo six times seven is $((6 * 7)) | tee note.txt; whoami; echo the secret is $TOKEN; env"
    secrets = {"TOKEN": Secret(value="tell-nobody")}
    loop = await manager.start_loop(request(model, f"run: {commands}", secrets=secrets), "alice")
    events = await until(loop, finished(1))
    assert "six times seven is 42" in outputs(events)
    assert "agent" in outputs(events).split()
    assert "tell-nobody" not in str(events)  # it is in the terminal, and hidden in what the terminal says
    assert "WORKSPACE_BASE" in outputs(events)
    assert loop.session_key
    assert loop.session_key.get_secret_value() not in str(events)
    [listed] = await manager.list_loops(LoopQuery(user_id="alice", probe=True))
    assert listed.agent_status == "finished"

    closed = await manager.close_session("c1", "alice")
    assert closed.graceful, closed
    back = await manager.start_loop(StartLoop(conversation_id="c1"), "alice")
    await manager.send_event("c1", Message(text="run: cat note.txt"), "alice")
    events = await until(back, finished(2))
    assert outputs(events).count("six times seven is 42") >= 2, story(events)
    assert said(events) == [f"run: {commands}", "run: cat note.txt"]
    assert {seen.api_key for seen in model.requests} == {"sk-scripted"}


async def test_a_loop_comes_back_whatever_its_agent_wrote(manager, model):
    loop = await manager.start_loop(request(model, f"run: {planted.command(DockerSettings().data)}"), "alice")
    planting = await until(loop, finished(1))
    assert (await manager.close_session("c1", "alice")).graceful

    back = await manager.start_loop(StartLoop(conversation_id="c1"), "alice")
    await manager.send_event("c1", Message(text=f"run: {planted.LOOK}"), "alice")
    events = await until(back, finished(2))
    assert outputs(events[len(planting) :]).splitlines() == planted.SEEN


async def test_fifty_events_at_once_all_arrive_in_order_and_none_is_refused(manager, model):
    loop = await manager.start_loop(request(model), "alice")
    sent = [str(n) for n in range(50)]
    events = [RawEvent(payload={"action": "message", "args": {"content": text, "image_urls": []}}) for text in sent]
    deliveries = await asyncio.gather(*(manager.send_event("c1", event, "alice") for event in events))
    assert [delivery.response for delivery in deliveries] == [{"success": True}] * 50
    assert said(await until(loop, lambda found: len(said(found)) == 50)) == sent


async def test_images_instructions_and_a_recording_reach_the_agent(manager, model):
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
    look = Message(text="run: echo seen", image_urls=(pixel,))
    recording = [
        {"id": 0, "source": "user", "action": "message", "args": {"content": "recorded words", "image_urls": []}},
        {"id": 1, "source": "agent", "action": "run", "args": {"command": "echo replayed-$((4+4))", "thought": ""}},
        {"id": 2, "source": "agent", "action": "finish", "args": {"final_thought": "", "outputs": {}, "thought": ""}},
    ]
    llm = request(model).conversation.llm
    asked = start_request("c1", llm=llm, initial_message=look, instructions="Answer in rhymes.")
    again = start_request("c2", llm=llm, replay=recording)
    loops = await asyncio.gather(manager.start_loop(asked, "alice"), manager.start_loop(again, "alice"))
    seen, replayed = await asyncio.gather(*(until(loop, finished(1)) for loop in loops))
    [first] = [it.body for it in model.requests if it.asked.tools and it.asked.turn == 0]
    assert pixel in str(first)
    assert "Answer in rhymes." in str(first)
    assert said(seen) == ["run: echo seen"]
    assert "replayed-8" in outputs(replayed)
    assert said(replayed) == ["recorded words"]


async def test_a_request_without_a_model_is_refused_with_the_server_s_words(manager):
    with pytest.raises(LoopFailed, match="Settings not found"):
        await manager.start_loop(StartLoop(conversation_id="c2"), "alice")
