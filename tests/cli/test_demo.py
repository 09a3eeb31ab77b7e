"""How the demo finds a place; that it does its job is seen in tests/e2e."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from loopnest import Finding
from loopnest.settings import Configuration
from loopnest_cli import demo_stage
from loopnest_cli.demo import _model
from loopnest_cli.demo_stage import Stage

NO_ENGINE = '[loopnest]\nstate_dir = "{}"\n[loopnest.docker.engine]\nurl = "tcp://127.0.0.1:9"\n'


class Process:
    """The fallback, on a machine where it lacks something."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings

    async def diagnose(self):
        return self.findings


@pytest.fixture
def without_engine(configure, tmp_path: Path) -> Path:
    configure(NO_ENGINE.format(tmp_path / "state"))
    return tmp_path / "state"


def test_without_docker_and_without_a_process_it_says_what_either_lacks(without_engine, loopnest, monkeypatch):
    missing = Finding(check="nested server", level="error", message="No openhands-agent-server.", advice="Install it.")
    monkeypatch.setattr(demo_stage, "build", lambda *_: Process(missing))
    error = loopnest("demo", code=4).stderr
    assert "needs a Docker engine or a nested server on this machine, and has neither" in error
    assert "Docker: The engine at tcp://127.0.0.1:9 can't be reached" in error
    assert "Process: No openhands-agent-server. Install it." in error
    assert not without_engine.exists()


def test_docker_by_name_is_never_replaced_by_something_weaker(without_engine, loopnest):
    assert loopnest("--strategy", "docker", "demo", code=4).stderr.startswith("error (engine-unreachable)")


async def test_the_fallback_says_why_it_is_not_docker(without_engine, monkeypatch):
    monkeypatch.setattr(demo_stage, "build", lambda *_: Process())
    async with demo_stage.stage(Configuration.read(), None, lambda *_: None) as place:
        assert place.name == "process"
        assert place.why.startswith("no Docker (The engine at tcp://127.0.0.1:9 can't be reached")
        assert place.address == "127.0.0.1"


def test_two_demos_of_one_user_do_not_meet(without_engine, loopnest):
    without_engine.mkdir()
    lock = os.open(without_engine, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "Another demo is running" in loopnest("demo", code=2).stderr
    os.close(lock)


def test_a_model_that_can_not_listen_where_loops_reach_it_says_what_to_do(capsys):
    place = Stage("docker", "", "192.0.2.1", None, Configuration())
    with pytest.raises(Exception, match=r"listen on 192\.0\.2\.1") as caught, _model(None, place):
        pass
    assert "LLM_MODEL" in str(caught.value)
