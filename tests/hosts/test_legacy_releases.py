"""Old and new releases of the legacy OpenHands server load the conversation manager, and have a conversation by it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..e2e.legacy_process import INTERPRETER, LegacyHost
from .test_legacy import pretending

INTERPRETERS = {
    "0.62.0": "LOOPNEST_TEST_OPENHANDS_0_62_PYTHON",
    "1.0.0": "LOOPNEST_TEST_OPENHANDS_1_0_PYTHON",
    "1.6.0": INTERPRETER,
}


@pytest.fixture(params=list(INTERPRETERS))
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LegacyHost]:
    variable = INTERPRETERS[request.param]
    if variable not in os.environ:
        message = f"{variable} names no interpreter with openhands-ai {request.param} and loopnest"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    host = LegacyHost(os.environ[variable], tmp_path, **pretending(tmp_path))
    try:
        host.start()
        yield host
    finally:
        host.stop()


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
