"""Which tests a strategy has to pass: those of every strategy, and those of each capability that it declares."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import pytest
from importlib_metadata import packages_distributions, version

from loopnest.capabilities import Capability
from loopnest.manager import LoopManager
from loopnest.selection import installed

#: The names of the properties that the suite adds to the reports of its tests.
STRATEGY: Final = "loopnest.strategy"
DISTRIBUTION: Final = "loopnest.distribution"
CAPABILITIES: Final = "loopnest.capabilities"
NEEDS: Final = "loopnest.needs"
NOT_DECLARED: Final = "loopnest.not-declared"
#: An attribute of the test, and no mark of pytest: every project that runs the suite would have to register that.
_ATTRIBUTE: Final = "loopnest_needs"
_Test = TypeVar("_Test", bound=Callable[..., Any])


def needs(*capabilities: Capability) -> Callable[[_Test], _Test]:
    """Run a test of the suite on strategies that declare ``capabilities``, and skip it on others."""

    def mark(test: _Test) -> _Test:
        setattr(test, _ATTRIBUTE, frozenset(capabilities))
        return test

    return mark


def needed(test: Callable[..., Any]) -> frozenset[Capability]:
    """The capabilities that a test of the suite needs."""
    capabilities: frozenset[Capability] = getattr(test, _ATTRIBUTE, frozenset())
    return capabilities


@dataclass(frozen=True)
class Profile:
    """What is tested.

    Attributes:
        strategy: the strategy's class (or module), with its module.
        distribution: its name and version, where the strategy is installed as one; else empty.
    """

    strategy: str
    distribution: str
    capabilities: frozenset[Capability]

    @classmethod
    def of(cls, manager: LoopManager) -> Profile:
        """The profile of the strategy that a manager uses."""
        name = manager.settings.strategy
        plugin = manager.plugins.get_plugin(name)
        if inspect.ismodule(plugin):
            strategy = module = plugin.__name__
        else:
            module = type(plugin).__module__
            strategy = f"{module}.{type(plugin).__qualname__}"
        return cls(strategy, _distribution_of(module, strategy), manager.capabilities)

    def note(self, item: pytest.Item) -> None:
        """Add the profile to the reports of a test."""
        item.user_properties += [
            (STRATEGY, self.strategy),
            (DISTRIBUTION, self.distribution),
            (CAPABILITIES, ", ".join(sorted(self.capabilities))),
        ]


@functools.lru_cache
def _distribution_of(module: str, strategy: str) -> str:
    """The distribution that offers the strategy as an entry point, or that has its module."""
    for point in installed():
        if point.dist and point.value.replace(":", ".") == strategy:
            return f"{point.dist.name} {point.dist.version}"
    names = packages_distributions().get(module.partition(".")[0], [])
    return " ".join(f"{name} {version(name)}" for name in names[:1])
