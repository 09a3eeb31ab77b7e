from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from loopnest.settings import Configuration
from loopnest.survey import SurveyedPlugin, survey

WHOLE = """
    from loopnest import hookimpl

    class Strategy:
        @hookimpl
        def start_loop(self, request): ...
        @hookimpl
        def close_session(self): ...
        @hookimpl
        def list_loops(self): ...
        @hookimpl
        def send_event(self): ...
"""
Offer = Callable[..., None]


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Install a distribution with one entry point and one module of this source."""
    modules: list[str] = []

    def add(name: str, source: str, value: str = "", distribution: str = "") -> None:
        site, module = tmp_path / (distribution or name), f"surveyed_{name.replace('-', '_')}"
        info = site / f"{distribution or name}-2.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{module}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution or name}\nVersion: 2.0\n")
        (info / "entry_points.txt").write_text(f"[loopnest]\n{name} = {value or f'{module}:Strategy'}\n")
        monkeypatch.syspath_prepend(site)
        modules.append(module)

    yield add
    for module in modules:
        sys.modules.pop(module, None)


def surveyed(
    strategy: str | None = None, overrides: tuple[str, ...] = (), **tables: object
) -> dict[str, SurveyedPlugin]:
    return {plugin.name: plugin for plugin in survey(Configuration(tables), strategy, overrides)}


def test_a_plugin_in_use_comes_first_and_the_others_by_name(offer):
    for name in ("zoo", "apt", "bee"):
        offer(name, WHOLE)
    assert [name for name in surveyed("zoo", ("bee",)) if name in ("zoo", "apt", "bee")] == ["zoo", "bee", "apt"]


def test_a_module_can_be_a_plugin(offer):
    source = "from loopnest import hookimpl\n@hookimpl\ndef send_event(event): ...\n"
    offer("plain", source, value="surveyed_plain")
    assert surveyed()["plain"].hooks == ("send_event",)


def test_a_plugin_that_is_not_used_needs_no_settings_and_is_not_built(offer):
    offer("costly", WHOLE + "\n        def __init__(self, settings):\n            raise RuntimeError('built')\n")
    assert surveyed()["costly"].problem is None
    assert "RuntimeError: built" in (surveyed("costly", costly={})["costly"].problem or "") or (
        "TypeError" in (surveyed("costly")["costly"].problem or "")
    )


def test_a_table_that_is_wrong_is_the_problem_of_the_plugin_in_use(offer):
    offer("strict", WHOLE)
    problem = surveyed("strict", strict={"a": 1})["strict"].problem
    assert problem == "Loop plugin 'strict' takes no settings. Remove the table 'loopnest.strict'."
    assert surveyed(strict={"a": 1})["strict"].problem is None


def test_a_name_that_two_distributions_offer_is_ambiguous_in_use(offer):
    offer("twin", WHOLE, distribution="one")
    offer("twin", WHOLE, distribution="two", value="surveyed_twin:Strategy")
    plugins = [plugin for plugin in survey(Configuration(), "twin") if plugin.name == "twin"]
    assert [plugin.distribution for plugin in plugins] == ["one", "two"]
    assert all("Uninstall all but one" in (plugin.problem or "") for plugin in plugins)
    assert all(plugin.problem is None for plugin in survey(Configuration()) if plugin.name == "twin")


def test_a_plugin_that_is_named_but_not_installed_is_listed_with_the_nearest_name(offer):
    offer("swarm", WHOLE)
    missing = surveyed("swarm", ("swarn",))["swarn"]
    assert (missing.role, missing.order, missing.distribution) == ("override", 1, None)
    assert "Did you mean 'swarm'?" in (missing.problem or "")


def test_hooks_that_another_plugin_specifies_are_no_problem(offer):
    specs = """
        from loopnest import hookspec

        class Specs:
            @hookspec
            def tune(self, engine): ...

        class Strategy:
            Specs = Specs
    """
    offer("specifier", specs)
    offer("tuner", "from loopnest import hookimpl\nclass Strategy:\n    @hookimpl\n    def tune(self, engine): ...\n")
    assert surveyed()["tuner"].problem is None


def test_a_hook_that_nobody_specifies_is_a_problem_unless_it_is_optional(offer):
    source = "from loopnest import hookimpl\nclass Strategy:\n    @hookimpl{}\n    def retune(self, engine): ...\n"
    offer("eager", source.format(""))
    offer("easy", source.format("(optionalhook=True)"))
    assert surveyed()["eager"].problem == "It implements hooks that are not specified: retune."
    assert surveyed()["easy"].problem is None


def test_warnings_on_import_are_told_and_fatal_to_nobody(offer):
    offer("old", "import warnings\nwarnings.warn('too old', DeprecationWarning)\n" + textwrap.dedent(WHOLE))
    plugin = surveyed()["old"]
    assert plugin.problem is None
    assert plugin.warnings == ("DeprecationWarning: too old",)


def test_a_package_that_ends_the_program_on_import_does_not(offer):
    offer("quits", "raise SystemExit('bye')\n")
    assert surveyed()["quits"].problem == "It failed to import: SystemExit: bye."
