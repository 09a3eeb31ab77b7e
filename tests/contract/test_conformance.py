"""The conformance suite passes on the reference strategy, and fails on strategies with one defect each."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import pytest
from in_memory_loops import NESTS

from loopnest import LoopManager, StartLoop
from loopnest.testing import StrategyConformance

from . import mutants_capabilities, mutants_overrides  # noqa: F401 - fills CAUGHT_BY
from .doubles import Alone, Healthy, Pausable
from .mutants import CAUGHT_BY


class TestInMemory(StrategyConformance):
    strategy: type = Healthy
    manager: type[LoopManager] = LoopManager

    @pytest.fixture
    def new_manager(self, settings):
        return lambda: self.manager.from_plugins(self.strategy(), settings=settings)

    async def received(self, loops, conversation_id):
        nests = getattr(loops.plugins.get_plugin("in-memory"), "nests", NESTS[loops.settings.state_dir / "default"])
        return [event.text for event in nests[conversation_id].events]

    def broken_request(self, conversation_id):
        return StartLoop(conversation_id=conversation_id, image="missing")


class TestPausable(TestInMemory):
    strategy = Pausable


class TestWithoutCapabilities(TestInMemory):
    strategy = Alone

    def broken_request(self, conversation_id):
        return StartLoop(conversation_id=conversation_id, tags={"broken": "yes"})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Run the test that should catch it on each mutant, in a process of its own; give the verdicts by class."""
    suite, report = Path(__file__).parent / "mutants_suite.py", tmp_path_factory.mktemp("mutants") / "report.xml"
    tests = [f"{suite}::Test{mutant.__name__}::{test}" for mutant, test in CAUGHT_BY.items()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *tests]
    subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False, timeout=200)
    found = defaultdict(set)
    for case in ElementTree.parse(report).iter("testcase"):
        found[case.get("classname").rpartition(".")[2]] |= {verdict.tag for verdict in case}
    return found


@pytest.mark.parametrize("mutant", CAUGHT_BY, ids=lambda mutant: mutant.__name__)
def test_the_suite_fails_a_strategy_that(mutant, outcomes):
    assert "failure" in outcomes[f"Test{mutant.__name__}"]
