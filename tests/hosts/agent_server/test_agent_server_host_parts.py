"""The SDK and the tools beside the agent server: it works with those of its own release only, and requires any."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError

import pytest

from loopnest import ConfigurationError
from loopnest_nested.dialects import get_dialect
from loopnest_openhands.agent_server import upstream

from ...documents import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SERVER, SDK, TOOLS = "openhands-agent-server", "openhands-sdk", "openhands-tools"


@pytest.fixture
def installed(monkeypatch):
    """Have these releases installed."""

    def install(**releases: str) -> None:
        known = {f"openhands-{name.replace('_', '-')}": release for name, release in releases.items()}

        def version(name: str) -> str:
            if name not in known:
                raise PackageNotFoundError(name)
            return known[name]

        monkeypatch.setattr(upstream, "version", version)

    return install


@pytest.mark.parametrize("releases", [{}, {"sdk": "1.20.0"}, dict.fromkeys(("agent_server", "sdk", "tools"), "1.58.2")])
def test_what_fits_or_is_not_there_is_no_finding(installed, releases):
    installed(**releases)
    assert upstream.examine() == []


@pytest.mark.parametrize(
    ("releases", "messages", "advice"),
    [
        (
            {"agent_server": "1.58.0", "sdk": "1.20.0", "tools": "1.58.0"},
            ["openhands-sdk 1.20.0 is installed beside openhands-agent-server 1.58.0."],
            ["Install openhands-sdk==1.58.0."],
        ),
        (
            {"agent_server": "1.58.0", "sdk": "1.58.2", "tools": "1.58.2"},
            [f"{name} 1.58.2 is installed beside openhands-agent-server 1.58.0." for name in (SDK, TOOLS)],
            ["Install openhands-sdk==1.58.0.", "Install openhands-tools==1.58.0."],
        ),
        (
            {"agent_server": "1.54.0", "sdk": "1.54.0"},
            ["openhands-tools is not installed beside openhands-agent-server 1.54.0."],
            ["Install openhands-tools==1.54.0."],
        ),
    ],
)
def test_a_part_of_another_release_is_an_error_that_names_it(installed, releases, messages, advice):
    installed(**releases)
    found = upstream.examine()
    assert [finding.message for finding in found] == messages
    assert [finding.advice for finding in found] == advice
    assert {finding.level for finding in found} == {"error"}
    with pytest.raises(ConfigurationError) as caught:
        upstream.load()
    assert all(text in caught.value.message for text in (*messages, *advice))


def test_an_agent_server_that_cannot_be_imported_is_refused(installed, monkeypatch):
    installed(agent_server="1.58.0", sdk="1.58.0", tools="1.58.0")
    monkeypatch.setitem(sys.modules, "openhands.agent_server.config", None)
    with pytest.raises(ConfigurationError, match=r"1\.58\.0 can't be imported here .*openhands-sdk==1\.58\.0"):
        upstream.load()


def test_one_release_is_installed_and_built_everywhere():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    newest = upstream.TESTED[-1]
    assert extras["agent-server"] == [f"{name}=={newest}; python_version >= '3.12'" for name in (SERVER, SDK, TOOLS)]
    assert get_dialect("agent-server").program.version == newest
