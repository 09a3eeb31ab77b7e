from __future__ import annotations

import re
import subprocess
import sys

import pytest

from loopnest_cli.app import COMMANDS, load

HEAVY = ("loopnest", "pydantic", "rich.markdown", "httpx", "docker")


def test_help_lists_every_command_and_every_exit_code(loopnest):
    text = loopnest("--help").stdout
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{command.help[:20]}", text, re.MULTILINE)
    for code in ("0 done", "1 the work failed", "2 the", "3 no such loop", "4 the engine", "130 interrupted"):
        assert code in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(loopnest, name):
    assert load(name).help
    assert f"loopnest {name}" in loopnest(name, "--help").stdout.replace("root", "loopnest")


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - {"demo", "logs", "events", "image", "serve"}))
def test_what_a_command_prints_as_json_is_documented(loopnest, name):
    assert '--json: {"' in re.sub(r"\s+", " ", loopnest(name, "--help").stdout)


def test_help_and_completion_import_nothing_heavy():
    program = f"import sys, loopnest_cli.app; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_version_is_that_of_the_distribution(loopnest):
    assert re.fullmatch(r"loopnest \d+\.\d+\.\d+\n", loopnest("--version").stdout)


def test_a_misspelt_command_is_a_usage_error_with_a_suggestion(loopnest):
    assert "'list'" in loopnest("lsit", code=2).stderr


def test_a_configuration_that_is_wrong_is_told_by_every_command_that_needs_it(configure, loopnest):
    configure('[loopnest]\nstratgy = "docker"\n')
    for command in (["list"], ["config"], ["config", "--check"], ["start", "c1"], ["image", "list"], ["demo"]):
        error = loopnest(*command, code=2).stderr
        assert "error (configuration): loopnest.toml: unknown key 'loopnest.stratgy'. Did you mean 'strategy'?" in error


def test_the_file_and_the_strategy_can_be_named(shelf, loopnest, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(f'[loopnest]\nstrategy = "shelf"\nnamespace = "other"\nstate_dir = "{tmp_path}"\n')
    loopnest("--config", str(other), "start", "c1")
    assert (tmp_path / "other" / "shelf.json").exists()
    assert "'no-such' is not installed" in loopnest("--strategy", "no-such", "list", code=2).stderr
    assert "can't be read" in loopnest("--config", "missing.toml", "list", code=2).stderr
