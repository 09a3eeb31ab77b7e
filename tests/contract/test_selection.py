"""Each failure names the plugin, where it came from, and what to do."""

from __future__ import annotations

import sys
import textwrap
from types import SimpleNamespace

import pytest

from loopnest import (
    AmbiguousPlugin,
    BrokenPlugin,
    ConfigurationError,
    IllFittingPlugin,
    LoopManager,
    UnknownPlugin,
    hookspec,
)
from loopnest.selection import NO_LOOPS, installed

from .doubles import Healthy

STRATEGY = """
    from loopnest import hookimpl
    @hookimpl
    def start_loop(request): return {name!r}
    @hookimpl
    def close_session(conversation_id): ...
    @hookimpl
    def list_loops(query): ...
    @hookimpl
    def send_event(conversation_id): ...
"""
WITH_SETTINGS = """
    from pydantic import BaseModel
    class Strategy:
        class Settings(BaseModel, extra="forbid"):
            region: str = "north"
            size: int = 1
        def __init__(self, settings): self.settings = settings
        from acme_warm import start_loop, close_session, list_loops, send_event
"""


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Lay down distributions on sys.path, the way an installer would, and hide those that are installed."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr("loopnest.selection.entry_points", lambda group: only(tmp_path, group))
    monkeypatch.chdir(tmp_path)

    def install(dist, version, points, **modules):
        info = tmp_path / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[loopnest]\n{lines}\n")
        for module, source in modules.items():
            (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
            monkeypatch.delitem(sys.modules, module, raising=False)

    return install


def only(path, group):
    from importlib_metadata import EntryPoints, distributions

    points = [point for found in distributions(path=[str(path)]) for point in found.entry_points]
    return EntryPoints(points).select(group=group)


@pytest.fixture
def warm(site):
    site("acme-loops", "2.1", {"warm": "acme_warm"}, acme_warm=STRATEGY.format(name="warm"))


@pytest.fixture
def configured(tmp_path):
    """Write ``loopnest.toml`` and build a manager from it."""

    def build(text="", **choice):
        (tmp_path / "loopnest.toml").write_text(f"[loopnest]\nstate_dir = '{tmp_path}/state'\n{text}")
        return LoopManager.from_config(**choice)

    return build


def message(kind, configured, *args, **choice):
    with pytest.raises(kind) as caught:
        configured(*args, **choice)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.reason == "configuration"
    return str(caught.value)


def test_what_this_project_offers_is_installed():
    assert {"docker", "process"} <= set(installed().names)


def test_an_unknown_name_suggests_and_lists(site, configured):
    site("loopnest", "1.0", {"docker": "loopnest_docker:strategy"})
    assert message(UnknownPlugin, configured, 'strategy = "dokcer"') == (
        "Loop plugin 'dokcer' is not installed. Did you mean 'docker'? "
        "Installed: docker (loopnest 1.0, loopnest_docker:strategy)."
    )


def test_where_nothing_is_installed_that_is_said(site, configured):
    assert message(UnknownPlugin, configured) == "Loop plugin 'docker' is not installed. Installed: none."


def test_duplicates_name_both_distributions(site, configured):
    site("acme-loops", "2.1", {"warm": "acme:plugin"})
    site("other-loops", "0.3", {"warm": "other:plugin"})
    assert message(AmbiguousPlugin, configured, 'strategy = "warm"') == (
        "Loop plugin 'warm' is offered by warm (acme-loops 2.1, acme:plugin), "
        "warm (other-loops 0.3, other:plugin). Uninstall all but one."
    )


def test_an_import_error_names_the_distribution(site, configured):
    site("acme-loops", "2.1", {"warm": "acme_broken"}, acme_broken="import nothing_here")
    assert message(BrokenPlugin, configured, 'strategy = "warm"') == (
        "Loop plugin 'warm' (acme-loops 2.1, acme_broken) failed to load: "
        "ModuleNotFoundError: No module named 'nothing_here'. "
        "Repair or upgrade it, or take it out of the configuration."
    )


def test_a_missing_attribute_names_the_distribution(site, configured):
    site("acme-loops", "2.1", {"warm": "acme_empty:Strategy"}, acme_empty="")
    assert "(acme-loops 2.1, acme_empty:Strategy) failed to load: AttributeError" in message(
        BrokenPlugin, configured, 'strategy = "warm"'
    )


def test_a_class_that_can_t_be_built_names_the_distribution(site, configured):
    source = "class Strategy:\n    def __init__(self): raise OSError('no cluster')"
    site("acme-loops", "2.1", {"warm": "acme_moody:Strategy"}, acme_moody=source)
    assert "failed to load: OSError: no cluster" in message(BrokenPlugin, configured, 'strategy = "warm"')


def test_an_unknown_hook_argument_is_reported(site, configured):
    source = "from loopnest import hookimpl\n@hookimpl\ndef start_loop(request, region): ..."
    site("acme-loops", "2.1", {"warm": "acme_new"}, acme_new=source)
    text = message(IllFittingPlugin, configured, 'strategy = "warm"')
    assert text.startswith(
        "Loop plugin 'warm' (acme-loops 2.1, acme_new) does not fit the hooks of contract version 1:"
    )
    assert "'region'} are declared in the hookimpl but can not be found" in text


def test_a_plugin_for_another_contract_is_refused_with_both_versions(site, configured):
    source = "from loopnest import hookimpl\nCONTRACT_VERSION = 7\n@hookimpl\ndef start_loop(request, region): ..."
    site("acme-loops", "2.1", {"warm": "acme_new"}, acme_new=source)
    text = message(IllFittingPlugin, configured, 'strategy = "warm"')
    assert text.startswith(
        "Loop plugin 'warm' (acme-loops 2.1, acme_new) was made for version 7 of the contract; this is version 1."
    )


def test_a_misspelt_hook_is_reported(site, warm, configured):
    source = "from loopnest import hookimpl\n@hookimpl\ndef send_events(event): ..."
    site("typo", "1", {"typo": "typo_events"}, typo_events=source)
    text = message(IllFittingPlugin, configured, 'strategy = "warm"\noverrides = ["typo"]')
    assert "Loop plugin 'typo' implements a hook that is not specified" in text
    assert "send_events" in text


def test_an_override_is_no_strategy(site, configured):
    source = "from loopnest import hookimpl\n@hookimpl\ndef send_event(event): ..."
    site("part", "1", {"part": "part_events"}, part_events=source)
    assert "it lacks start_loop, close_session, list_loops." in message(
        IllFittingPlugin, configured, 'strategy = "part"'
    )


def test_a_plugin_named_twice_is_reported(warm, configured):
    text = message(ConfigurationError, configured, 'strategy = "warm"\noverrides = ["warm"]')
    assert text == "Loop plugin 'warm' is named more than once in 'strategy' and 'overrides'."


def test_what_is_not_named_is_never_imported(site, warm, configured):
    site("acme-bad", "1", {"bad": "acme_boom"}, acme_boom="raise SystemExit('imported')")
    loops = configured('strategy = "warm"\n[loopnest.bad]\nanything = "goes"')
    assert loops.plugins.has_plugin("warm")
    assert "acme_boom" not in sys.modules


def test_the_first_override_is_called_first(site, warm, configured):
    body = "from loopnest import hookimpl\n@hookimpl\ndef loop_changed(change): ..."
    site("a", "1", {"a": "mod_a"}, mod_a=body)
    site("b", "1", {"b": "mod_b"}, mod_b=body)
    loops = configured('strategy = "warm"\noverrides = ["a", "b"]')
    order = [impl.plugin_name for impl in reversed(loops.plugins.hook.loop_changed.get_hookimpls())]
    assert order == ["a", "b"]


def test_the_caller_s_choice_goes_before_the_configuration(site, warm, configured):
    site("other", "1", {"other": "other_loops"}, other_loops=STRATEGY.format(name="other"))
    loops = configured('strategy = "warm"\noverrides = ["nowhere"]', strategy="other", overrides=[])
    assert {name for name, _ in loops.plugins.list_name_plugin()} == {"other", NO_LOOPS}
    assert loops.settings.strategy == "other"


def test_a_class_gets_its_validated_table(site, warm, configured):
    site("acme-cloud", "1", {"acme-cloud": "acme_cloud:Strategy"}, acme_cloud=WITH_SETTINGS)
    loops = configured('strategy = "acme-cloud"\n[loopnest.acme-cloud]\nregion = "south"')
    settings = loops.plugins.get_plugin("acme-cloud").settings
    assert (settings.region, settings.size) == ("south", 1)


def test_an_unknown_key_of_a_plugin_names_the_nearest(site, warm, configured, tmp_path):
    site("acme-cloud", "1", {"acme-cloud": "acme_cloud:Strategy"}, acme_cloud=WITH_SETTINGS)
    text = message(ConfigurationError, configured, 'strategy = "acme-cloud"\n[loopnest.acme-cloud]\nregoin = "x"')
    assert text == "loopnest.toml: unknown key 'loopnest.acme-cloud.regoin'. Did you mean 'region'?"


def test_a_table_for_a_plugin_that_takes_none_is_reported(warm, configured):
    text = message(ConfigurationError, configured, 'strategy = "warm"\n[loopnest.warm]\nx = 1')
    assert text == "Loop plugin 'warm' takes no settings. Remove the table 'loopnest.warm'."


def test_a_plugin_may_bring_specifications_that_others_implement(site, warm, configured):
    source = """
        from loopnest import hookspec
        from acme_warm import start_loop, close_session, list_loops, send_event
        class Specs:
            @hookspec
            def warm_up(self, degrees): ...
    """
    listener = "from loopnest import hookimpl\n@hookimpl\ndef warm_up(degrees): return degrees"
    site("brings", "1", {"brings": "brings_specs"}, brings_specs=source)
    site("listens", "1", {"listens": "listens_up"}, listens_up=listener)
    loops = configured('strategy = "brings"\noverrides = ["listens"]')
    assert loops.plugins.hook.warm_up(degrees=3) == [3]


def test_plugin_objects_need_no_configuration(settings):
    loops = LoopManager.from_plugins(Healthy(), settings=settings)
    assert loops.plugins.get_name(loops.plugins.get_plugin("in-memory")) == "in-memory"


def test_a_plugin_object_that_is_no_strategy_is_reported(settings):
    with pytest.raises(IllFittingPlugin, match="it lacks start_loop, close_session, list_loops, send_event"):
        LoopManager.from_plugins(SimpleNamespace(), settings=settings)


def test_a_specification_that_can_t_be_awaited_late_is_reported(settings):
    class Odd(Healthy):
        class Specs:
            @hookspec(historic=True)
            async def odd(self): ...

    with pytest.raises(IllFittingPlugin, match="both async and historic"):
        LoopManager.from_plugins(Odd(), settings=settings)
