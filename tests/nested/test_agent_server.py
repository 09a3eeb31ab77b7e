from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from loopnest import ConfigurationError, Control, Llm, Message, NestedError, RawEvent, StartLoop
from loopnest_nested.dialects import Place, get_dialect
from loopnest_nested.dialects.agent_server import AgentServer, dialect
from loopnest_nested.session_keys import derive

from ..start_requests import start_request

PLACE = Place(workspace="/work", data="/data")
UUID = "11111111-2222-4333-8444-555555555555"
PATH = f"/api/conversations/{UUID}"
SPOKEN = AgentServer()

pytestmark = pytest.mark.usefixtures("no_waiting")


@pytest.fixture
def created(fake, answer):
    """A server that has no conversation and takes one."""
    fake.on("GET /server_info", answer(200, {"usable_tools": ["terminal"]}))
    fake.on("POST /api/conversations", answer(201, {"id": UUID}))
    return fake.on(f"POST {PATH}/events", answer())


def request(**facts) -> StartLoop:
    return start_request(UUID, **facts)


def body(fake, what: str) -> dict:
    return json.loads(fake.asked(what)[-1].content)


def test_it_is_found_by_its_name_and_others_are_listed():
    assert isinstance(get_dialect("agent-server"), AgentServer)
    with pytest.raises(ConfigurationError, match="agent-server"):
        get_dialect("agent-sever")


def test_ids_that_are_uuids_stay_and_others_are_derived_for_ever():
    assert SPOKEN.nested_id(UUID) == UUID
    assert SPOKEN.nested_id(UUID.replace("-", "").upper()) == UUID
    assert SPOKEN.nested_id("conversation-1") == "764badc8-4d54-58c6-9497-c89c9346d5b4"
    assert uuid.UUID(SPOKEN.nested_id("x"))


def test_secrets_are_in_the_secret_environment_only():
    keys = derive(SecretStr("s"), "nonce")
    secret = {name: value.get_secret_value() for name, value in SPOKEN.secret_environment(keys).items()}
    assert secret == {
        "OH_SESSION_API_KEYS_0": keys.session.get_secret_value(),
        "OH_SECRET_KEY": keys.at_rest.get_secret_value(),
    }
    public = str([SPOKEN.environment(PLACE, 8000), SPOKEN.command("127.0.0.1", 8000)])
    assert not any(value in public for value in secret.values())


def test_the_configuration_file_can_be_made_by_nobody():
    path = Path(SPOKEN.environment(PLACE, 8000)["OPENHANDS_AGENT_SERVER_CONFIG_PATH"])
    assert not path.exists()
    with pytest.raises(NotADirectoryError):
        path.touch()


@pytest.mark.parametrize(
    ("status", "alive"), [(httpx.Response(200), True), (httpx.Response(503), False), (httpx.ConnectError("no"), False)]
)
async def test_it_is_alive_once_it_says_that_it_is_ready(fake, status, alive):
    assert await SPOKEN.alive(fake.on("GET /ready", status).server) is alive
    assert await SPOKEN.agent_status(fake.server, None) == ("ready" if alive else None)


async def test_a_new_conversation_is_created_with_what_the_server_can_run(created):
    await SPOKEN.ensure_conversation(created.server, request(), PLACE)
    assert body(created, "POST /api/conversations")["agent_settings"]["tools"] == [{"name": "terminal"}]


async def test_a_conversation_that_exists_is_left_as_it_is(fake, answer):
    fake.on(f"GET {PATH}", answer(200, {"execution_status": "paused"}))
    await SPOKEN.ensure_conversation(fake.server, request(replay=[1], repository="a/b"), PLACE)
    assert len(fake.requests) == 1


async def test_a_first_message_that_does_not_run_is_sent_by_who_created_the_conversation(created, answer):
    waiting = request(initial_message=Message(text="wait", run=False))
    await SPOKEN.ensure_conversation(created.server, waiting, PLACE)
    assert body(created, f"POST {PATH}/events")["run"] is False
    created.on("POST /api/conversations", answer(200, {"id": UUID}))
    await SPOKEN.ensure_conversation(created.server, waiting, PLACE)
    assert len(created.asked(f"POST {PATH}/events")) == 1


async def test_creating_is_tried_again_where_that_may_help(created, answer):
    full, lost = answer(429, {"detail": "full"}), httpx.RemoteProtocolError("gone")
    created.on("POST /api/conversations", full, lost, answer(201, {"id": UUID}))
    await SPOKEN.ensure_conversation(created.server, request(), PLACE)
    assert len(created.asked("POST /api/conversations")) == 3


async def test_a_refusal_is_not_tried_again_and_tells_no_secret(created, answer):
    created.on("POST /api/conversations", answer(422, {"detail": "the key sk-1test is bad"}))
    with pytest.raises(NestedError, match=r"the key \*+ is bad") as caught:
        await SPOKEN.ensure_conversation(
            created.server, request(llm=Llm(model="m", api_key=SecretStr("sk-1test"))), PLACE
        )
    assert caught.value.http_status == 422
    assert len(created.asked("POST /api/conversations")) == 1


async def test_a_replay_is_refused_before_anything_is_done(created):
    with pytest.raises(NestedError, match="without 'replay'"):
        await SPOKEN.ensure_conversation(created.server, request(replay=[{}]), PLACE)
    assert not created.asked("POST /api/conversations")


async def test_the_status_is_the_servers_own_word_and_none_where_there_is_no_conversation(fake, answer):
    assert await SPOKEN.agent_status(fake.server, UUID) is None
    fake.on(f"GET {PATH}", answer(200, {"execution_status": "stuck"}))
    assert await SPOKEN.agent_status(fake.server, UUID) == "stuck"


@pytest.mark.parametrize("odd", [httpx.Response(500), httpx.Response(200, json=[]), httpx.Response(200, text="<html>")])
async def test_a_status_that_is_none_is_an_error(fake, odd):
    with pytest.raises(NestedError):
        await SPOKEN.agent_status(fake.on(f"GET {PATH}", odd).server, UUID)


async def test_events_go_where_they_belong(fake, answer):
    for path in ("events", "run", "pause", "interrupt"):
        fake.on(f"POST {PATH}/{path}", answer())
    await SPOKEN.send(fake.server, UUID, Message(text="hello", run=False))
    assert body(fake, f"POST {PATH}/events") == {
        "role": "user",
        "content": [{"type": "text", "text": "hello"}],
        "run": False,
    }
    await SPOKEN.send(fake.server, UUID, RawEvent(payload={"any": "thing"}))
    assert body(fake, f"POST {PATH}/events") == {"any": "thing"}
    for action in ("run", "pause", "interrupt"):
        assert await SPOKEN.send(fake.server, UUID, Control(action=action)) == {"success": True}
        assert fake.asked(f"POST {PATH}/{action}")


async def test_an_agent_that_runs_already_need_not_be_told_to(fake, answer):
    fake.on(f"POST {PATH}/run", answer(409, {"detail": "already running"}))
    assert await SPOKEN.send(fake.server, UUID, Control(action="run")) == {"detail": "already running"}


async def test_a_message_that_the_server_has_but_can_not_run_yet_is_run_and_not_sent_again(fake, answer):
    fake.on(f"POST {PATH}/events", answer(429, {"detail": "full"}))
    fake.on(f"POST {PATH}/run", answer(429, {"detail": "full"}), answer())
    await SPOKEN.send(fake.server, UUID, Message(text="hello"))
    assert len(fake.asked(f"POST {PATH}/events")) == 1
    assert len(fake.asked(f"POST {PATH}/run")) == 2


async def test_a_message_is_never_sent_twice(fake):
    fake.on(f"POST {PATH}/events", httpx.ReadError("gone"))
    with pytest.raises(NestedError, match="can't be reached"):
        await SPOKEN.send(fake.server, UUID, Message(text="hello"))
    assert len(fake.requests) == 1


async def test_a_message_that_waits_for_the_agents_step_says_what_that_means(fake):
    fake.on(f"POST {PATH}/events", httpx.ReadTimeout("slow"))
    with pytest.raises(NestedError, match="before sending it again") as caught:
        await SPOKEN.send(fake.server, UUID, Message(text="hello"))
    assert caught.value.reason == "nested-timeout"


async def test_quiesce_pauses_and_waits_until_the_step_is_over(fake, answer):
    running, paused = (answer(200, {"execution_status": word}) for word in ("running", "paused"))
    fake.on(f"GET {PATH}", running, running, paused).on(f"POST {PATH}/pause", answer())
    await SPOKEN.quiesce(fake.server, UUID)
    assert len(fake.asked(f"GET {PATH}")) == 3
    assert not fake.asked(f"POST {PATH}/interrupt")


async def test_quiesce_interrupts_a_step_that_does_not_end(fake, answer, monkeypatch):
    monkeypatch.setattr(dialect, "_GRACE", 0.1)
    fake.on(f"GET {PATH}", answer(200, {"execution_status": "running"}))
    fake.on(f"POST {PATH}/pause", answer()).on(f"POST {PATH}/interrupt", answer())
    await asyncio.wait_for(SPOKEN.quiesce(fake.server, UUID), 5)
    assert len(fake.asked(f"POST {PATH}/interrupt")) == 1


@pytest.mark.parametrize("status", ["idle", "finished", "error"])
async def test_quiesce_leaves_an_agent_that_does_nothing_alone(fake, answer, status):
    fake.on(f"GET {PATH}", answer(200, {"execution_status": status}))
    await SPOKEN.quiesce(fake.server, UUID)
    assert len(fake.requests) == 1


async def test_quiesce_of_a_bare_loop_asks_every_agent_that_runs(fake, answer):
    fake.on("GET /api/conversations/search", answer(200, {"items": [{"id": UUID}], "next_page_id": None}))
    running, paused = (answer(200, {"execution_status": word}) for word in ("running", "paused"))
    fake.on(f"GET {PATH}", running, paused).on(f"POST {PATH}/pause", answer())
    await SPOKEN.quiesce(fake.server, None)
    assert fake.asked("GET /api/conversations/search")[0].url.params["status"] == "running"
    assert fake.asked(f"POST {PATH}/pause")


async def test_a_search_that_answers_something_else_is_an_error(fake, answer):
    fake.on("GET /api/conversations/search", answer(200, []))
    with pytest.raises(NestedError):
        await SPOKEN.quiesce(fake.server, None)
