"""Files that an agent leaves where it works, or in its home, are never taken for the nested server's own."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loopnest import Llm, LoopManager, LoopnestSettings, Message
from loopnest_cli import scripted_model
from loopnest_cli.scripted_model import ScriptedModel
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import get_dialect
from loopnest_process.hooks import ProcessStrategy
from loopnest_process.settings import ProcessSettings

from ..processes import kill_processes_of
from ..start_requests import start_request
from . import planted
from .test_process_strategy import agent_server_python  # noqa: F401 - a fixture

ALICE = "alice"
#: Seconds for a turn of the agent on a busy machine.
PATIENCE = 120
Stage = tuple[LoopManager, ScriptedModel, str]


@pytest.fixture
async def docker(settings, open_manager, agent_server_image) -> AsyncIterator[Stage]:
    """Loops in containers, a model that they reach, and the nested server's own directory."""
    engine = Engine(DockerSettings().engine)
    gateway = await Network(engine, DockerSettings(), settings.namespace).gateway()
    with scripted_model.serve(gateway) as model:
        port = httpx.URL(model.url).port
        loops = await open_manager(image=agent_server_image, host_access=[port], close_timeout=10)
        yield loops, model, DockerSettings().data
    await engine.aclose()


@pytest.fixture
def home(tmp_path) -> Iterator[Path]:
    """The home of agents without a container."""
    directory = tmp_path / "home"
    directory.mkdir()
    yield directory
    kill_processes_of(tmp_path)


@pytest.fixture
async def process(home, tmp_path, agent_server_python) -> AsyncIterator[Stage]:  # noqa: F811
    """Loops in processes, and the same."""
    settings = LoopnestSettings(strategy="process", state_dir=tmp_path, secret=SecretStr("a secret of the tests"))
    # The agent's python3 is no virtual environment's: those import nothing from the home directory.
    path = os.pathsep.join((str(Path(sys.base_prefix) / "bin"), os.environ["PATH"]))
    own = ProcessSettings(python=agent_server_python, environment={"HOME": str(home), "PATH": path})
    with scripted_model.serve("127.0.0.1") as model:
        async with LoopManager.from_plugins(ProcessStrategy(own), settings=settings) as loops:
            yield loops, model, str(tmp_path / "default" / "process" / "loops" / "c1" / "data")


@pytest.fixture(params=["docker", "process"])
def stage(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


async def terminal(loops: LoopManager, commands: int) -> list[str]:
    """What the agent's terminal showed of each command, once the agent has finished as many turns."""
    return await asyncio.wait_for(_terminal(loops, commands), PATIENCE)


async def _terminal(loops: LoopManager, commands: int) -> list[str]:
    loop, shown, finished = await loops.get_loop("c1", ALICE), [], 0
    async with new_http_client() as http:
        server = NestedServer(str(loop.url), loop.session_key or SecretStr(""), http)
        async for event in get_dialect("agent-server").events(server, "c1", follow=True):
            if event.get("kind") != "ObservationEvent":
                continue
            text = "".join(part["text"] for part in event["observation"]["content"])
            shown += [text] if event["tool_name"] == "terminal" else []
            finished += event["tool_name"] == "finish"
            if finished == commands:
                break
    return shown


async def test_a_loop_comes_back_whatever_its_agent_wrote(stage):
    loops, model, data = stage
    llm = Llm(model="openai/scripted", api_key=SecretStr("sk-scripted"), base_url=model.url)
    plant = Message(text=f"run: {planted.command(data)}; pwd")
    await loops.start_loop(start_request("c1", llm=llm, initial_message=plant), ALICE)
    [shown] = await terminal(loops, 1)
    assert shown.startswith("planted everything"), shown
    assert (await loops.close_session("c1", ALICE)).graceful

    await loops.start_loop(start_request("c1"), ALICE)
    await loops.send_event("c1", Message(text=f"run: pwd; {planted.LOOK}; grep -o usercustomize ~/imported"), ALICE)
    before, after = await terminal(loops, 2)
    assert before == shown
    directory, *found = after.splitlines()
    assert directory == shown.splitlines()[-1]
    assert found == [*planted.SEEN, "usercustomize"]  # which its own program imports, as it always did
