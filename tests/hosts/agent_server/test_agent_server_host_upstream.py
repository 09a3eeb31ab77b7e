"""What depends on the installed agent server and its version."""

from __future__ import annotations

import json
import logging
import os
from importlib.metadata import PackageNotFoundError

import pytest

from loopnest import ConfigurationError
from loopnest_openhands.agent_server import launch, upstream

from ..packages.agent_server_imitation import REMEMBERING, WebhookSpec

HOOK = WebhookSpec(base_url="http://hooks", headers={"authorization": "sk-very-secret"})


@pytest.mark.parametrize("version", ["1.48.9", "1.59.0", "2.0.0rc1"])
def test_an_untested_version_is_warned_of_by_name(install, caplog, version):
    install(version)
    with caplog.at_level(logging.WARNING):
        upstream.load()
    assert f"openhands-agent-server {version} is outside" in caplog.text
    assert "1.49.0 to 1.58.0" in caplog.text


@pytest.mark.parametrize("version", ["1.49.0", "1.54.3", "1.58.2"])
def test_a_tested_version_is_not(install, caplog, version):
    install(version)
    upstream.load()
    assert not caplog.text


def test_without_the_agent_server_the_error_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(upstream, "version", missing)
    with pytest.raises(ConfigurationError, match="pip install openhands-agent-server"):
        upstream.load()


def test_the_stock_application_runs_local_ones_and_tells_clients_of_runtimes(agent_server):
    stock = upstream.load(agent_server.config(conversation_runtime="docker", conversation_runtime_selectable=True))
    [built] = agent_server.built
    assert (built.conversation_runtime, built.conversation_runtime_selectable) == ("local", False)
    assert (stock.config.conversation_runtime, stock.config.conversation_runtime_selectable) == ("docker", True)
    assert (stock.local, stock.idle_after, stock.session_keys) == (True, 60, ["outer-key"])


@pytest.mark.parametrize(("value", "local"), [(None, False), ("true", True), ("0", False)])
def test_versions_without_the_setting_for_local_ones_have_the_variable(monkeypatch, install, value, local):
    install("1.54.0")
    if value:
        monkeypatch.setenv("OH_CONVERSATION_RUNTIME_SELECTABLE", value)
    assert upstream.load().local is local


def test_prices_are_not_fetched_while_the_server_is_imported_unless_somebody_says_so(monkeypatch, agent_server):
    upstream.load()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "False")
    upstream.load()
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "False"


def test_a_server_that_waits_to_be_initialised_is_refused(agent_server):
    with pytest.raises(ConfigurationError, match="OH_DEFERRED_INIT"):
        upstream.load(agent_server.config(deferred_init=True))


def test_webhooks_become_variables_of_nested_servers(agent_server):
    variables = upstream.load(agent_server.config(webhooks=[HOOK])).variables
    assert json.loads(variables["OH_WEBHOOKS"]) == [HOOK.model_dump(exclude={"flush_delay"})]


@pytest.mark.parametrize(("release", "names"), [("1.58.0", ["OTEL_EXPORTER_OTLP_ENDPOINT"]), ("1.54.0", [])])
def test_nested_servers_send_their_traces_where_the_docker_mode_does(monkeypatch, install, release, names):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_PYTHON.DOTTED"):
        monkeypatch.setenv(name, "http://traces")
    monkeypatch.setenv("LMNR_BASE_URL", "")
    install(release)
    assert upstream.load().variables == dict.fromkeys(names, "http://traces")


def test_what_may_hold_secrets_is_in_no_text(agent_server):
    start = launch.Start({"agent": {"llm": {"api_key": "sk-very-secret"}}}, {"PROFILE": "sk-very-secret"})
    loaded = upstream.load(agent_server.config(webhooks=[HOOK]))
    assert "sk-very-secret" in loaded.variables["OH_WEBHOOKS"]
    assert "sk-very-secret" not in f"{start!r} {start} {loaded!r} {loaded}"


@pytest.fixture
def remembering(agent_server) -> upstream.Stock:
    """The stock application, with settings that let every agent load its memory."""
    agent_server.store(REMEMBERING)
    return upstream.load()


async def test_a_request_that_refers_to_nothing_here_is_passed_on_unread(agent_server):
    body = {"agent": {"kind": "Unknown"}, "secrets": {"A": {"kind": "StaticSecret", "value": "a"}}, "new_field": 1}
    start = await launch.resolve(body, upstream.load())
    assert start.body is body
    assert start.variables == {}
    assert await launch.resolve_secrets(body) is body


@pytest.mark.parametrize(
    ("agent", "context"),
    [
        ({"agent": {"agent_context": {"skills": []}}}, {"skills": [], "load_memory": True}),
        ({"agent_settings": {}}, {"current_datetime": None, "load_memory": True}),
    ],
)
async def test_every_agent_gets_the_memory_that_the_stored_settings_ask_for(remembering, agent, context):
    start = await launch.resolve({**agent, "tags": {}}, remembering)
    (name,) = agent
    assert start.body == {name: {"agent_context": context}, "tags": {}}


async def test_without_an_agent_there_is_nothing_to_remember(remembering):
    assert (await launch.resolve({"tags": {}}, remembering)).body == {"tags": {}}


def test_what_headers_say_for_tracing_counts_where_the_body_says_nothing():
    headers = {
        "x-openhands-observability-span-name": "span",
        "x-openhands-observability-tags": "a, b,",
        "x-openhands-observability-metadata": '{"from": "header", "x": 1}',
    }
    body = {"observability_span_name": "own", "observability_metadata": {"x": 2}}
    assert launch.observed(body, headers) == {
        "observability_span_name": "own",
        "observability_tags": ["a", "b"],
        "observability_metadata": {"from": "header", "x": 2},
    }
    assert launch.observed(body, {}) == body


@pytest.mark.parametrize("metadata", ["{", "[1]", "1"])
def test_metadata_that_is_no_object_is_refused(metadata):
    with pytest.raises(launch.Refused):
        launch.observed({}, {"x-openhands-observability-metadata": metadata})
