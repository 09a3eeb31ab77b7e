"""What the README shows is run, as it is shown."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from loopnest import LoopManager, LoopnestSettings, StartLoop
from loopnest.settings import Configuration
from loopnest_docker.container import ContainerSpec, Specs
from loopnest_docker.settings import DockerSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The one code block of ``language`` that contains this."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if containing in text]
    return found


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    """An empty working directory, and nothing of ours in the environment."""
    for variable in [name for name in os.environ if name.startswith("LOOPNEST_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_the_configuration_is_valid(tmp_path):
    (tmp_path / "loopnest.toml").write_text(block("toml", 'strategy = "docker"'))
    configuration = Configuration.read()
    assert configuration.core(["docker"]).strategy == "docker"
    assert configuration.plugin("docker", DockerSettings).host_access == (11434,)


def test_the_host_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "examples" / "in-memory-loops")
    from in_memory_loops import InMemoryStrategy

    def from_config() -> LoopManager:
        strategy = InMemoryStrategy(InMemoryStrategy.Settings())
        return LoopManager.from_plugins(strategy, settings=LoopnestSettings(state_dir=tmp_path))

    monkeypatch.setattr(LoopManager, "from_config", from_config)
    names: dict[str, object] = {}
    exec(compile(block("python", "async def serve"), "README.md", "exec"), names)
    asyncio.run(names["serve"]())
    assert "conversation_id='c1'" in capsys.readouterr().out


def test_the_override_changes_containers_as_it_says(tmp_path, monkeypatch):
    (tmp_path / "small_trials.py").write_text(block("python", "# small_trials.py"))
    monkeypatch.syspath_prepend(tmp_path)
    import small_trials
    from in_memory_loops import InMemoryStrategy

    strategy = InMemoryStrategy(InMemoryStrategy.Settings())
    manager = LoopManager.from_plugins(strategy, small_trials, settings=LoopnestSettings(state_dir=tmp_path))
    manager.plugins.add_hookspecs(Specs)
    spec = ContainerSpec.__new__(ContainerSpec)
    spec.memory, spec.cpus = 1, 2.0
    request = StartLoop(conversation_id="c1", tags={"plan": "trial"})
    asyncio.run(manager.plugins.hook.configure_container(request=request, spec=spec))
    assert (spec.memory, spec.cpus) == (512 * 2**20, 0.5)


def test_the_override_s_entry_point_names_its_module():
    project = tomllib.loads(block("toml", "# pyproject.toml"))["project"]
    assert project["entry-points"]["loopnest"] == {"small-trials": "small_trials"}


def test_every_command_that_is_shown_exists():
    from typer.main import get_command

    from loopnest_cli.app import app

    shown = set(re.findall(r"`loopnest ([a-z]+)", README))
    assert shown
    assert shown <= set(get_command(app).commands)


@pytest.mark.parametrize(
    ("host", "guide"),
    [("loopnest serve", "agent-server"), ("OH_SANDBOX_KIND", "app-server"), ("MANAGER_CLASS", "openhands-legacy")],
)
def test_what_starts_a_host_is_what_its_guide_says(host, guide):
    """The README shows nothing that its guide does not."""
    shown = block("console", host).splitlines()
    said = (ROOT / "docs" / f"{guide}.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in shown if line not in [it.strip().removeprefix("$ ") for it in said]] == []


def test_every_link_leads_somewhere():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"^[A-Z]+(_[A-Z]+)*$", README, re.MULTILINE)
