"""The conformance suite on every mutant; not collected by itself, as it is there to fail."""

from __future__ import annotations

from . import mutants_capabilities  # noqa: F401 - fills CAUGHT_BY
from .mutants import CAUGHT_BY
from .test_conformance import TestInMemory

for mutant in CAUGHT_BY:
    name = f"Test{mutant.__name__}"
    globals()[name] = type(name, (TestInMemory,), {"strategy": mutant, "patience": 1})
del TestInMemory
