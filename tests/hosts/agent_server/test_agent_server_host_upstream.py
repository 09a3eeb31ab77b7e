"""What depends on the installed agent server and its version."""

from __future__ import annotations

import json
import logging
import os
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from loopnest import ConfigurationError
from loopnest_openhands.agent_server import launch, upstream


class Webhook(BaseModel):
    base_url: str
    headers: dict[str, str] = {}
    flush_delay: float = 30


class OldConfig(BaseModel):
    """As of 1.49."""

    session_api_keys: list[str] = ["outer-key"]
    deferred_init: bool = False
    conversation_runtime: str = "docker"
    conversation_idle_ttl_seconds: float | None = 60
    webhooks: list[Webhook] = []


class NewConfig(OldConfig):
    """As of 1.57."""

    conversation_runtime_selectable: bool = True


@pytest.fixture
def installed(monkeypatch) -> Any:
    """An agent server that shows the configuration it is built with."""
    made: list[BaseModel] = []

    def create_app(config: BaseModel) -> Any:
        made.append(config)
        return SimpleNamespace(state=SimpleNamespace(config=config))

    monkeypatch.setattr(upstream, "version", lambda name: "1.58.0")
    monkeypatch.setattr(
        upstream, "_module", lambda name: SimpleNamespace(create_app=create_app, get_conversation_service=None)
    )
    monkeypatch.delenv("OH_CONVERSATION_RUNTIME_SELECTABLE", raising=False)
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "")  # so that what is set is undone
    monkeypatch.delenv("LITELLM_LOCAL_MODEL_COST_MAP")
    return made


@pytest.mark.parametrize("version", ["1.48.9", "1.59.0", "2.0.0rc1"])
def test_an_untested_version_is_warned_of_by_name(monkeypatch, installed, caplog, version):
    monkeypatch.setattr(upstream, "version", lambda name: version)
    with caplog.at_level(logging.WARNING):
        upstream.load(OldConfig())
    assert f"openhands-agent-server {version} is outside" in caplog.text
    assert "1.49.0 to 1.58.0" in caplog.text


@pytest.mark.parametrize("version", ["1.49.0", "1.54.3", "1.58.2"])
def test_a_tested_version_is_not(monkeypatch, installed, caplog, version):
    monkeypatch.setattr(upstream, "version", lambda name: version)
    upstream.load(OldConfig())
    assert not caplog.text


def test_without_the_agent_server_the_error_says_what_to_install(monkeypatch):
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(upstream, "version", missing)
    with pytest.raises(ConfigurationError, match="pip install openhands-agent-server"):
        upstream.load()


def test_the_stock_application_runs_local_ones_and_tells_clients_of_runtimes(installed):
    stock = upstream.load(NewConfig())
    assert (installed[0].conversation_runtime, installed[0].conversation_runtime_selectable) == ("local", False)
    assert (stock.config.conversation_runtime, stock.config.conversation_runtime_selectable) == ("docker", True)
    assert (stock.local, stock.idle_after, stock.session_keys) == (True, 60, ["outer-key"])


@pytest.mark.parametrize(("value", "local"), [(None, False), ("true", True), ("0", False)])
def test_versions_without_the_setting_for_local_ones_have_the_variable(monkeypatch, installed, value, local):
    if value:
        monkeypatch.setenv("OH_CONVERSATION_RUNTIME_SELECTABLE", value)
    assert upstream.load(OldConfig()).local is local


def test_prices_are_not_fetched_while_the_server_is_imported_unless_somebody_says_so(monkeypatch, installed):
    upstream.load(NewConfig())
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "False")
    upstream.load(NewConfig())
    assert os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] == "False"


def test_a_server_that_waits_to_be_initialised_is_refused(installed):
    with pytest.raises(ConfigurationError, match="OH_DEFERRED_INIT"):
        upstream.load(OldConfig(deferred_init=True))


def test_webhooks_become_variables_of_nested_servers(installed):
    hook = Webhook(base_url="http://hooks", headers={"authorization": "secret"})
    variables = upstream.load(OldConfig(webhooks=[hook])).variables
    told = {"base_url": "http://hooks", "headers": {"authorization": "secret"}}
    assert json.loads(variables["OH_WEBHOOKS"]) == [told]


def test_nested_servers_send_their_traces_where_the_host_does_as_far_as_the_docker_mode_says(monkeypatch, installed):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_SERVICE_NAME", "OTEL_PYTHON.DOTTED"):
        monkeypatch.setenv(name, "http://traces")
    monkeypatch.setenv("LMNR_BASE_URL", "")
    assert upstream.load(NewConfig()).variables == {}
    names = ("LMNR_BASE_URL", "LMNR_PROJECT_API_KEY", "OTEL_EXPORTER_OTLP_ENDPOINT")
    own = SimpleNamespace(_OBSERVABILITY_ENV_VARS=names)  # as of 1.58
    others = upstream._module
    monkeypatch.setattr(upstream, "_module", lambda name: own if name == "docker_runtime.registry" else others(name))
    assert upstream.load(NewConfig()).variables == {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://traces"}


def test_what_may_hold_secrets_is_in_no_text(installed):
    hook = Webhook(base_url="http://hooks", headers={"authorization": "sk-very-secret"})
    start = launch.Start({"agent": {"llm": {"api_key": "sk-very-secret"}}}, {"PROFILE": "sk-very-secret"})
    loaded = upstream.Stock(None, False, None, {"OH_WEBHOOKS": hook.model_dump_json()}, lambda _: None, dict)
    assert "sk-very-secret" not in f"{start!r} {start} {loaded!r} {loaded}"


def stock(*, gives_memory: bool) -> Any:
    context = SimpleNamespace(load_memory=gives_memory)
    settings = SimpleNamespace(agent_settings=SimpleNamespace(agent_context=context))
    return SimpleNamespace(config=None, settings=lambda: settings)


async def test_a_request_that_refers_to_nothing_here_is_passed_on_unread():
    body = {"agent": {"kind": "Unknown"}, "secrets": {"A": {"kind": "StaticSecret", "value": "a"}}, "new_field": 1}
    start = await launch.resolve(body, stock(gives_memory=False))
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
async def test_every_agent_gets_the_memory_that_the_stored_settings_ask_for(agent, context):
    start = await launch.resolve({**agent, "tags": {}}, stock(gives_memory=True))
    (name,) = agent
    assert start.body == {name: {"agent_context": context}, "tags": {}}


async def test_without_an_agent_there_is_nothing_to_remember():
    assert (await launch.resolve({"tags": {}}, stock(gives_memory=True))).body == {"tags": {}}


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
