"""Loopnest's configuration, with defaults from the host's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from loopnest import LoopManager
from loopnest.selection import installed, select
from loopnest.settings import Configuration
from loopnest_openhands.legacy import sandbox
from loopnest_openhands.legacy.current import set_host
from loopnest_openhands.legacy.host import Host
from loopnest_openhands.legacy.plugin import HostPlugin

#: The entry point of the adapter's own plugin, and its table.
NAME: Final = "openhands-legacy"


@dataclass(frozen=True)
class Built:
    """What a conversation manager works with; ``strategy`` is the plugin that runs the loops."""

    loops: LoopManager
    plugin: HostPlugin
    strategy: object


def build(host: Host) -> Built:
    """Read the configuration, and put the adapter's plugin between the overrides and the strategy.

    Raises:
        ConfigurationError: with what is wrong, where, and what to do about it.
    """
    set_host(host)
    configuration = with_defaults(Configuration.read(), {"docker": sandbox.docker_defaults(host.config.sandbox)})
    overrides = configuration.core(installed().names).overrides
    plugins, settings = select(configuration, overrides=[*(name for name in overrides if name != NAME), NAME])
    plugin: Any = plugins.get_plugin(NAME)
    return Built(LoopManager(plugins, settings), plugin, plugins.get_plugin(settings.strategy))


def with_defaults(configuration: Configuration, defaults: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """Return ``configuration`` with ``defaults`` below the keys of its tables."""
    tables = {name: {**below, **configuration.table.get(name, {})} for name, below in defaults.items()}
    return replace(configuration, table={**configuration.table, **tables})
