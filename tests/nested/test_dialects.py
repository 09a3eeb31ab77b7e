"""Dialects are found by their entry points."""

from __future__ import annotations

import types

import pytest
from importlib_metadata import EntryPoint, EntryPoints

from loopnest import AmbiguousPlugin, BrokenPlugin, UnknownPlugin
from loopnest_nested import dialects
from loopnest_nested.dialects import get_dialect


class Lacking:
    """A class that is no dialect."""

    name = "lacking"


@pytest.fixture
def offered(monkeypatch):
    """Offer dialects as installed distributions do: pairs of a name and what the entry point names."""

    def offer(*points: tuple[str, str]) -> None:
        found = EntryPoints(EntryPoint(name, value, dialects.GROUP) for name, value in points)
        monkeypatch.setattr(dialects, "entry_points", lambda group: found)
        get_dialect.cache_clear()

    yield offer
    get_dialect.cache_clear()


@pytest.mark.parametrize("name", ["agent-server", "openhands-v0"])
def test_a_dialect_of_loopnest_has_a_dockerfile_of_the_tested_version(name):
    dialect = get_dialect(name)
    dockerfile = (dialect.program.image_context / "Dockerfile").read_text(encoding="utf-8")
    assert dialect.name == name
    assert f"ARG {dialect.program.version_argument}={dialect.program.version}\n" in dockerfile


def test_only_the_named_dialect_is_imported(offered):
    offered(("agent-server", "loopnest_nested.dialects.agent_server:AgentServer"), ("broken", "no_such_module:X"))
    assert get_dialect("agent-server") is get_dialect("agent-server")


def test_an_object_is_a_dialect_too(offered, monkeypatch):
    module = types.SimpleNamespace(dialect=get_dialect("agent-server"))
    monkeypatch.setitem(__import__("sys").modules, "own_dialects", module)
    offered(("own", "own_dialects:dialect"))
    assert get_dialect("own") is module.dialect


def test_an_unknown_name_is_answered_with_the_nearest(offered):
    offered(("agent-server", "x:Y"))
    with pytest.raises(UnknownPlugin, match=r"no dialect 'agent-sever'\. Did you mean 'agent-server'"):
        get_dialect("agent-sever")


def test_a_name_that_is_offered_twice_is_ambiguous(offered):
    offered(("one", "x:Y"), ("one", "z:Y"))
    with pytest.raises(AmbiguousPlugin, match="'one' is offered by"):
        get_dialect("one")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no_such_module:X", "failed to load: ModuleNotFoundError"),
        (f"{__name__}:Lacking", "is no dialect: it lacks agent_status, alive, command"),
    ],
)
def test_a_broken_dialect_is_named_with_its_cause(offered, value, message):
    offered(("broken", value))
    with pytest.raises(BrokenPlugin, match=message):
        get_dialect("broken")
