"""The sandbox API of the real app server, on a strategy that runs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .. import requirements
from ..e2e.app_server_process import ROOT, VERSIONS, AppServer, app_server, environment
from ..ports import free_port

PACKAGES = Path(__file__).parent / "packages"
ALICE, BOB = {"X-User": "alice@example.org"}, {"X-User": "bob@example.org"}
SPECS = [{"id": "loopnest", "command": None, "initial_env": {"COLOR": "blue"}}, {"id": "missing", "command": None}]


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    return requirements.server(f"openhands-{request.param}")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the strategy is installed, and where everything is kept."""
    directory = tmp_path_factory.mktemp("app-server")
    info = directory / "site" / "pretend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[loopnest]\npretend = pretend_loops:Pretend\n")
    return directory


@pytest.fixture(scope="module")
def variables(directory: Path) -> dict[str, str]:
    paths = [ROOT / "hookspecs", ROOT / "plugin", PACKAGES, directory / "site"]
    return environment(
        directory,
        PYTHONPATH=os.pathsep.join(map(str, paths)),
        LOOPNEST_STATE_DIR=str(directory / "state"),
        OH_SANDBOX_STRATEGY="pretend",
        OH_SANDBOX_HOST_PORT="3210",
        OH_SANDBOX_MAX_NUM_SANDBOXES="3",
        OH_SANDBOX_SPEC_SPECS=json.dumps(SPECS),
        OH_PERMITTED_CORS_ORIGINS_0="https://one.example.org",
        OH_PERMITTED_CORS_ORIGINS_1="https://two.example.org",
        OH_USER_KIND="header_users.HeaderUsers",
        COLUMNS="200",  # in which the server wraps what it logs
    )


@pytest.fixture(scope="module")
def server(python: str, variables: dict[str, str], directory: Path) -> Iterator[AppServer]:
    with app_server(python, "127.0.0.1", free_port(), variables, directory / "server.log") as running:
        yield running


@pytest.fixture
def user() -> dict[str, str]:
    """A user who has nothing yet."""
    return {"X-User": f"user-{uuid.uuid4().hex}"}


def start(server: AppServer, user: dict[str, str], **params: str) -> dict[str, Any]:
    answer = server.http.post("/sandboxes", headers=user, params=params)
    assert answer.status_code == 200, answer.text
    sandbox_id = answer.json()["id"]
    deadline = time.monotonic() + 10
    while (found := get(server, user, sandbox_id))["status"] == "STARTING" and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def get(server: AppServer, user: dict[str, str], sandbox_id: str) -> dict[str, Any]:
    (found,) = server.http.get("/sandboxes", headers=user, params={"id": sandbox_id}).json()
    assert found is not None
    return dict(found)


def act(server: AppServer, user: dict[str, str], sandbox_id: str, action: str) -> int:
    return server.http.post(f"/sandboxes/{sandbox_id}/{action}", headers=user).status_code


def delete(server: AppServer, user: dict[str, str], sandbox_id: str) -> int:
    # Upstream's route names the id twice, and reads the one in the query.
    return server.http.delete("/sandboxes/_", headers=user, params={"sandbox_id": sandbox_id}).status_code


def test_a_sandbox_is_started_paused_resumed_and_deleted(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user)
    assert sandbox["status"] == "RUNNING"
    assert act(server, user, sandbox["id"], "pause") == 200
    paused = get(server, user, sandbox["id"])
    assert (paused["status"], paused["session_api_key"], paused["exposed_urls"]) == ("PAUSED", None, None)
    assert act(server, user, sandbox["id"], "resume") == 200
    deadline = time.monotonic() + 10
    while get(server, user, sandbox["id"])["status"] == "STARTING" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert get(server, user, sandbox["id"]) == sandbox
    assert delete(server, user, sandbox["id"]) == 200
    assert delete(server, user, sandbox["id"]) in (200, 404)
    assert server.sandbox(sandbox["id"], headers=user) is None


def test_what_is_not_there_is_not_found(server: AppServer, user: dict[str, str]) -> None:
    for sandbox_id in ("nothing", "-not-an-id", "x" * 65):
        assert server.sandbox(sandbox_id, headers=user) is None
        assert act(server, user, sandbox_id, "pause") == 404
        assert act(server, user, sandbox_id, "resume") == 404
        assert delete(server, user, sandbox_id) == 404


def test_the_agent_server_and_the_ports_that_are_reachable_are_shown(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user)
    key = sandbox["session_api_key"]
    assert sandbox["exposed_urls"] == [
        {"name": "AGENT_SERVER", "url": "http://127.0.0.1:9", "port": 8000},
        {"name": "VSCODE", "url": f"http://127.0.0.1:10/?tkn={key}&folder=/home/openhands/workspace", "port": 8001},
        {"name": "WORKER_1", "url": "http://127.0.0.1:11", "port": 8011},
    ]


def test_the_nested_server_is_told_of_the_host(server: AppServer, user: dict[str, str], directory: Path) -> None:
    sandbox = start(server, user)
    asked = json.loads((directory / "state" / "default" / f"{sandbox['id']}.asked").read_text())
    assert asked["bare"] is True
    assert asked["image"] is None
    assert asked["environment"] == {
        "OH_WEBHOOKS_0_BASE_URL": "http://host.docker.internal:3210/api/v1/webhooks",
        "OH_ALLOW_CORS_ORIGINS_0": "https://one.example.org",
        "OH_ALLOW_CORS_ORIGINS_1": "https://two.example.org",
        "VSCODE": "8001",
        "WORKER_1": "8011",
        "WORKER_2": "8012",
        "COLOR": "blue",
    }


def test_a_start_that_fails_is_told_in_the_listing_and_in_the_log(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user, sandbox_spec_id="missing")
    assert (sandbox["status"], sandbox["session_api_key"]) == ("ERROR", None)
    deadline = time.monotonic() + 5
    while "image-missing" not in server.log.read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sandbox["id"] in server.log.read_text()


def test_what_doctor_would_complain_about_is_logged(server: AppServer, user: dict[str, str]) -> None:
    start(server, user)
    deadline = time.monotonic() + 20
    while "host: The image is of another host. Build it." not in server.log.read_text():  # it goes on beside starts
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.05)


def test_users_see_and_change_only_their_own(server: AppServer, user: dict[str, str]) -> None:
    sandbox, stranger = start(server, user), {"X-User": "stranger"}
    assert sandbox["created_by_user_id"] == user["X-User"]
    assert server.sandbox(sandbox["id"], headers=stranger) is None
    assert act(server, stranger, sandbox["id"], "pause") == 404
    assert act(server, stranger, sandbox["id"], "resume") == 404
    assert delete(server, stranger, sandbox["id"]) == 404
    assert get(server, user, sandbox["id"])["status"] == "RUNNING"


def test_an_administrator_sees_whose_a_sandbox_is(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user)
    assert get(server, {}, sandbox["id"])["created_by_user_id"] == user["X-User"]
    assert act(server, {}, sandbox["id"], "pause") == 200
    assert act(server, {}, sandbox["id"], "resume") == 200
    assert get(server, user, sandbox["id"])["created_by_user_id"] == user["X-User"]


def test_pages_neither_skip_nor_repeat_while_sandboxes_go_away(server: AppServer, user: dict[str, str]) -> None:
    ids = [start(server, user)["id"] for _ in range(3)][::-1]
    first = server.http.get("/sandboxes/search", headers=user, params={"limit": 2}).json()
    assert [item["id"] for item in first["items"]] == ids[:2]
    delete(server, user, ids[0])
    rest = {"limit": 2, "page_id": first["next_page_id"]}
    last = server.http.get("/sandboxes/search", headers=user, params=rest).json()
    assert [item["id"] for item in last["items"]] == ids[2:]
    assert last["next_page_id"] is None


def test_a_batch_keeps_its_order_and_marks_what_is_missing(server: AppServer, user: dict[str, str]) -> None:
    one, two = start(server, user)["id"], start(server, user)["id"]
    found = server.http.get("/sandboxes", headers=user, params={"id": [two, "nothing", one]}).json()
    assert [item and item["id"] for item in found] == [two, None, one]


def test_one_sandbox_too_many_pauses_the_oldest_of_the_user(server: AppServer, user: dict[str, str]) -> None:
    others = start(server, {"X-User": "somebody"})
    ids = [start(server, user)["id"] for _ in range(4)]
    assert [get(server, user, it)["status"] for it in ids] == ["PAUSED", "RUNNING", "RUNNING", "RUNNING"]
    assert act(server, user, ids[1], "resume") == 200  # it runs: nobody has to make room
    assert get(server, user, ids[2])["status"] == "RUNNING"
    assert get(server, {}, others["id"])["status"] == "RUNNING"


def tell(server: AppServer, key: str | None) -> int:
    headers = {"X-Session-API-Key": key} if key else {}
    return server.http.post(f"/webhooks/events/{uuid.uuid4()}", headers=headers, json=[]).status_code


def test_a_running_sandbox_is_known_by_its_key(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user)
    assert tell(server, sandbox["session_api_key"]) == 200
    assert tell(server, "some other key") == 401
    assert tell(server, None) == 401


def test_the_key_of_a_paused_or_deleted_sandbox_opens_nothing(server: AppServer, user: dict[str, str]) -> None:
    sandbox = start(server, user)
    key = sandbox["session_api_key"]
    assert tell(server, key) == 200
    act(server, user, sandbox["id"], "pause")
    assert tell(server, key) == 401
    act(server, user, sandbox["id"], "resume")
    deadline = time.monotonic() + 10
    while tell(server, key) != 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert tell(server, key) == 200
    delete(server, user, sandbox["id"])
    assert tell(server, key) == 401


def test_a_key_opens_only_its_own_sandbox(server: AppServer, user: dict[str, str]) -> None:
    mine, other = start(server, user), start(server, user)
    headers = {"X-Session-API-Key": mine["session_api_key"]}
    assert server.http.get(f"/sandboxes/{other['id']}/settings/secrets", headers=headers).status_code == 403


def test_a_wrong_configuration_stops_the_app_server(python: str, variables: dict[str, str], directory: Path) -> None:
    wrong = {**variables, "OH_SANDBOX_STRATEGY": "pretnd"}
    command = [python, "-c", "import openhands.app_server.app"]
    ended = subprocess.run(command, env=wrong, cwd=directory, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "Did you mean 'pretend'?" in ended.stderr


def test_the_package_names_its_hosts_without_importing_one() -> None:
    import loopnest_openhands

    with pytest.raises(AttributeError, match=r"it has .*SandboxServiceInjector"):
        loopnest_openhands.__getattr__("Nothing")
