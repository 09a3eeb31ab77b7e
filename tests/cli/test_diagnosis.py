from __future__ import annotations

import pytest


@pytest.fixture
def crowded(shelf, install, configure, tmp_path):
    """A machine with plugins that are broken in every way."""
    install("broken-loops", {"broken": "broken_loops:Plugin"})
    install("quitting-loops", {"quitting": "quitting_loops:Plugin"})
    install("odd-loops", {"misspelt": "odd_loops:Misspelt", "wrong-arguments": "odd_loops:WrongArguments"})
    return configure(f'[loopnest]\nstrategy = "shelf"\noverrides = ["redact"]\nstate_dir = "{tmp_path}/state"\n')


def by_name(loopnest, *args, code=0):
    return {plugin["name"]: plugin for plugin in loopnest.json(*args, "plugins", code=code)["plugins"]}


def test_plugins_are_listed_with_what_they_are_and_are_used_for(crowded, loopnest):
    found = by_name(loopnest)
    assert list(found)[:2] == ["shelf", "redact"]
    shelf = found["shelf"]
    assert (shelf["distribution"], shelf["version"], shelf["module"]) == ("shelf", "1.2", "shelf_loops:Shelf")
    assert (shelf["role"], shelf["order"], shelf["problem"]) == ("strategy", None, None)
    assert set(shelf["hooks"]) >= {"start_loop", "close_session", "list_loops", "send_event", "diagnose"}
    assert (found["redact"]["role"], found["redact"]["order"], found["redact"]["hooks"]) == (
        "override",
        1,
        ["send_event"],
    )
    assert found["docker"]["role"] == "unused"


def test_a_broken_package_says_why_and_hides_no_other(crowded, loopnest):
    found = by_name(loopnest)
    assert found["broken"]["problem"] == (
        "It failed to import: ImportError: libfoo.so: cannot open shared object file."
    )
    assert found["quitting"]["problem"] == "It failed to import: SystemExit: 3."
    assert "send_evnt" in found["misspelt"]["problem"]
    assert "evnet" in found["wrong-arguments"]["problem"]
    assert {found[name]["role"] for name in ("broken", "quitting", "misspelt", "wrong-arguments")} == {"unused"}


def test_people_see_a_table_and_the_problems_below_it(crowded, loopnest):
    result = loopnest("plugins")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["NAME", "ROLE", "VERSION", "DISTRIBUTION", "HOOKS"]
    assert lines[1][:6] == ["shelf", "strategy", "1.2", "shelf", "all", "four,"]
    assert lines[2] == ["redact", "override", "1", "1.2", "shelf", "send_event"]
    assert ["broken", "broken", "1.2", "broken-loops"] in lines
    assert "broken: It failed to import: ImportError" in result.stderr


def test_plugins_are_listed_also_where_the_configuration_is_wrong(crowded, loopnest, configure):
    configure('[loopnest]\nstrategy = "shelf"\nnonsense = 1\n')
    result = loopnest("plugins", code=2)
    assert "shelf" in result.stdout
    assert "unknown key 'loopnest.nonsense'" in result.stderr


def test_the_strategy_of_the_command_line_counts(crowded, loopnest):
    found = by_name(loopnest, "--strategy", "redact")
    assert found["redact"]["problem"].startswith("It is no strategy: it lacks start_loop")


def findings(loopnest, *args, code=0):
    return {finding["check"]: finding for finding in loopnest.json(*args, "doctor", code=code)["findings"]}


def test_doctor_finds_nothing_wrong_where_nothing_is(shelf, loopnest):
    found = findings(loopnest)
    assert {
        name: found[name]["level"] for name in ("python", "configuration", "state directory", "plugins", "shelf")
    } == {
        "python": "ok",
        "configuration": "ok",
        "state directory": "ok",
        "plugins": "ok",
        "shelf": "ok",
    }
    assert found["configuration"]["message"].endswith("loopnest.toml")


def test_doctor_names_what_is_of_another_release_than_the_agent_server(shelf, install, loopnest):
    for name, version in (("agent-server", "1.58.0"), ("sdk", "1.20.0"), ("tools", "1.58.0")):
        install(f"openhands-{name}", {}, version)
    shown = loopnest("doctor", code=1).stdout
    assert "openhands-sdk 1.20.0 is installed beside openhands-agent-server 1.58.0." in shown
    assert "Install openhands-sdk==1.58.0." in shown
    assert "openhands-tools" not in shown


def test_doctor_warns_of_broken_packages_that_nobody_uses(crowded, loopnest):
    assert findings(loopnest)["plugin broken"]["level"] == "warning"


def test_doctor_ends_with_1_where_the_strategy_lacks_something(shelf, loopnest, monkeypatch):
    monkeypatch.setenv("LOOPNEST_SHELF__DEPTH", "0")
    assert findings(loopnest, code=1)["shelf"] == {
        "check": "shelf",
        "level": "error",
        "message": "0 deep",
        "advice": "Put it up.",
    }
    lines = loopnest("doctor", code=1).stdout.splitlines()
    assert lines[-2].split() == ["error", "shelf", "0", "deep"]
    assert lines[-1].strip() == "Put it up."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loopnest = [", "can't be read"),
        ('[loopnest]\nstrategy = "no-such"\n', "'no-such' is not installed"),
        ("[loopnest]\nnamespace = 7\n", "'loopnest.namespace'"),
        ('[loopnest]\nstrategy = "shelf"\n[loopnest.shelf]\ndepht = 1\n', "unknown key 'loopnest.shelf.depht'"),
    ],
)
def test_doctor_works_where_the_configuration_does_not(shelf, loopnest, configure, text, message):
    configure(text)
    errors = [finding for finding in findings(loopnest, code=1).values() if finding["level"] == "error"]
    assert message in errors[0]["message"]
    assert errors[0]["advice"]


def test_doctor_looks_whether_the_state_can_be_kept(shelf, loopnest, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOOPNEST_STATE_DIR", str(tmp_path / "file" / "state"))
    found = findings(loopnest, code=1)["state directory"]
    assert "LOOPNEST_STATE_DIR" in found["advice"]
