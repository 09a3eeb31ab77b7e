"""``loopnest serve agent-server``."""

from __future__ import annotations

from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from typer.testing import CliRunner

from loopnest import ConfigurationError, LoopManager
from loopnest_cli import serve
from loopnest_cli.app import app
from loopnest_openhands.agent_server import application
from loopnest_openhands.agent_server.upstream import Stock


@pytest.fixture
def served(monkeypatch, agent_server, tmp_path) -> list[dict[str, Any]]:
    """The loops that would be served, and how."""
    calls: list[dict[str, Any]] = []
    assemble = application.assemble

    def assembled(stock: Stock, loops: LoopManager) -> Starlette:
        calls.append({"loops": loops})
        return assemble(stock, loops)

    monkeypatch.setattr(application, "assemble", assembled)
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: calls[-1].update(how))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OH_INTERNAL_SERVER_URL", "")
    monkeypatch.delenv("OH_INTERNAL_SERVER_URL")
    monkeypatch.delenv("OH_SESSION_API_KEYS_0", raising=False)
    return calls


def test_it_serves_the_selected_strategy_on_loopback(served):
    done = CliRunner().invoke(app, ["--strategy", "process", "serve", "agent-server", "--port", "8123"])
    assert done.exit_code == 0, done.output
    assert (served[0]["host"], served[0]["port"]) == ("127.0.0.1", 8123)
    assert served[0]["loops"].settings.strategy == "process"
    assert "http://127.0.0.1:8123" in done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "http://127.0.0.1:8000"), ("fd00::1", "http://[fd00::1]:8000")])
def test_an_open_address_without_keys_is_warned_of(served, host, url):
    done = CliRunner().invoke(app, ["serve", "agent-server", "--host", host])
    assert "OH_SESSION_API_KEYS_0" in done.stderr
    assert url in done.stderr


def test_what_is_not_installed_is_told_with_what_to_install():
    with pytest.raises(ConfigurationError, match="pip install openhands-agent-server"):
        serve._imported("loopnest_of_nobody")
