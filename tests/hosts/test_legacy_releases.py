"""Old and new releases of the legacy OpenHands server load the conversation manager, and have a conversation by it."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loopnest_nested.dialects import Place
from loopnest_nested.dialects.openhands_v0 import OpenHandsV0

from .. import requirements
from ..ports import free_port
from ..processes import inherited
from .legacy_process import LegacyHost
from .test_legacy import pretending

#: 1.6.0 is what all other tests are about.
VERSIONS = ("0.62.0", "1.0.0")
SERVE = OpenHandsV0.program.image_context / "serve.py"


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest) -> str:
    return requirements.server(f"openhands-{request.param}")


@pytest.fixture
def host(python: str, tmp_path: Path) -> Iterator[LegacyHost]:
    with LegacyHost(python, tmp_path, **pretending(tmp_path)).running() as host:
        yield host


@pytest.mark.timeout(600)
def test_a_conversation_is_created_listed_and_closed(host: LegacyHost) -> None:
    with httpx.Client(base_url=host.url, timeout=60) as http:
        settings = {"llm_model": "openai/gpt-4o", "llm_api_key": "sk-x", "agent": "CodeActAgent", "language": "en"}
        http.post("/api/settings", json=settings).raise_for_status()
        created = http.post("/api/conversations", json={"initial_user_msg": "hello"})
        path = f"/api/conversations/{created.json()['conversation_id']}"
        assert http.get(path).json()["status"] == "RUNNING", host.log[-2000:]
        assert [it["session_api_key"] for it in http.get("/api/conversations").json()["results"]] != [None]
        event = {"action": "message", "args": {"content": "and again"}}
        assert http.post(f"{path}/events", json=event).status_code == 200
        assert http.post(f"{path}/stop").json()["status"] == "ok"
        assert http.get(path).json()["status"] == "STOPPED"
        assert http.delete(path).json() is True


@pytest.mark.timeout(600)
def test_the_program_of_the_nested_server_s_image_boots_on_them(python: str, tmp_path: Path) -> None:
    """By the program that the image runs, without the image."""
    port, log = free_port(), tmp_path / "log"
    place = Place(workspace=str(tmp_path / "workspace"), data=str(tmp_path / "data"))
    own = {"USER": getpass.getuser(), "SESSION_API_KEY": "key"}
    variables = {**inherited(tmp_path), **OpenHandsV0().environment(place, port), **own}
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, str(SERVE)], env=variables, cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not _answers(f"http://127.0.0.1:{port}/alive"):
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.2)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the action server too
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("1.6.0", "ok       openhands-legacy  openhands-ai 1.6.0"),
        ("1.4.0", "openhands-ai 1.4.0 does not start by itself: a newer 'mcp' than it was made for broke it."),
        ("1.0.0", "openhands-ai 1.0.0 does not start with fastapi 0.163.2, newer than it knows."),
        ("1.7.0", "openhands-ai 1.7.0 has no legacy server that is served."),
    ],
)
def test_doctor_knows_the_releases(tmp_path: Path, version: str, words: str) -> None:
    variables = pretending(tmp_path)
    for name, its_version in (("openhands_ai", version), ("fastapi", "0.163.2")):
        info = tmp_path / "site" / f"{name}-{its_version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {its_version}\n")
    chosen = {"LOOPNEST_OVERRIDES": '["openhands-legacy"]', "LOOPNEST_STATE_DIR": str(tmp_path / "state")}
    command = [sys.executable, "-c", "from loopnest_cli.app import main; raise SystemExit(main())", "doctor"]
    environment = {**os.environ, **variables, **chosen}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert words in ran.stdout, ran.stdout + ran.stderr
    assert ran.returncode == (version != "1.6.0")
