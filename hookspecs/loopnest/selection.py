"""Find the plugins that the configuration names, and say what is wrong where one fails.

Only named entry points are imported: what is installed but not named can neither fail nor slow down the host. There is
no fallback, as an operator who asked for isolation must not get something else silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Final

import pluggy
from importlib_metadata import EntryPoint, EntryPoints, entry_points
from pydantic import BaseModel

from loopnest import specs
from loopnest._markers import CONTRACT_VERSION, ENTRY_POINT_GROUP, PROJECT, hookimpl
from loopnest._pluggy import AsyncPluginManager
from loopnest.capabilities import HOOKS, declared
from loopnest.errors import AmbiguousPlugin, BrokenPlugin, ConfigurationError, IllFittingPlugin, UnknownPlugin
from loopnest.models import Loop
from loopnest.settings import Configuration, LoopnestSettings, did_you_mean

#: The name of the plugin that answers ``list_loops`` last; an entry point can't have it.
NO_LOOPS: Final = "loopnest.no-loops"
WORK_HOOKS: Final = ("start_loop", "close_session", "list_loops", "send_event")


def installed() -> EntryPoints:
    """All entry points of the group, imported or not."""
    return entry_points(group=ENTRY_POINT_GROUP)


def select(
    configuration: Configuration,
    *,
    strategy: str | None = None,
    overrides: Sequence[str] | None = None,
) -> tuple[AsyncPluginManager, LoopnestSettings]:
    """Validate ``configuration``, import the plugins it names, and register them in order.

    Args:
        strategy: instead of the configured one.
        overrides: instead of the configured ones.

    Raises:
        ConfigurationError: of the kind that fits, with what to do about it.
    """
    settings = configuration.core(installed().names)
    changes = {"strategy": strategy, "overrides": None if overrides is None else tuple(overrides)}
    settings = settings.model_copy(update={key: value for key, value in changes.items() if value is not None})
    manager = new_plugin_manager()
    _refuse_repeated([settings.strategy, *settings.overrides])
    for name in (settings.strategy, *reversed(settings.overrides)):
        point = find(name)
        register(manager, build(point, configuration), name, source_of(point))
    require_strategy(manager, settings.strategy)
    _check_pending(manager)
    return manager, settings


def new_plugin_manager() -> AsyncPluginManager:
    """Return a plugin manager that knows the specifications of the contract."""
    manager = AsyncPluginManager(PROJECT)
    manager.add_hookspecs(specs)
    manager.register(_NoLoops(), name=NO_LOOPS)
    return manager


class _NoLoops:
    """Answers ``list_loops`` where no other plugin does, so that wrappers always receive a sequence."""

    @hookimpl(trylast=True)
    def list_loops(self) -> Sequence[Loop]:
        return ()


def find(name: str) -> EntryPoint:
    """Return the one entry point called ``name``.

    Raises:
        UnknownPlugin: there is none; the message lists what is installed.
        AmbiguousPlugin: there are several; the message names their distributions.
    """
    points = installed()
    found: list[EntryPoint] = list(points.select(name=name))
    if len(found) == 1:
        return found[0]
    if found:
        raise AmbiguousPlugin(f"Loop plugin {name!r} is offered by {_listing(found)}. Uninstall all but one.")
    hint = did_you_mean(name, points.names) if points else ""
    hint = hint if "Did you mean" in hint else ""
    raise UnknownPlugin(f"Loop plugin {name!r} is not installed.{hint} Installed: {_listing(points) or 'none'}.")


def build(point: EntryPoint, configuration: Configuration) -> object:
    """Import what ``point`` names and return the plugin.

    A class is called: with its validated table where it has an attribute ``Settings`` (a pydantic model), else
    without arguments. A module or any other object is the plugin itself, and takes no settings.

    Raises:
        BrokenPlugin: it fails to import or to be built.
        ConfigurationError: its table is wrong, or it takes none.
    """
    try:
        loaded: Any = point.load()
        if not inspect.isclass(loaded):
            return _without_settings(loaded, point.name, configuration)
        factory: Callable[..., object] = loaded
        model: type[BaseModel] | None = getattr(loaded, "Settings", None)
        if model is None:
            return _without_settings(factory(), point.name, configuration)
        return factory(configuration.plugin(point.name, model))
    except ConfigurationError:
        raise
    except Exception as error:
        raise BrokenPlugin(
            f"Loop plugin {point.name!r} ({source_of(point)}) failed to load: {type(error).__name__}: {error}. "
            f"Repair or upgrade it, or take it out of the configuration."
        ) from error


def register(manager: AsyncPluginManager, plugin: object, name: str, source: str) -> None:
    """Register ``plugin``, with the specifications it brings in an attribute ``Specs``.

    Raises:
        IllFittingPlugin: it was made for another version of the contract, or an implementation does not fit its
            specification.
    """
    made_for = getattr(plugin, "CONTRACT_VERSION", CONTRACT_VERSION)
    if made_for != CONTRACT_VERSION:
        raise IllFittingPlugin(
            f"Loop plugin {name!r} ({source}) was made for version {made_for} of the contract; this is version "
            f"{CONTRACT_VERSION}. Install a release of the plugin, or of loopnest, such that both are the same."
        )
    try:
        if brought := getattr(plugin, "Specs", None):
            manager.add_hookspecs(brought)
        manager.register(plugin, name=name)
    except (pluggy.PluginValidationError, ValueError) as error:
        raise IllFittingPlugin(
            f"Loop plugin {name!r} ({source}) does not fit the hooks of contract version {CONTRACT_VERSION}: {error}"
        ) from error


def require_strategy(manager: AsyncPluginManager, name: str) -> None:
    """Raise IllFittingPlugin unless the plugin ``name`` implements all hooks of a strategy and of its capabilities."""
    plugin = manager.get_plugin(name)
    hooks = {caller.name for caller in manager.get_hookcallers(plugin) or []}
    if missing := [hook for hook in WORK_HOOKS if hook not in hooks]:
        raise IllFittingPlugin(
            f"Loop plugin {name!r} is no strategy: it lacks {', '.join(missing)}. "
            f"Name it in 'overrides', and a plugin that implements all of {', '.join(WORK_HOOKS)} as 'strategy'."
        )
    for capability in sorted(declared(plugin, name)):
        if missing := [hook for hook in HOOKS.get(capability, ()) if hook not in hooks]:
            raise IllFittingPlugin(
                f"Strategy {name!r} declares the capability {str(capability)!r}, but lacks {', '.join(missing)}."
            )


def source_of(point: EntryPoint) -> str:
    """Say which distribution, version and module an entry point is from."""
    return f"{point.dist.name} {point.dist.version}, {point.value}" if point.dist else point.value


def _without_settings(plugin: object, name: str, configuration: Configuration) -> object:
    if configuration.has_table(name):
        raise ConfigurationError(f"Loop plugin {name!r} takes no settings. Remove the table 'loopnest.{name}'.")
    return plugin


def _check_pending(manager: AsyncPluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        name = manager.get_name(error.plugin)
        raise IllFittingPlugin(
            f"Loop plugin {name!r} implements a hook that is not specified: {error}. Check its spelling; if another "
            f"plugin specifies it, name that plugin too, or mark it optionalhook=True."
        ) from error


def _refuse_repeated(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"Loop plugin {name!r} is named more than once in 'strategy' and 'overrides'.")


def _listing(points: Sequence[EntryPoint] | EntryPoints) -> str:
    return ", ".join(sorted(f"{point.name} ({source_of(point)})" for point in points))
