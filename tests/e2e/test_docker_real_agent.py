"""The real agent server in a real container, with a real agent whose model follows a script."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loopnest import Llm, LoopFailed, LoopManager, LoopQuery, LoopStatus, Message, Reason, StartLoop
from loopnest_cli import scripted_model
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import get_dialect

from .. import requirements
from ..start_requests import start_request

SDK_CLIENT = Path(__file__).with_name("sdk_client.py")


@pytest.fixture
async def model(settings) -> AsyncIterator[scripted_model.ScriptedModel]:
    """A scripted model on the one address of this host that loops see."""
    docker_settings = DockerSettings()
    engine = Engine(docker_settings.engine)
    gateway = await Network(engine, docker_settings, settings.namespace).gateway()
    with scripted_model.serve(gateway) as served:
        yield served
    await engine.aclose()


@pytest.fixture
async def manager(open_manager, agent_server_image, model) -> LoopManager:
    port = httpx.URL(model.url).port
    return await open_manager(image=agent_server_image, host_access=[port], close_timeout=10)


def request(model: scripted_model.ScriptedModel, text: str | None = None, **more: Any) -> StartLoop:
    llm = Llm(model="openai/scripted", api_key="sk-scripted", base_url=model.url)
    message = Message(text=text) if text else None
    return start_request("c1", llm=llm, initial_message=message, **more)


async def finished(loop: Any, turns: int) -> list[dict[str, Any]]:
    """The loop's events, read through the url and key that were listed, once the agent has finished ``turns`` times."""
    dialect, found = get_dialect(loop.dialect), []
    async with new_http_client() as http:
        server = NestedServer(loop.url, loop.session_key, http)
        async for event in dialect.events(server, loop.conversation_id, follow=True):
            found.append(event)
            if sum(1 for it in found if _is_finish(it)) == turns:
                return found
    return found


def _is_finish(event: dict[str, Any]) -> bool:
    return event.get("kind") == "ObservationEvent" and event.get("tool_name") == "finish"


def outputs(events: list[dict[str, Any]]) -> str:
    return "\n".join(str(it["observation"]) for it in events if it.get("kind") == "ObservationEvent")


async def test_the_agent_runs_a_command_in_the_container_and_its_output_is_read_from_the_events(manager, model):
    commands = "run: echo six times seven is $((6 * 7)); cat /etc/hostname; whoami"
    await manager.start_loop(request(model, commands), "alice")
    [loop] = await _listed(manager)
    events = await asyncio.wait_for(finished(loop, 1), 60)
    assert "six times seven is 42" in outputs(events)
    assert "agent" in outputs(events)


async def test_a_stopped_loop_comes_back_with_its_history_workspace_and_model_key(manager, model):
    await manager.start_loop(request(model, "run: echo kept > note.txt"), "alice")
    [loop] = await _listed(manager)
    await asyncio.wait_for(finished(loop, 1), 60)
    closed = await manager.close_session("c1", "alice")
    assert closed.graceful, closed
    back = await manager.start_loop(StartLoop(conversation_id="c1"), "alice")
    await manager.send_event("c1", Message(text="run: cat note.txt"), "alice")
    events = await asyncio.wait_for(finished(back, 2), 60)
    assert "kept" in outputs(events)
    assert {seen.api_key for seen in model.requests} == {"sk-scripted"}


async def test_the_sdk_s_own_remote_client_drives_the_loop(manager, model):
    interpreter = requirements.server("agent-server-1.58.0")
    await manager.start_loop(request(model), "alice")
    [loop] = await _listed(manager)
    client = await asyncio.create_subprocess_exec(
        interpreter,
        str(SDK_CLIENT),
        loop.url,
        loop.nested_id,
        model.url,
        "run: echo by the $((1 + 0))st party client",
        stdout=asyncio.subprocess.PIPE,
        env={
            **os.environ,
            "SESSION_KEY": loop.session_key.get_secret_value(),
            "PYTHONWARNINGS": "ignore",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its import fails where it can't fetch that
        },
    )
    output, _ = await asyncio.wait_for(client.communicate(), 120)
    assert client.returncode == 0
    assert "by the 1st party client" in output.decode()


async def test_secrets_reach_the_agent_s_terminal_and_no_listing(manager, model, engine, containers):
    secrets = {"DEPLOY_TOKEN": {"value": "tok-123456", "description": "for deployments"}}
    command = 'run: test "$DEPLOY_TOKEN" = tok-123456 && echo it is there'
    await manager.start_loop(request(model, command, secrets=secrets), "alice")
    [loop] = await _listed(manager)
    events = await asyncio.wait_for(finished(loop, 1), 60)
    assert "it is there" in outputs(events)
    assert "tok-123456" not in str(engine.inspect_container(containers()[0]["Id"]))


async def _listed(manager: LoopManager) -> list[Any]:
    loops = await manager.list_loops(LoopQuery(user_id="alice", probe=True))
    assert [loop.status for loop in loops] == [LoopStatus.RUNNING]
    return loops


async def test_a_store_that_a_full_disk_truncated_is_reported_and_kept(manager, model, engine, containers):
    loop = await manager.start_loop(request(model, "run: echo work >/workspace/project/work"), "alice")
    await finished(loop, 1)
    [container] = containers()
    truncate = "find /workspace/.openhands/conversations -type f -exec truncate -s 0 {} +"
    ran = engine.exec_create(container["Id"], ["sh", "-c", truncate])
    assert await asyncio.to_thread(engine.exec_start, ran["Id"]) == b""
    engine.kill(container["Id"])
    with pytest.raises(LoopFailed) as caught:
        await manager.start_loop(request(model), "alice")
    assert caught.value.reason == Reason.HISTORY_LOST
    archive, stat = engine.get_archive(container["Id"], "/workspace/project/work")
    assert stat["size"] == len("work\n")
    assert b"".join(archive)  # or the SDK keeps the connection open
