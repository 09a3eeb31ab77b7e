"""The real legacy OpenHands server, with the real nested server in containers and a model that follows a script."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import secrets
import signal
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from loopnest_nested.dialects import Place, get_dialect

from ..namespaces import FOREIGN
from ..ports import free_port
from .legacy_process import LegacyHost, Listener, printed, said, state
from .legacy_stage import BOOT, IMAGE, Stage

pytestmark = pytest.mark.timeout(900)
#: Beyond every event.
NEW_ONLY = 2**31


@pytest.fixture(scope="module")
def host(on_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LegacyHost]:
    with on_stage.host(tmp_path_factory.mktemp("legacy")).running() as host:
        yield host


@pytest.fixture
async def http(host: LegacyHost, on_stage: Stage) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=host.url, timeout=BOOT) as client:
        (await client.post("/api/settings", json=on_stage.settings)).raise_for_status()
        yield client


@pytest.fixture(scope="module")
def shared() -> dict[str, Any]:
    """The conversation that the tests of this module tell a story of, as each costs a boot."""
    return {}


async def test_a_conversation_runs_a_command_in_its_container_and_says_so(
    host: LegacyHost, http: httpx.AsyncClient, on_stage: Stage, shared: dict[str, Any]
) -> None:
    # The shell puts the words together, so that only its output has them.
    first = {"initial_user_msg": "run: git init -q; echo in-$((40+2)); hostname"}
    created = (await http.post("/api/conversations", json=first)).json()
    assert created["conversation_status"] == "STARTING"
    shared["id"] = created["conversation_id"]
    listener = await Listener.connect(host.url, shared["id"])
    output = await listener.until(printed("in-42"), BOOT)
    container = on_stage.engine.inspect_container(on_stage.container_of(shared["id"]))
    assert container["Config"]["Hostname"] in output["content"]
    await listener.until(state("finished"))
    assert len(listener.ids) == len(set(listener.ids))
    shared["latest"] = max(listener.ids)
    await listener.leave()


async def test_the_listing_says_where_it_runs_and_what_opens_it(
    http: httpx.AsyncClient, on_stage: Stage, shared: dict[str, Any]
) -> None:
    [listed] = (await http.get("/api/conversations")).json()["results"]
    one = (await http.get(f"/api/conversations/{shared['id']}")).json()
    for it in (listed, one):
        assert (it["status"], it["runtime_status"]) == ("RUNNING", "STATUS$READY")
    headers = {"X-Session-API-Key": one["session_api_key"]}
    async with httpx.AsyncClient(headers=headers) as nested:
        assert (await nested.get(one["url"])).json()["conversation_id"] == shared["id"]
    container = on_stage.engine.inspect_container(on_stage.container_of(shared["id"]))
    assert one["session_api_key"] not in json.dumps(container)


async def test_the_hosts_own_event_routes_show_the_nested_events(
    http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    events = (await http.get(f"/api/conversations/{shared['id']}/events?limit=100")).json()["events"]
    assert any(printed("in-42")(event) for event in events)
    trajectory = (await http.get(f"/api/conversations/{shared['id']}/trajectory")).json()["trajectory"]
    assert any(event.get("observation") == "run" for event in trajectory)


async def test_clients_that_join_later_are_sent_what_they_lack_and_no_more(
    host: LegacyHost, http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    behind = shared["latest"] - 2
    everything = await Listener.connect(host.url, shared["id"])
    rest = await Listener.connect(host.url, shared["id"], behind)
    await everything.until(said("echo in-"))
    await rest.until(state("finished"))
    assert min(rest.ids) > behind
    assert (await http.get(f"/api/conversations/{shared['id']}")).json()["num_connections"] == 2
    await everything.say("run: echo both-$((1+1))")
    for listener in (everything, rest):
        await listener.until(printed("both-2"))
        assert len(listener.ids) == len(set(listener.ids))
        await listener.leave()


async def test_files_are_stored_listed_read_and_archived_byte_for_byte(
    http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    path, binary = f"/api/conversations/{shared['id']}", bytes(range(256))
    files = [("files", ("note.txt", b"a note")), ("files", ("all.bin", binary))]
    uploaded = (await http.post(f"{path}/upload-files", files=files)).json()
    assert [Path(it).name for it in uploaded["uploaded_files"]] == ["note.txt", "all.bin"]
    assert uploaded["skipped_files"] == []
    assert {"note.txt", "all.bin"} <= set((await http.get(f"{path}/list-files")).json())
    read = (await http.get(f"{path}/select-file", params={"file": "note.txt"})).json()
    assert read["code"] == "a note"
    assert (await http.get(f"{path}/select-file", params={"file": "all.bin"})).status_code == 415
    assert (await http.get(f"{path}/select-file", params={"file": "none"})).status_code == 500
    archive = (await http.get(f"{path}/zip-directory")).content
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped:
        contents = {Path(name).name: zipped.read(name) for name in zipped.namelist()}
    assert (contents["note.txt"], contents["all.bin"]) == (b"a note", binary)


async def test_the_routes_that_attach_answer(http: httpx.AsyncClient, shared: dict[str, Any]) -> None:
    path = f"/api/conversations/{shared['id']}"
    answers = {}
    changed = (await http.get(f"{path}/git/changes")).json()
    assert {"path": "note.txt", "status": "A"} in changed
    assert (await http.get(f"{path}/git/diff?path=note.txt")).json() == {"original": "", "modified": "a note"}
    for route in ("vscode-url", "web-hosts", "microagents", "config"):
        answers[route] = (await http.get(f"{path}/{route}")).status_code
        await asyncio.sleep(0.2)  # within the host's own rate limit
    assert set(answers.values()) == {200}, answers


async def test_a_completion_is_asked_for_with_the_users_model(
    host: LegacyHost, http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    prompts = Path(host.directory, "openhands", "microagent", "prompts")  # the host looks in its working directory
    prompts.mkdir(parents=True)
    (prompts / "generate_remember_prompt.j2").write_text("{{ events }}")
    route = f"/api/conversations/{shared['id']}/remember-prompt"
    answer = await http.get(route, params={"event_id": shared["latest"]})
    assert answer.json() == {"status": "success", "prompt": "Remember the answer."}


async def test_fifty_events_at_once_all_arrive_in_order(
    host: LegacyHost, http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    listener = await Listener.connect(host.url, shared["id"], NEW_ONLY)
    await asyncio.gather(*(listener.say(f"number {number}.") for number in range(50)))
    await listener.until(said("number 49."))
    numbers = [event["args"]["content"] for event in listener.events if said("number ")(event)]
    assert numbers == [f"number {number}." for number in range(50)]
    assert not [event for event in listener.events if event.get("type") == "error"]
    # Over HTTP too, as the routes for it are other ones.
    path = f"/api/conversations/{shared['id']}"
    event = {"action": "message", "args": {"content": "by events"}}
    assert (await http.post(f"{path}/events", json=event)).json() == {"success": True}
    assert (await http.post(f"{path}/message", json={"message": "by message"})).json() == {"success": True}
    await listener.until(said("by events"))
    await listener.until(said("by message"))
    await listener.leave()


async def test_a_stopped_conversation_starts_again_with_workspace_and_history_when_a_client_joins_or_speaks(
    host: LegacyHost, http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    path = f"/api/conversations/{shared['id']}"
    stopped = await http.post(f"{path}/stop")
    assert stopped.json()["message"] == "Conversation stopped successfully", stopped.text
    assert (await http.get(path)).json()["status"] == "STOPPED"
    listener = await Listener.connect(host.url, shared["id"])
    await listener.until(said("echo in-"))
    await listener.say("run: cat note.txt; echo again-$((2+2))")
    output = await listener.until(printed("again-4"), BOOT)
    assert "a note" in output["content"]
    assert len(listener.ids) == len(set(listener.ids))
    await listener.leave()
    # Nobody joined, and the route answers once the event is delivered.
    assert (await http.post(f"{path}/stop")).is_success
    spoken = await http.post(f"{path}/message", json={"message": "run: echo woken-$((4+5))"})
    assert spoken.json() == {"success": True}, spoken.text
    listener = await Listener.connect(host.url, shared["id"])
    await listener.until(printed("woken-9"), BOOT)
    await listener.leave()


async def test_a_host_that_was_killed_finds_its_conversations_again_and_clients_what_they_missed(
    host: LegacyHost, http: httpx.AsyncClient, shared: dict[str, Any]
) -> None:
    path = f"/api/conversations/{shared['id']}"
    before = (await http.get(path)).json()
    listener = await Listener.connect(host.url, shared["id"])
    await listener.say("run: for n in 1 2 3; do sleep 1; done; echo missed-$((4+4))")
    await listener.until(said("missed-"))
    await asyncio.to_thread(host.stop, signal.SIGKILL)
    await asyncio.to_thread(host.start)
    after = (await http.get(path)).json()
    assert [after[it] for it in ("status", "url", "session_api_key")] == [
        "RUNNING",
        before["url"],
        before["session_api_key"],
    ]
    again = await Listener.connect(host.url, shared["id"], max(listener.ids))
    await again.until(printed("missed-8"), BOOT)
    await again.say("run: echo survived-$((3+3))")
    await again.until(printed("survived-6"), BOOT)
    assert max(listener.ids) < min(again.ids)
    stored = {int(file.stem) for file in Path(host.directory, "store", "sessions", shared["id"], "events").iterdir()}
    shown = {*listener.ids, *again.ids}
    hidden = {it for it in stored - shown if it <= max(shown) and not await _is_hidden(host, shared["id"], it)}
    assert not hidden
    await again.leave()


async def _until_ready(http: httpx.AsyncClient, conversation_id: str) -> None:
    while (await http.get(f"/api/conversations/{conversation_id}")).json()["runtime_status"] != "STATUS$READY":
        await asyncio.sleep(0.5)


async def _is_hidden(host: LegacyHost, conversation_id: str, event_id: int) -> bool:
    """Whether clients are not shown a stored event: recalls, null events, and all states but the last."""
    file = Path(host.directory, "store", "sessions", conversation_id, "events", f"{event_id}.json")
    event = json.loads(file.read_text())
    kind = event.get("action") or event.get("observation")
    return kind in {"null", "recall", "agent_state_changed"}


async def test_a_deleted_conversation_leaves_no_container_and_no_files(
    host: LegacyHost, http: httpx.AsyncClient, on_stage: Stage, shared: dict[str, Any]
) -> None:
    assert (await http.delete(f"/api/conversations/{shared['id']}")).json() is True
    assert (await http.get(f"/api/conversations/{shared['id']}")).json() is None
    assert not [name for name in on_stage.containers() if shared["id"] in name]
    assert not list(Path(host.directory, "store", "sessions").glob(f"{shared['id']}/*"))


@pytest.fixture
def upstreams(on_stage: Stage, host: LegacyHost) -> Iterator[str]:
    """A conversation whose container is as upstream's nested manager makes them; its nested server is the real one."""
    engine, sid, port = on_stage.engine, secrets.token_hex(16), free_port()
    digest = hashlib.sha256(f"a secret of the tests:{sid}".encode()).digest()
    key = base64.urlsafe_b64encode(digest).decode().replace("=", "")
    directory = Path(host.directory, "store", "sessions", sid)
    directory.mkdir(parents=True)
    facts = {"conversation_id": sid, "title": "old", "user_id": None, "selected_repository": None}
    (directory / "metadata.json").write_text(json.dumps({**facts, "created_at": "2026-01-01T00:00:00Z"}))
    own = get_dialect("openhands-v0").environment(Place("/workspace", "/root/.openhands"), port)
    container = engine.create_container(
        IMAGE,
        name=f"openhands-runtime-{sid}",
        labels={FOREIGN: on_stage.namespace},
        user="root",
        environment={**own, "port": str(port), "SESSION_API_KEY": key, "USER": "root", "SANDBOX_USER_ID": "0"},
        ports=[port],
        host_config=engine.create_host_config(
            port_bindings={port: ("127.0.0.1", port)}, binds=[f"{directory}:/root/.openhands/sessions/{sid}:rw"]
        ),
    )
    engine.start(container["Id"])
    yield sid
    engine.remove_container(container["Id"], force=True, v=True)


async def test_a_container_that_upstream_started_is_found_driven_and_closed(
    host: LegacyHost, http: httpx.AsyncClient, on_stage: Stage, upstreams: str
) -> None:
    assert (await http.get(f"/api/conversations/{upstreams}")).json()["status"] == "RUNNING"
    listener = await Listener.connect(host.url, upstreams)
    await asyncio.wait_for(_until_ready(http, upstreams), BOOT)  # its state on the engine says nothing of its server
    await listener.say("run: echo adopted-$((5+5))")
    await listener.until(printed("adopted-10"), BOOT)
    await http.post(f"/api/conversations/{upstreams}/stop")
    container = on_stage.engine.inspect_container(f"openhands-runtime-{upstreams}")
    assert container["State"]["Status"] == "exited"
