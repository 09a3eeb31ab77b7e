"""The conformance suite on every mutant; not collected by itself, as it is there to fail."""

from __future__ import annotations

from loopnest import LoopManager

from . import mutants_capabilities, mutants_overrides  # noqa: F401 - fills CAUGHT_BY
from .doubles import Pausable
from .mutants import CAUGHT_BY
from .test_conformance import TestInMemory

for mutant in CAUGHT_BY:
    name = f"Test{mutant.__name__}"
    part = {"manager": mutant, "strategy": Pausable} if issubclass(mutant, LoopManager) else {"strategy": mutant}
    globals()[name] = type(name, (TestInMemory,), {**part, "patience": 1})
del TestInMemory
