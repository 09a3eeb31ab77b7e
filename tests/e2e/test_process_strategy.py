"""The process strategy with the real agent server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from loopnest import Conversation, Llm, LoopManager, LoopnestSettings, Message, StartLoop
from loopnest.testing import StrategyConformance
from loopnest_cli import scripted_model
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import get_dialect
from loopnest_process.hooks import ProcessStrategy
from loopnest_process.settings import ProcessSettings

from .. import requirements
from ..processes import at_home, kill_processes_of, processes_of
from ..received import received

ALICE = "alice@example.com"
#: Nobody listens there; the messages of these tests do not run the agent.
LLM = Llm(model="openai/scripted", api_key=SecretStr("sk-nobody"), base_url="http://127.0.0.1:9/v1")


@pytest.fixture(scope="session")
def agent_server_python() -> Path:
    """An interpreter that has the real agent server."""
    return Path(requirements.server("agent-server-1.58.0"))


@pytest.fixture
def new_manager(agent_server_python, tmp_path):
    settings = LoopnestSettings(strategy="process", state_dir=tmp_path, secret="a secret of the tests")
    process = ProcessSettings(python=agent_server_python, environment=at_home(tmp_path))
    yield lambda: LoopManager.from_plugins(ProcessStrategy(process), settings=settings)
    kill_processes_of(tmp_path)


class TestProcessStrategy(StrategyConformance):
    @pytest.fixture
    def new_manager(self, new_manager):
        return new_manager

    async def received(self, loops, conversation_id):
        return await received(loops, conversation_id)

    def new_request(self, conversation_id):
        return StartLoop(conversation_id=conversation_id, conversation=Conversation(llm=LLM))

    def broken_request(self, conversation_id):
        environment = {"OH_SESSION_API_KEYS_1": SecretStr("["), "PYTHONHOME": SecretStr("/nowhere")}
        return StartLoop(conversation_id=conversation_id, environment=environment)


async def test_an_agent_works_on_while_its_host_is_away_and_leaves_no_process_behind(new_manager, tmp_path):
    with scripted_model.serve("127.0.0.1") as model:
        llm = Llm(model="openai/scripted", api_key=SecretStr("sk-scripted"), base_url=model.url)
        work = Message(text="run: sleep 1; echo six times seven is $((6 * 7)) > answer")
        async with new_manager() as loops:
            request = StartLoop(conversation_id="c1", conversation=Conversation(llm=llm, initial_message=work))
            await loops.start_loop(request, ALICE)
        async with new_manager() as loops:
            loop = await loops.get_loop("c1", ALICE)
            await asyncio.wait_for(_finished(loop), 180)
            assert await asyncio.wait_for(_content(tmp_path, "workspace/answer"), 60) == "six times seven is 42\n"
            assert (await loops.close_session("c1", ALICE)).graceful
            assert list(processes_of(tmp_path)) == []


async def _finished(loop):
    """Wait until the agent says that it is done, through the url and key that a listing returned."""
    async with new_http_client() as http:
        server = NestedServer(loop.url, loop.session_key, http)
        events = get_dialect(loop.dialect).events(server, loop.conversation_id, follow=True)
        await anext(event async for event in events if event.get("tool_name") == "finish")


async def _content(directory, pattern):
    """What is in the one file that matches; the agent's terminal may say that it is done a moment before it is."""
    while not (found := [path.read_text() for path in directory.rglob(pattern) if path.stat().st_size]):
        await asyncio.sleep(0.1)
    return found[0]
