"""What is installed in the entry-point group, and what each plugin is used for; for ``loopnest plugins`` and doctor.

Unlike `loopnest.selection`, which imports only what the configuration names, this imports everything, each in a guarded
way: one broken package does not hide the others, and nothing it does on import ends the survey.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from importlib_metadata import EntryPoint
from pydantic import Field

from loopnest.errors import ConfigurationError, IllFittingPlugin
from loopnest.models import Model
from loopnest.selection import WORK_HOOKS, build, find, installed, new_plugin_manager, register, source_of
from loopnest.settings import Configuration


class SurveyedPlugin(Model):
    """One plugin: offered by an installed distribution, or only named by the configuration.

    Attributes:
        name: of the entry point.
        distribution: that offers it, and its ``version``; None where none does.
        module: what the entry point names, ``module:attribute``.
        hooks: that it implements, sorted; empty where it can't be imported.
        role: what the configuration makes of it.
        order: among the overrides, from 1; 1 is asked first.
        problem: why it can't be used; None where it can.
        warnings: what was warned of while it was imported.
    """

    name: str
    distribution: str | None = None
    version: str | None = None
    module: str | None = None
    hooks: tuple[str, ...] = ()
    role: Literal["strategy", "override", "unused"] = "unused"
    order: int | None = Field(default=None, ge=1)
    problem: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def is_strategy(self) -> bool:
        """Whether it implements all that makes a strategy."""
        return set(WORK_HOOKS) <= set(self.hooks)


@dataclass
class _Look:
    """What can be seen of one entry point without building it."""

    point: EntryPoint
    hooks: dict[str, bool] = field(default_factory=dict)  # name: whether it is optional
    specified: set[str] = field(default_factory=set)
    problem: str | None = None
    warnings: tuple[str, ...] = ()


def survey(
    configuration: Configuration, strategy: str | None = None, overrides: Sequence[str] = ()
) -> list[SurveyedPlugin]:
    """Import every plugin there is, and say of each what it is and what it is used for.

    Args:
        configuration: with the tables of the plugins; those in use are built with theirs.
        strategy: the configured one; None where the configuration can't tell.
        overrides: the configured ones in order.

    Returns:
        The strategy, the overrides in order, then the others by name.
    """
    looks = [_look(point) for point in installed()]
    specified = set[str]().union(*(look.specified for look in looks))
    named = [strategy, *overrides]
    ranks = {name: named.index(name) for name in named if name is not None}
    found = [_judged(look, specified, ranks.get(look.point.name), configuration) for look in looks]
    missing = ranks.keys() - {plugin.name for plugin in found}
    found += [_used(SurveyedPlugin(name=name), ranks[name], configuration) for name in missing]
    return sorted(found, key=lambda it: (ranks.get(it.name, len(ranks)), it.name, it.distribution or ""))


def _look(point: EntryPoint) -> _Look:
    look = _Look(point)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            _note_hooks(look, point.load())
        except IllFittingPlugin as error:
            look.problem = error.message
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it becomes the plugin's problem
            look.problem = f"It failed to import: {type(error).__name__}: {error}."
    look.warnings = tuple(f"{it.category.__name__}: {it.message}" for it in caught)
    return look


def _note_hooks(look: _Look, plugin: object) -> None:
    """Register ``plugin``, a class as it is, to find its hooks and whether they fit; no hook is called."""
    manager = new_plugin_manager()
    try:
        register(manager, plugin, look.point.name, source_of(look.point))
    finally:
        callers = manager.get_hookcallers(plugin) or []
        for caller in callers:
            optional = all(impl.optionalhook for impl in caller.get_hookimpls())
            look.hooks[caller.name] = optional
        look.specified = {name for name, caller in vars(manager.hook).items() if caller.has_spec()}


def _judged(look: _Look, specified: set[str], rank: int | None, configuration: Configuration) -> SurveyedPlugin:
    distribution = look.point.dist
    unknown = sorted(name for name, optional in look.hooks.items() if not optional and name not in specified)
    problem = f"It implements hooks that are not specified: {', '.join(unknown)}." if unknown else None
    plugin = SurveyedPlugin(
        name=look.point.name,
        distribution=distribution.name if distribution else None,
        version=distribution.version if distribution else None,
        module=look.point.value,
        hooks=tuple(sorted(look.hooks)),
        problem=look.problem or problem,
        warnings=look.warnings,
    )
    return plugin if rank is None else _used(plugin, rank, configuration)


def _used(plugin: SurveyedPlugin, rank: int, configuration: Configuration) -> SurveyedPlugin:
    """``plugin`` as the configuration names it: rank 0 is the strategy, the others are overrides."""
    problem = plugin.problem or _problem_in_use(plugin, rank, configuration)
    role = "strategy" if rank == 0 else "override"
    return plugin.model_copy(update={"role": role, "order": rank or None, "problem": problem})


def _problem_in_use(plugin: SurveyedPlugin, rank: int, configuration: Configuration) -> str | None:
    try:
        build(find(plugin.name), configuration)
    except ConfigurationError as error:
        return error.message
    missing = [hook for hook in WORK_HOOKS if hook not in plugin.hooks] if rank == 0 else []
    return f"It is no strategy: it lacks {', '.join(missing)}." if missing else None
