"""What is stored on the host, by the real stores of the tested releases: each resolves requests in its own way."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ... import requirements
from ...processes import inherited

PROGRAM = Path(__file__).parents[1] / "packages" / "agent_server_stores.py"
LAUNCHED = "OH_RUNTIME_LAUNCHED_PROFILE"
RELEASES = ("1.58.0", "1.54.0", "1.49.0")
TRACES = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=token"}


@pytest.fixture(scope="module", params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def told(release: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("host")
    own = {
        "COLUMNS": "1000",
        "OH_PERSISTENCE_DIR": str(directory / "stores"),
        "OH_SECRET_KEY": "secret",
        "PYTHONPATH": str(PROGRAM.parent),
    }
    python = requirements.server(f"agent-server-{release}")
    command = [python, str(PROGRAM), str(directory / "stores" / "settings.json")]
    environment = {**inherited(directory), **own, **TRACES, "OTEL_SERVICE_NAME": "host"}
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-3000:]
    answer: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return {**answer, "log": ran.stderr}


def agent(resolved: dict[str, Any]) -> dict[str, Any]:
    body = resolved["body"]
    found: dict[str, Any] = body.get("agent") or body["agent_settings"]
    return found


def memory(resolved: dict[str, Any]) -> bool:
    return bool((agent(resolved).get("agent_context") or {}).get("load_memory"))


@pytest.mark.parametrize("case", ["plain", "remembering", "unreadable"])
def test_a_profile_reaches_the_nested_server_with_the_key_that_is_stored_here(told, case):
    body, variables = told[case]["body"], told[case]["variables"]
    assert agent(told[case])["llm"]["api_key"] == "sk-stored"
    assert json.loads(variables[LAUNCHED])["agent_profile_id"] == told["profile"]
    assert not body.get("agent_profile_id")
    assert not body.get("secrets_encrypted")
    assert {name: it["value"] for name, it in body["secrets"].items()} == {"ALLOWED": "value of ALLOWED"}


def test_stored_settings_give_every_agent_a_memory(told):
    assert memory(told["remembering"])
    assert not memory(told["plain"])


def test_settings_that_cant_be_read_are_said_so_and_keep_no_conversation_from_its_start(told):
    assert not memory(told["unreadable"])
    assert told["log"].count("Can't read the agent server's settings") == 1


def test_traces_go_where_the_docker_mode_of_the_release_sends_them(told, release):
    assert told["variables"] == (TRACES if release == "1.58.0" else {})


def test_the_imitation_in_the_other_tests_has_nothing_that_the_release_lacks(told):
    assert told["lacking"] == []


def test_what_an_imitation_has_beyond_the_release_is_found(told, release):
    assert bool(told["lacking_of_the_newest"]) is (release != "1.58.0")
