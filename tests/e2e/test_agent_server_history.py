"""The agent server as a host: real nested servers that lose their store, or claim what is not theirs."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from loopnest import LoopStatus

from .agent_server_stage import NEWEST, Outer, body, created, environment_of, message, open_outer, until

#: No test here asks a model anything.
MODEL = "http://127.0.0.1:9/v1"
STORE = "/workspace/.openhands/conversations"
Shell = Callable[[str, str], str]
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def idle() -> int:
    """Seconds without use after which loops stop."""
    return 1200


@pytest.fixture
async def outer(namespace, agent_server_image, tmp_path, idle) -> AsyncIterator[Outer]:
    environment = environment_of(namespace, tmp_path) | {"OH_CONVERSATION_IDLE_TTL_SECONDS": str(idle)}
    async with open_outer(NEWEST, environment, tmp_path) as opened:
        yield opened


@pytest.fixture
def shell(engine, containers) -> Shell:
    """Runs a command in the container of a conversation, as its agent could."""

    def run(path: str, command: str) -> str:
        container = container_of(containers(), path)["Id"]
        made = engine.exec_create(container, ["sh", "-ec", command], user="agent")
        output: str = engine.exec_start(made["Id"]).decode()
        assert engine.exec_inspect(made["Id"])["ExitCode"] == 0, output
        return output

    return run


def id_of(path: str) -> str:
    return path.rsplit("/", 1)[1]


def container_of(listed: list[dict[str, Any]], path: str) -> dict[str, Any]:
    return next(entry for entry in listed if id_of(path) in entry["Names"][0])


async def state_of(outer: Outer, path: str) -> tuple[str, str | None]:
    """The status of a conversation's runtime, and the code of its error."""
    told = (await outer.client.get(f"{path}/runtime")).json()
    return told["runtime_status"], (told["runtime_error"] or {}).get("code")


async def listed(outer: Outer) -> dict[str, dict[str, Any]]:
    found = (await outer.client.get("/api/conversations/search")).json()["items"]
    return {f"/api/conversations/{item['id']}": item for item in found}


async def killed(outer: Outer, engine: Any, path: str, container: str) -> None:
    """Kill a nested server, and wait until its host knows."""
    engine.kill(container)

    async def is_known() -> bool:
        return await state_of(outer, path) == ("error", "killed")

    await until(is_known, "the host knows that the nested server was killed")


@pytest.mark.parametrize("idle", [15])
async def test_a_lost_store_leaves_loop_and_workspace_and_is_reported(outer, shell, engine, containers, open_manager):
    path = await created(outer, MODEL)
    shell(path, f"echo precious > /workspace/project/work.txt; find {STORE} -type f -exec truncate -s 0 {{}} +")
    await killed(outer, engine, path, containers()[0]["Id"])

    async def is_stopped() -> bool:
        return containers()[0]["State"] == "exited"

    answer = await outer.client.get(f"{path}/events/search")
    assert (answer.status_code, answer.json()["reason"]) == (410, "history-lost")
    await until(is_stopped, "the idle loop is stopped")

    loop = await (await open_manager()).get_loop(id_of(path))
    assert (loop.status, loop.reason) == (LoopStatus.FAILED, "history-lost")
    assert await state_of(outer, path) == ("error", "history-lost")
    item = (await listed(outer))[path]
    assert (item["execution_status"], item["runtime_info"]["runtime_error"]["code"]) == ("error", "history-lost")
    assert (await outer.client.get(path)).json() == item

    again = await outer.client.post("/api/conversations", json=body(MODEL, conversation_id=id_of(path)))
    assert again.status_code == 201, again.text
    assert (await outer.client.get(f"{path}/workspace/work.txt")).text == "precious\n"
    assert await state_of(outer, path) == ("available", None)


async def test_a_conversation_whose_store_is_lost_can_be_deleted(outer, shell, engine, containers):
    path = await created(outer, MODEL)
    shell(path, f"rm -r {STORE}/*")
    await killed(outer, engine, path, containers()[0]["Id"])
    assert (await outer.client.get(f"{path}/events/count")).status_code == 410
    assert (await outer.client.delete(path)).status_code == 200
    assert containers() == []
    assert await listed(outer) == {}


async def test_a_nested_server_gets_no_other_conversation_by_listing_it(outer, shell, containers, tmp_path):
    one, two = await created(outer, MODEL), await created(outer, MODEL)
    fork = await outer.client.post(f"{two}/fork", json={"id": str(uuid.uuid4())})
    assert fork.status_code == 201, fork.text
    claimed = [two, f"/api/conversations/{fork.json()['id']}"]
    shell(one, "; ".join(copied(one, path) for path in claimed))
    for path in (one, two):
        assert (await outer.client.delete(f"{path}/runtime")).status_code == 204
    next(tmp_path.rglob(f"agent-server/{id_of(two)}.json")).unlink()
    assert (await outer.client.get(f"{one}/events/count")).status_code == 200  # starts the first one alone
    assert set(await listed(outer)) == {one, claimed[1]}
    assert "hostile" not in json.dumps(await listed(outer))
    assert "hostile" in shell(one, f"cat {STORE}/*/meta.json")

    for path in claimed:
        sent = await outer.client.post(f"{path}/events", json={**message("confidential"), "run": False})
        assert sent.status_code == 200, sent.text
        assert "confidential" in shell(two, f"cat {STORE}/{uuid.UUID(id_of(path)).hex}/events/*")
    assert "confidential" not in shell(one, f"grep -r confidential {STORE} || true")
    for path in claimed:
        assert (await outer.client.delete(path)).status_code == 200
    assert containers() == [container_of(containers(), one)]
    (warning,) = (line for line in outer.log.read_text().splitlines() if "Ignored" in line and id_of(two) in line)
    assert id_of(one) in warning


def copied(source: str, target: str) -> str:
    """A command that makes a nested server have a conversation as another one's is called."""
    old, new = (uuid.UUID(id_of(path)) for path in (source, target))
    place = f"{STORE}/{new.hex}"
    edit = f'sed -i -e s/{old}/{new}/g -e s/{old.hex}/{new.hex}/g -e \'s/"title":null/"title":"hostile"/\''
    return f"cp -r {STORE}/{old.hex} {place}; {edit} {place}/*.json; grep -q {new} {place}/meta.json"
