"""The dialect of the legacy server against a small imitation of it that has its rate limit and its pitfalls."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from loopnest import Control, Llm, Message, NestedError, ProviderToken, RawEvent, Secret, StartLoop
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Place, get_dialect
from loopnest_nested.dialects.openhands_v0 import OpenHandsV0, mailbox
from loopnest_nested.session_keys import derive, new_nonce

from ..start_requests import start_request

PLACE = Place(workspace="/work", data="/data")


class Imitation:
    """Answers as the legacy server does; ``limit`` is its number of requests a second, None for none."""

    def __init__(self) -> None:
        self.limit: int | None = None
        self.requests: list[tuple[str, str, Any]] = []
        self.refused = 0
        self.arrivals: list[float] = []
        self.status: str | None = None
        self.runtime_status = "STATUS$READY"
        self.events: list[dict[str, Any]] = []
        self.secrets: set[str] = set()
        self.fail_next_event = False

    def agent(self, state: str) -> None:
        self.add({"source": "environment", "observation": "agent_state_changed", "extras": {"agent_state": state}})

    def add(self, event: dict[str, Any]) -> None:
        self.events.append({"id": len(self.events), **event})

    def bodies(self, path: str) -> list[Any]:
        return [body for method, asked, body in self.requests if method == "POST" and asked == path]

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.limit and not await self._admitted(self.limit):
            return httpx.Response(429, json={"message": "Too many requests"}, headers={"Retry-After": "1"})
        body = json.loads(request.content) if request.content else None
        self.requests.append((request.method, request.url.path, body))
        return self._answer(request, body)

    async def _admitted(self, limit: int) -> bool:
        now = time.monotonic()
        self.arrivals = [it for it in self.arrivals if it > now - 1] + [now]
        if len(self.arrivals) > 2 * limit:
            self.refused += 1
            return False
        if len(self.arrivals) > limit:
            await asyncio.sleep(1)
        return True

    def _answer(self, request: httpx.Request, body: Any) -> httpx.Response:
        path, method = request.url.path, request.method
        if path == "/api/secrets":
            return self._secret(body)
        if path == "/api/conversations":
            self.status = self.status or "STARTING"
            return httpx.Response(200, json={"status": "ok", "conversation_status": "STARTING"})
        if path.endswith("/events"):
            return self._event(body) if method == "POST" else self._page(request.url.params)
        if path.endswith(("/start", "/stop")):
            self.status = "STARTING" if path.endswith("/start") else "STOPPED"
            return httpx.Response(200, json={"status": "ok"})
        if path.startswith("/api/conversations/"):
            info = {"status": self.status, "runtime_status": self.runtime_status}
            return httpx.Response(200, json=info if self.status else None)
        return httpx.Response(200, json={"message": "ok"})

    def _secret(self, body: Any) -> httpx.Response:
        if body["name"] in self.secrets:
            return httpx.Response(400, json={"message": f"Secret {body['name']} already exists"})
        self.secrets.add(body["name"])
        return httpx.Response(201, json={"message": "Secret created successfully"})

    def _event(self, body: Any) -> httpx.Response:
        if self.fail_next_event or self.status == "STOPPED":
            self.fail_next_event = False
            return httpx.Response(500, text="Internal Server Error")
        self.add({"source": "user", **body})
        return httpx.Response(200, json={"success": True})

    def _page(self, params: httpx.QueryParams) -> httpx.Response:
        if self.status is None:
            return httpx.Response(404, json={"detail": "Conversation not found"})
        limit, start = int(params["limit"]), int(params.get("start_id", 0))
        found = self.events[start:]
        if params.get("reverse") == "true":
            found = found[::-1]
        return httpx.Response(200, json={"events": found[:limit], "has_more": len(found) > limit})


@pytest.fixture
def imitation() -> Imitation:
    return Imitation()


@pytest.fixture
async def server(imitation: Imitation) -> AsyncIterator[NestedServer]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(imitation)) as http:
        yield NestedServer("http://nested", derive_keys().session, http)


def derive_keys():
    from pydantic import SecretStr

    return derive(SecretStr("host secret"), new_nonce())


@pytest.fixture
def dialect() -> OpenHandsV0:
    return OpenHandsV0()


def request(**more: Any) -> StartLoop:
    return start_request(llm=Llm(model="openai/gpt-4o", api_key="sk-1", base_url="http://m/v1"), **more)


def test_it_is_found_by_its_name():
    assert isinstance(get_dialect("openhands-v0"), OpenHandsV0)


def test_keys_are_in_the_secret_environment_and_nowhere_else(dialect):
    keys = derive_keys()
    secret = {name: value.get_secret_value() for name, value in dialect.secret_environment(keys).items()}
    assert secret["SESSION_API_KEY"] == keys.session.get_secret_value()
    assert not set(secret.values()) & set(dialect.environment(PLACE, 8000).values())


def test_files_are_kept_where_the_strategy_says(dialect):
    environment = dialect.environment(PLACE, 3000)
    assert (environment["WORKSPACE_BASE"], environment["FILE_STORE_PATH"], environment["port"]) == (
        "/work",
        "/data",
        "3000",
    )


async def test_everything_that_a_request_says_reaches_the_server_before_the_conversation_does(
    dialect, server, imitation
):
    await dialect.ensure_conversation(
        server,
        request(
            settings={"max_iterations": 7},
            initial_message=Message(text="hi", image_urls=("data:image/png;base64,AA",)),
            instructions="be brief",
            repository="owner/name",
            branch="main",
            git_provider="github",
            provider_tokens={"github": ProviderToken(token="gh-1", host="github.example")},
            secrets={"TOKEN": Secret(value="s-1", description="a token")},
        ),
        PLACE,
    )
    paths = [path for method, path, _ in imitation.requests if method == "POST"]
    assert paths == ["/api/settings", "/api/add-git-providers", "/api/secrets", "/api/conversations"]
    [settings] = imitation.bodies("/api/settings")
    assert (settings["llm_model"], settings["llm_api_key"], settings["max_iterations"]) == ("openai/gpt-4o", "sk-1", 7)
    [tokens] = imitation.bodies("/api/add-git-providers")
    assert tokens == {"provider_tokens": {"github": {"token": "gh-1", "user_id": None, "host": "github.example"}}}
    [secret] = imitation.bodies("/api/secrets")
    assert secret == {"name": "TOKEN", "value": "s-1", "description": "a token"}
    [created] = imitation.bodies("/api/conversations")
    assert created == {
        "conversation_id": "c1",
        "initial_user_msg": "hi",
        "image_urls": ["data:image/png;base64,AA"],
        "conversation_instructions": "be brief",
        "repository": "owner/name",
        "selected_branch": "main",
        "git_provider": "github",
    }


async def test_recorded_events_are_sent_as_the_text_that_the_server_reads(dialect, server, imitation):
    await dialect.ensure_conversation(server, request(replay=[{"action": "message"}]), PLACE)
    [created] = imitation.bodies("/api/conversations")
    assert json.loads(created["replay_json"]) == [{"action": "message"}]


async def test_recorded_events_and_a_first_message_exclude_each_other(dialect, server, imitation):
    with pytest.raises(NestedError, match="or 'initial_message'"):
        await dialect.ensure_conversation(server, request(replay=[], initial_message=Message(text="hi")), PLACE)
    assert not [path for method, path, _ in imitation.requests if method == "POST"]


async def test_repeating_the_setup_is_harmless(dialect, server, imitation):
    imitation.secrets.add("TOKEN")
    await dialect.ensure_conversation(server, request(secrets={"TOKEN": Secret(value="s-1")}), PLACE)
    assert imitation.status == "STARTING"


async def test_a_running_conversation_is_left_alone(dialect, server, imitation):
    imitation.status = "RUNNING"
    await dialect.ensure_conversation(server, request(initial_message=Message(text="again")), PLACE)
    assert [method for method, _, _ in imitation.requests] == ["GET"]


async def test_a_stopped_conversation_is_resumed_with_fresh_tokens_and_without_its_first_message(
    dialect, server, imitation
):
    imitation.status = "STOPPED"
    imitation.add({"source": "user", "action": "message"})
    again = request(initial_message=Message(text="hi"), provider_tokens={"github": ProviderToken(token="new")})
    await dialect.ensure_conversation(server, again, PLACE)
    assert not imitation.bodies("/api/conversations")
    assert imitation.bodies("/api/conversations/c1/start") == [{"providers_set": ["github"]}]
    assert imitation.bodies("/api/add-git-providers")


async def test_a_conversation_whose_server_died_before_the_first_message_still_gets_it(dialect, server, imitation):
    imitation.status = "STOPPED"
    imitation.agent("loading")
    await dialect.ensure_conversation(server, request(initial_message=Message(text="hi")), PLACE)
    assert imitation.bodies("/api/conversations")[0]["initial_user_msg"] == "hi"


async def test_a_stopped_conversation_is_resumed_as_it_is_where_the_request_says_nothing(dialect, server, imitation):
    imitation.status = "STOPPED"
    await dialect.ensure_conversation(server, StartLoop(conversation_id="c1"), PLACE)
    assert [path for method, path, _ in imitation.requests if method == "POST"] == ["/api/conversations/c1/start"]


@pytest.mark.parametrize("status", [None, "STOPPED"])
async def test_there_is_no_agent_where_the_conversation_is_unknown_or_stopped(dialect, server, imitation, status):
    imitation.status = status
    assert await dialect.agent_status(server, "c1") is None


async def test_the_agent_s_state_is_that_of_its_latest_change(dialect, server, imitation):
    imitation.status = "RUNNING"
    imitation.agent("loading")
    imitation.agent("awaiting_user_input")
    imitation.add({"source": "agent", "action": "message"})
    assert await dialect.agent_status(server, "c1") == "awaiting_user_input"


async def test_an_agent_that_changed_long_ago_runs(dialect, server, imitation):
    imitation.status = "RUNNING"
    imitation.agent("running")
    for _ in range(150):
        imitation.add({"source": "agent", "action": "run"})
    assert await dialect.agent_status(server, "c1") == "running"


async def test_a_runtime_that_failed_is_an_error(dialect, server, imitation):
    imitation.status, imitation.runtime_status = "STARTING", "STATUS$ERROR_RUNTIME_DISCONNECTED"
    assert await dialect.agent_status(server, "c1") == "error"


async def test_fifty_events_at_once_arrive_in_order_and_none_is_refused(dialect, server, imitation):
    imitation.status, imitation.limit = "RUNNING", 10
    imitation.agent("awaiting_user_input")
    sent = [RawEvent(payload={"action": "message", "args": {"content": str(n)}}) for n in range(50)]
    await asyncio.gather(*(dialect.send(server, "c1", event) for event in sent))
    arrived = [event["args"]["content"] for event in imitation.events if event["source"] == "user"]
    assert arrived == [str(n) for n in range(50)]
    assert imitation.refused == 0


async def test_a_refused_request_is_repeated(dialect, server, imitation):
    imitation.status, imitation.limit = "RUNNING", 10
    imitation.agent("awaiting_user_input")
    imitation.arrivals = [time.monotonic()] * 20
    await dialect.send(server, "c1", Message(text="hi"))
    assert imitation.refused
    assert imitation.events[-1]["args"] == {"content": "hi", "image_urls": []}


async def test_an_event_waits_until_the_agent_has_loaded(dialect, server, imitation):
    imitation.status = "STARTING"
    sending = asyncio.ensure_future(dialect.send(server, "c1", Message(text="hi")))
    await _until(lambda: len(imitation.requests) >= 2)
    imitation.status = "RUNNING"
    imitation.agent("loading")
    seen = len(imitation.requests)
    await _until(lambda: len(imitation.requests) >= seen + 4)
    assert not imitation.bodies("/api/conversations/c1/events")
    imitation.agent("awaiting_user_input")
    await sending
    assert imitation.events[-1]["args"]["content"] == "hi"


async def test_a_stopped_conversation_is_resumed_by_an_event(dialect, server, imitation):
    imitation.status = "STOPPED"
    sending = asyncio.ensure_future(dialect.send(server, "c1", Message(text="hi")))
    await _until(lambda: imitation.status == "STARTING")
    imitation.status = "RUNNING"
    imitation.agent("awaiting_user_input")
    await sending
    assert imitation.events[-1]["args"]["content"] == "hi"


async def test_an_event_is_sent_again_where_the_conversation_was_stopped_between(dialect, server, imitation):
    imitation.status = "RUNNING"
    imitation.agent("awaiting_user_input")
    await dialect.send(server, "c1", Message(text="one"))
    imitation.fail_next_event = True
    await dialect.send(server, "c1", Message(text="two"))
    assert [event["args"]["content"] for event in imitation.events if event["source"] == "user"] == ["one", "two"]


@pytest.mark.parametrize(("action", "state"), [("run", "running"), ("pause", "paused"), ("interrupt", "stopped")])
async def test_steering_changes_the_agent_s_state(dialect, server, imitation, action, state):
    imitation.status = "RUNNING"
    imitation.agent("awaiting_user_input")
    await dialect.send(server, "c1", Control(action=action))
    assert imitation.events[-1]["action"] == "change_agent_state"
    assert imitation.events[-1]["args"] == {"agent_state": state}


async def test_a_message_that_must_not_start_the_agent_is_refused(dialect, server):
    with pytest.raises(NestedError, match="run"):
        await dialect.send(server, "c1", Message(text="hi", run=False))


async def test_all_events_are_read_page_by_page(dialect, server, imitation):
    imitation.status = "STOPPED"
    for n in range(250):
        imitation.add({"source": "agent", "action": "run", "n": n})
    assert [event["n"] async for event in dialect.events(server, "c1", follow=False)] == list(range(250))


async def test_following_goes_on_with_new_events_and_repeats_none(dialect, server, imitation):
    imitation.status = "RUNNING"
    imitation.add({"n": 0})
    following = dialect.events(server, "c1", follow=True)
    first = await anext(following)
    imitation.add({"n": 1})
    second = await asyncio.wait_for(anext(following), 5)
    await following.aclose()
    assert [first["n"], second["n"]] == [0, 1]


async def test_events_of_an_unknown_conversation_are_an_error(dialect, server):
    with pytest.raises(NestedError) as raised:
        [event async for event in dialect.events(server, "c1", follow=False)]
    assert raised.value.http_status == 404


async def test_quiescing_stops_the_conversation(dialect, server, imitation):
    imitation.status = "RUNNING"
    await dialect.quiesce(server, "c1")
    assert imitation.status == "STOPPED"


async def test_a_bare_loop_is_ready_once_it_answers_and_has_nothing_to_stop(dialect, server, imitation):
    assert await dialect.agent_status(server, None) == "ready"
    await dialect.quiesce(server, None)
    assert [path for _, path, _ in imitation.requests] == ["/alive"]


def test_mailboxes_that_nobody_uses_are_dropped(monkeypatch):
    monkeypatch.setattr(mailbox, "_MANY", 2)
    mailboxes, http = mailbox.Mailboxes(), httpx.AsyncClient()
    server = NestedServer("http://nested", derive_keys().session, http)
    for n in range(10):
        mailboxes.of(server, str(n))
    assert len(mailboxes._of[http]) <= 3


async def _until(condition) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 10)
