"""Configuration comes from one table and from the environment, and every mistake in it says where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import BaseModel

from loopnest import ConfigurationError
from loopnest.settings import Configuration, LoopnestSettings, did_you_mean

PLUGINS = ["docker", "acme-cloud"]


class Size(BaseModel, extra="forbid"):
    large: int = 1


class Table(BaseModel, extra="forbid", hide_input_in_errors=True):
    region: str = "north"
    size: Size = Size()
    words: tuple[str, ...] = ()


@pytest.fixture(autouse=True)
def clean(monkeypatch, tmp_path):
    """No variable and no file of whoever runs the tests."""
    for name in os.environ:
        if name.upper().startswith("LOOPNEST_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toml(tmp_path):
    def write(text, name="loopnest.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def core():
    return Configuration.read().core(PLUGINS)


def problem(read=core):
    with pytest.raises(ConfigurationError) as caught:
        read()
    return str(caught.value)


# --- where it is read -----------------------------------------------------------------------------------------------


def test_without_a_file_the_defaults_count():
    settings = core()
    assert settings == LoopnestSettings()
    assert (settings.strategy, settings.overrides, settings.namespace) == ("docker", (), "default")


def test_the_file_in_the_working_directory_counts(toml):
    toml('[loopnest]\nstrategy = "process"')
    assert core().strategy == "process"


def test_the_named_file_counts_instead(toml, monkeypatch):
    toml('[loopnest]\nstrategy = "here"')
    monkeypatch.setenv("LOOPNEST_CONFIG", str(toml('[loopnest]\nstrategy = "there"', "host.toml")))
    assert core().strategy == "there"


def test_the_caller_s_path_counts_before_all(toml, monkeypatch):
    monkeypatch.setenv("LOOPNEST_CONFIG", "/nowhere")
    path = toml('[loopnest]\nstrategy = "given"', "given.toml")
    assert Configuration.read(path).core(PLUGINS).strategy == "given"


def test_a_host_s_own_file_may_carry_the_table(toml):
    toml('[host]\nport = 3000\n[loopnest]\nstrategy = "process"')
    assert core().strategy == "process"


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("LOOPNEST_CONFIG", "/nowhere/host.toml")
    assert problem().startswith("Configuration file /nowhere/host.toml can't be read: ")


def test_a_file_that_is_no_toml_is_an_error(toml):
    toml("[loopnest")
    assert "loopnest.toml can't be read:" in problem()


@pytest.mark.parametrize("text", ["", "loopnest = 1", "[other]"])
def test_a_file_without_the_table_is_an_error(toml, text):
    toml(text)
    assert problem() == "Configuration file loopnest.toml has no [loopnest] table. Begin it with a line '[loopnest]'."


# --- the environment ------------------------------------------------------------------------------------------------


def test_the_environment_wins_key_by_key(toml, monkeypatch):
    toml('[loopnest]\nstrategy = "process"\nnamespace = "blue"\n[loopnest.timeouts]\nstart = 1\nsend = 2')
    monkeypatch.setenv("LOOPNEST_NAMESPACE", "green")
    monkeypatch.setenv("LOOPNEST_TIMEOUTS__START", "9")
    settings = core()
    assert (settings.strategy, settings.namespace) == ("process", "green")
    assert (settings.timeouts.start, settings.timeouts.send, settings.timeouts.list) == (9, 2, 30)


def test_the_environment_alone_is_enough(monkeypatch):
    monkeypatch.setenv("LOOPNEST_OVERRIDES", '["one", "two"]')
    monkeypatch.setenv("LOOPNEST_STATE_DIR", "/state")
    assert (core().overrides, core().state_dir) == (("one", "two"), Path("/state"))


def test_variables_of_tests_and_of_the_reader_itself_are_no_keys(monkeypatch):
    for name in ("LOOPNEST_TRACE", "LOOPNEST_TEST_AGENT_SERVER_PYTHON"):
        monkeypatch.setenv(name, "1")
    assert core() == LoopnestSettings()


def test_the_state_directory_follows_the_desktop_s_rules(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", "/xdg")
    assert core().state_dir == Path("/xdg/loopnest")
    monkeypatch.delenv("XDG_STATE_HOME")
    assert core().state_dir == Path.home() / ".local" / "state" / "loopnest"


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strateggy = 'x'", "loopnest.toml: unknown key 'loopnest.strateggy'. Did you mean 'strategy'?"),
        (
            "[loopnest.timeouts]\nstrat = 1",
            "loopnest.toml: unknown key 'loopnest.timeouts.strat'. Did you mean 'start'?",
        ),
        ("[loopnest.dokcer]\nx = 1", "loopnest.toml: unknown key 'loopnest.dokcer'. Did you mean 'docker'?"),
        ("overrides = 'redact'", "loopnest.toml: 'loopnest.overrides': Input should be a valid tuple."),
    ],
)
def test_a_wrong_key_names_itself_its_place_and_the_nearest(toml, text, message):
    toml(f"[loopnest]\n{text}")
    assert problem() == message


def test_a_key_that_is_near_to_none_lists_them(toml):
    toml("[loopnest]\nzzz = 1")
    assert "'loopnest.zzz'. Known: acme_cloud, docker, failed_retention," in problem()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "LOOPNEST_STRATEGGY",
            "x",
            "unknown variable LOOPNEST_STRATEGGY. Did you mean 'LOOPNEST_STRATEGY'?",
        ),
        (
            "LOOPNEST_TIMEOUTS__STRAT",
            "1",
            "variable LOOPNEST_TIMEOUTS__STRAT: unknown key 'loopnest.timeouts.strat'. Did you mean 'start'?",
        ),
        (
            "LOOPNEST_OVERRIDES",
            "redact",
            "Lists are written as JSON there: LOOPNEST_OVERRIDES='[\"redact\"]'.",
        ),
        (
            "LOOPNEST_OVERRIDES",
            "[1]",
            "variable LOOPNEST_OVERRIDES: 'loopnest.overrides.0': Input should be a valid string.",
        ),
    ],
)
def test_a_wrong_variable_names_itself_and_the_nearest(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    assert problem().startswith("Environment")
    assert problem().endswith(message)


def test_all_mistakes_are_told_at_once(toml):
    toml("[loopnest]\nnamespace = 'A B'\nfailed_retention = -1")
    first, second = problem().splitlines()
    assert "'loopnest.namespace'" in first
    assert "'loopnest.failed_retention'" in second


@pytest.mark.parametrize("place", ["file", "environment"])
def test_a_secret_that_is_too_short_is_not_repeated(toml, monkeypatch, place):
    if place == "file":
        toml("[loopnest]\nsecret = 'hunter2'")
    else:
        monkeypatch.setenv("LOOPNEST_SECRET", "hunter2")
    assert "'loopnest.secret'" in problem()
    assert "hunter2" not in problem()


def test_a_secret_is_in_no_text(toml):
    toml("[loopnest]\nsecret = 'correct horse battery'")
    assert "correct horse" not in repr(core()) + str(core()) + core().model_dump_json()


# --- tables of plugins ----------------------------------------------------------------------------------------------


def test_a_plugin_s_table_is_validated_by_its_own_model(toml, monkeypatch):
    toml("[loopnest.acme-cloud]\nregion = 'south'\n[loopnest.acme-cloud.size]\nlarge = 2")
    monkeypatch.setenv("LOOPNEST_ACME_CLOUD__SIZE__LARGE", "3")
    table = Configuration.read().plugin("acme-cloud", Table)
    assert (table.region, table.size.large) == ("south", 3)


def test_a_plugin_without_a_table_gets_its_defaults():
    assert Configuration.read().plugin("acme-cloud", Table) == Table()
    assert not Configuration.read().has_table("acme-cloud")


def test_a_table_of_a_plugin_that_is_not_selected_is_left_alone(toml):
    toml("[loopnest]\nstrategy = 'process'\n[loopnest.docker]\nno_such_key = 1")
    assert core().strategy == "process"


@pytest.mark.parametrize(
    ("text", "variable", "message"),
    [
        ("regoin = 'x'", None, "loopnest.toml: unknown key 'loopnest.acme-cloud.regoin'. Did you mean 'region'?"),
        ("size.lagre = 1", None, "loopnest.toml: unknown key 'loopnest.acme-cloud.size.lagre'. Did you mean 'large'?"),
        (
            "size.large = 'x'",
            None,
            "loopnest.toml: 'loopnest.acme-cloud.size.large': Input should be",
        ),
        (
            "",
            "LOOPNEST_ACME_CLOUD__REGOIN",
            "Environment variable LOOPNEST_ACME_CLOUD__REGOIN: unknown key 'loopnest.acme-cloud.regoin'. Did you mean",
        ),
    ],
)
def test_a_mistake_in_a_plugin_s_table_names_its_place(toml, monkeypatch, text, variable, message):
    toml(f"[loopnest.acme-cloud]\n{text}")
    if variable:
        monkeypatch.setenv(variable, "x")
    assert problem(lambda: Configuration.read().plugin("acme-cloud", Table)).startswith(message)


def test_a_table_may_come_from_the_environment_alone(monkeypatch):
    monkeypatch.setenv("LOOPNEST_ACME_CLOUD__REGION", "south")
    configuration = Configuration.read()
    assert configuration.core(PLUGINS) == LoopnestSettings()
    assert configuration.has_table("acme-cloud")
    assert configuration.plugin("acme-cloud", Table).region == "south"


def test_did_you_mean_has_nothing_to_say_where_there_is_no_choice():
    assert did_you_mean("x", []) == ""
