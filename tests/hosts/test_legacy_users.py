"""The real legacy host with users: what each may see of conversations in containers, and what reaches a loop."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import socketio

from .legacy_process import LegacyHost, Listener, printed, said, state
from .legacy_stage import BOOT, GitServer, Stage, git_server, override

pytestmark = pytest.mark.timeout(900)
PACKAGES = Path(__file__).parent / "packages"
SECRET = "tell-nobody-42"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
#: What somebody else's agent did, to be done again.
RECORDING = [
    {"id": 0, "source": "user", "action": "message", "args": {"content": "the recorded words", "image_urls": []}},
    {"id": 1, "source": "agent", "action": "run", "args": {"command": "echo replayed-$((4+4))", "thought": ""}},
    {"id": 2, "source": "agent", "action": "finish", "args": {"final_thought": "done", "outputs": {}, "thought": ""}},
]


@pytest.fixture(scope="module")
def git(on_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    with git_server(on_stage.gateway, tmp_path_factory.mktemp("git")) as server:
        yield server


@pytest.fixture(scope="module")
def host(on_stage: Stage, git: GitServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LegacyHost]:
    directory = tmp_path_factory.mktemp("legacy")
    (directory / "extra").mkdir()
    (directory / "extra" / "file.txt").write_text("from-a-volume\n")
    with on_stage.host(
        directory,
        git.port,
        PYTHONPATH=os.pathsep.join([str(PACKAGES), override(directory / "site")]),
        OPENHANDS_CONFIG_CLS="legacy_config.WithUsers",
        OPENHANDS_CONVERSATION_VALIDATOR_CLS="legacy_users.CookieValidator",
        LOOPNEST_OVERRIDES='["redact"]',
        LOOPNEST_OPENHANDS_LEGACY__LIMIT="1",
        NESTED_RUNTIME_BROWSER_HOST="http://localhost",
        SANDBOX_VOLUMES=f"{directory}/extra:/extra:ro",
        SANDBOX_RUNTIME_STARTUP_ENV_VARS=json.dumps({"ALLOW_INSECURE_GIT_ACCESS": "true", "STARTUP": "from-startup"}),
    ).running() as host:
        yield host


class Browser:
    """One user's."""

    def __init__(self, host: LegacyHost, user: str) -> None:
        self._host, self._user = host, user
        self._listeners: list[Listener] = []
        self.http = httpx.AsyncClient(base_url=host.url, timeout=BOOT, cookies={"user": user})

    async def create(self, **body: Any) -> str:
        created = await self.http.post("/api/conversations", json=body)
        assert created.is_success, created.text
        return str(created.json()["conversation_id"])

    async def one(self, conversation_id: str) -> Any:
        return (await self.http.get(f"/api/conversations/{conversation_id}")).json()

    async def join(self, conversation_id: str) -> Listener:
        self._listeners.append(await Listener.connect(self._host.url, conversation_id, user=self._user))
        return self._listeners[-1]

    async def close(self) -> None:
        for listener in self._listeners:
            await listener.leave()
        await self.http.aclose()


@pytest.fixture
async def alice(host: LegacyHost) -> AsyncIterator[Browser]:
    browser = Browser(host, "alice")
    yield browser
    await browser.close()


@pytest.fixture
async def bob(host: LegacyHost) -> AsyncIterator[Browser]:
    browser = Browser(host, "bob")
    yield browser
    await browser.close()


@pytest.fixture(scope="module")
def shared() -> dict[str, str]:
    """The conversations of this module's story."""
    return {}


async def test_all_that_two_users_ask_for_reaches_their_nested_servers(
    alice: Browser, bob: Browser, on_stage: Stage, git: GitServer, shared: dict[str, str]
) -> None:
    await _configure(alice.http, on_stage, git)
    words = "run: cat */topic.txt topic.txt; cat /extra/file.txt; echo length ${#TOKEN}; echo $STARTUP"
    shared["alice's"] = await alice.create(
        initial_user_msg=words,
        image_urls=[PIXEL],
        conversation_instructions="Answer in rhymes.",
        repository="team/tool",
        selected_branch="topic",
        git_provider="gitlab",
    )
    shared["bob's"] = await bob.create(replay_json=json.dumps(RECORDING))
    hers, his = await asyncio.gather(alice.join(shared["alice's"]), bob.join(shared["bob's"]))
    output = str((await hers.until(printed("from-startup"), BOOT))["content"])
    assert "from-the-topic-branch" in output
    assert "from-a-volume" in output
    assert f"length {len(SECRET)}" in output
    await hers.until(state("finished"))
    asked = (it for it in on_stage.model.requests if words in it.asked.message and it.asked.tools)
    seen = json.dumps(next(asked).body)
    assert PIXEL in seen
    assert "Answer in rhymes." in seen
    await his.until(printed("replayed-8"), BOOT)
    assert any(said("the recorded words")(event) for event in his.events)


async def _configure(http: httpx.AsyncClient, on_stage: Stage, git: GitServer) -> None:
    """Settings, a secret and a token, which the host's own stores keep for everybody."""
    tokens = {"gitlab": {"token": git.token, "host": git.url, "user_id": None}}
    for path, body in (
        ("/api/settings", on_stage.settings),
        ("/api/secrets", {"name": "TOKEN", "value": SECRET, "description": "of the tests"}),
        ("/api/add-git-providers", {"provider_tokens": tokens}),
    ):
        response = await http.post(path, json=body)
        assert response.is_success, (path, response.text)


async def test_a_users_events_are_on_the_host_and_secrets_where_nobody_looks(
    host: LegacyHost, alice: Browser, on_stage: Stage, shared: dict[str, str]
) -> None:
    hers = shared["alice's"]
    path = f"/api/conversations/{hers}"
    events = (await alice.http.get(f"{path}/events?limit=100")).json()["events"]
    assert any(printed("from-startup")(event) for event in events)
    trajectory = (await alice.http.get(f"{path}/trajectory")).json()["trajectory"]
    assert any(printed("from-startup")(event) for event in trajectory)
    one = await alice.one(hers)
    assert one["url"].startswith("http://localhost:")
    async with httpx.AsyncClient(headers={"X-Session-API-Key": one["session_api_key"]}) as nested:
        assert (await nested.get(one["url"])).json()["conversation_id"] == hers
    container = json.dumps(on_stage.engine.inspect_container(on_stage.container_of(hers)))
    for hidden in (one["session_api_key"], "from-startup", SECRET, "sk-scripted"):
        assert hidden not in container
        assert hidden not in host.log


async def test_no_user_sees_drives_or_closes_another_users_conversation_or_learns_its_key(
    alice: Browser, bob: Browser, shared: dict[str, str]
) -> None:
    hers = shared["alice's"]
    key = (await alice.one(hers))["session_api_key"]
    listed = (await bob.http.get("/api/conversations")).json()["results"]
    assert [it["conversation_id"] for it in listed] == [shared["bob's"]]
    answers = [await bob.http.get(f"/api/conversations/{hers}"), *[it async for it in _attempts(bob, hers)]]
    for answer in answers:
        assert key not in answer.text
    assert answers[0].json() is None
    assert {answer.status_code for answer in answers[1:]} <= {403, 404, 500}, [it.status_code for it in answers]
    await bob.http.post(f"/api/conversations/{hers}/stop")
    await bob.http.delete(f"/api/conversations/{hers}")
    with pytest.raises(socketio.exceptions.ConnectionError):
        await bob.join(hers)
    mine = await alice.one(hers)
    assert (mine["status"], mine["session_api_key"]) == ("RUNNING", key)
    assert (await bob.one(shared["bob's"]))["status"] == "RUNNING"


async def _attempts(thief: Browser, conversation_id: str) -> Any:
    path = f"/api/conversations/{conversation_id}"
    event = {"action": "message", "args": {"content": "run: echo stolen"}}
    for route, body in (
        ("events", event),
        ("message", {"message": "run: echo stolen"}),
        ("start", {"providers_set": []}),
    ):
        yield await thief.http.post(f"{path}/{route}", json=body)
    for route in (
        "list-files",
        "select-file?file=topic.txt",
        "zip-directory",
        "vscode-url",
        "git/changes",
        "microagents",
    ):
        yield await thief.http.get(f"{path}/{route}")
        await asyncio.sleep(0.2)  # within the host's own rate limit


async def test_an_override_in_front_of_the_containers_sees_what_users_say(
    alice: Browser, shared: dict[str, str]
) -> None:
    listener = await alice.join(shared["alice's"])
    await listener.say(f"run: echo sk-{'y' * 9}")
    told = await listener.until(said("sk-[redacted]"))
    assert "yyy" not in json.dumps(told)
    assert not [event for event in listener.events if said("stolen")(event)]


async def test_at_the_limit_a_users_own_conversation_is_closed_and_its_clients_are_told_why(
    alice: Browser, bob: Browser, shared: dict[str, str]
) -> None:
    listener = await alice.join(shared["alice's"])
    another = await alice.create()
    await listener.until(lambda event: event.get("id") == "AGENT_ERROR$TOO_MANY_CONVERSATIONS")
    assert (await alice.one(shared["alice's"]))["status"] == "STOPPED"
    assert (await alice.one(another))["status"] in {"STARTING", "RUNNING"}
    assert (await bob.one(shared["bob's"]))["status"] == "RUNNING"
