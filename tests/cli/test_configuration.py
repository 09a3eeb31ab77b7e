from __future__ import annotations

import re

import pytest

from loopnest import LoopnestSettings
from loopnest.settings import tomllib
from loopnest_cli.example import example
from loopnest_docker.settings import DockerSettings


def values(loopnest, *args):
    return loopnest.json(*args, "config")["values"]


def test_every_value_is_told_with_its_source(shelf, loopnest, monkeypatch, tmp_path):
    monkeypatch.setenv("LOOPNEST_SHELF__DEPTH", "5")
    document = loopnest.json("config")
    assert document["file"] == str(tmp_path / "loopnest.toml")
    found = document["values"]
    assert found["loopnest.strategy"] == {"value": "shelf", "source": "file", "variable": None}
    assert found["loopnest.timeouts.start"] == {"value": 1800.0, "source": "default", "variable": None}
    depth = {"value": 5, "source": "environment", "variable": "LOOPNEST_SHELF__DEPTH"}
    assert found["loopnest.shelf.depth"] == depth
    assert not any(key.startswith("loopnest.docker") for key in found)


def test_people_see_a_table(shelf, loopnest, monkeypatch):
    monkeypatch.setenv("LOOPNEST_NAMESPACE", "mine")
    lines = [line.split() for line in loopnest("config").stdout.splitlines()]
    assert lines[0] == ["KEY", "VALUE", "SOURCE"]
    assert ["loopnest.namespace", "mine", "LOOPNEST_NAMESPACE"] in lines
    assert ["loopnest.shelf.token", "not", "set", "default"] in lines


@pytest.mark.parametrize(
    ("variable", "value"),
    [("LOOPNEST_TIMEOUTS", '{"start": 5}'), ("LOOPNEST_TIMEOUTS__START", "5"), ("loopnest_timeouts__start", "5")],
)
def test_a_variable_is_the_source_however_it_is_written(shelf, loopnest, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    found = values(loopnest)
    assert found["loopnest.timeouts.start"] == {"value": 5.0, "source": "environment", "variable": variable}
    assert found["loopnest.timeouts.close"]["source"] == "default"


def test_secrets_are_masked(shelf, loopnest, monkeypatch):
    monkeypatch.setenv("LOOPNEST_SECRET", "hunter2-hunter2-hunter2")
    monkeypatch.setenv("LOOPNEST_SHELF__TOKEN", "hunter2")
    monkeypatch.setenv("LOOPNEST_SHELF__INDEX", "https://me:hunter2@index/simple")
    output = loopnest("config").output + loopnest("config", "--json").output
    assert "hunter2" not in output
    assert "https://***@index/simple" in output
    assert values(loopnest)["loopnest.shelf.token"]["value"] == "**********"


def test_the_strategy_of_the_command_line_is_told_as_such(shelf, loopnest):
    found = values(loopnest, "--strategy", "docker")
    assert found["loopnest.strategy"] == {"value": "docker", "source": "command line", "variable": None}
    assert "loopnest.docker.memory" in found
    assert values(loopnest, "--strategy", "shelf")["loopnest.strategy"]["source"] == "file"


def test_check_says_that_it_is_valid_or_what_is_not(shelf, loopnest, configure):
    assert loopnest("config", "--check").stdout == "loopnest.toml: valid, strategy 'shelf'\n"
    configure('[loopnest]\nstrategy = "shelf"\n[loopnest.shelf]\ndepth = "deep"\n')
    error = loopnest("config", "--check", code=2).stderr
    assert error.startswith("error (configuration): loopnest.toml: 'loopnest.shelf.depth': ")


def test_the_example_goes_with_no_other_option(shelf, loopnest):
    loopnest("config", "--example", "--check", code=2)


def test_the_example_has_the_tables_and_docstrings_of_all_plugins(shelf, install, loopnest):
    install("broken-loops", {"broken": "broken_loops:Plugin"})
    text = loopnest("config", "--example").stdout
    assert tomllib.loads(text)["loopnest"].keys() >= {"timeouts", "docker", "shelf"}
    assert "# How deep it is, in books.\n# depth = 3\n" in text
    assert "# For the librarian.\n# token = ...  # not set\n" in text


def test_every_value_of_the_example_is_the_default_and_valid():
    text = example(LoopnestSettings, {"docker": DockerSettings})
    settable = re.sub(r"^# (\w+ = (?!\.\.\.).*)$", r"\1", text, flags=re.MULTILINE)
    table = tomllib.loads(settable)["loopnest"]
    assert DockerSettings.model_validate(table.pop("docker")) == DockerSettings()
    assert LoopnestSettings.model_validate(table) == LoopnestSettings()


def test_every_key_of_ours_is_explained():
    text = example(LoopnestSettings, {"docker": DockerSettings})
    unexplained = re.findall(r"(?:^|\n)(?!#)[^\n]*\n# (\w+) = ", text)
    assert set(unexplained) <= {"start"}, unexplained  # the first of the timeouts: the table's text says it
