"""The conformance suite writes a report that can be published."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import loopnest
from loopnest.testing.rendering import markdown

ROOT = Path(__file__).parents[2]
SUITE = "tests/contract/test_conformance.py"
SELECTED = "answers_with_a_running or log_of_a_loop or a_failed_loop or host_ends"
BROKEN = """
import pytest
from in_memory_loops import InMemoryStrategy
from loopnest import LoopManager, LoopnestSettings, hookimpl
from loopnest.testing import StrategyConformance

class Bad(InMemoryStrategy):
    @hookimpl
    def start_loop(self, request):
        return super().start_loop(request.model_copy(update={"owner": "nobody"}))

class TestBad(StrategyConformance):
    @pytest.fixture
    def new_manager(self, tmp_path):
        settings = LoopnestSettings(strategy="bad", state_dir=tmp_path, secret="the same for all managers")
        return lambda: LoopManager.from_plugins(Bad(Bad.Settings()), settings=settings)

class TestNothing(StrategyConformance):
    pass
"""
COMPLETE = """
from test_in_memory_loops import TestInMemoryStrategy as Original

class TestWhole(Original):
    pass

class TestPart(Original):
    test_a_probe_finds_the_loop_too = None

del Original
"""
PACKAGE = ROOT / "examples" / "in-memory-loops"
OPTIONS = ("-o", "asyncio_mode=auto", "-o", f"pythonpath={PACKAGE}")


def pytest_with_report(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "loopnest.testing.report", "-q"]
    environment = {**os.environ, "CI": "", "PYTHONSAFEPATH": "", "PYTHONPATH": str(ROOT)}
    command += map(str, arguments)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=100)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report of some tests on three strategies that conform: the terminal, the JSON and the Markdown."""
    place = tmp_path_factory.mktemp("report")
    files = place / "report.json", place / "report.md"
    done = pytest_with_report(SUITE, "-k", SELECTED, *(f"--loopnest-report={file}" for file in files))
    assert done.returncode == 0, done.stdout
    return done.stdout, json.loads(files[0].read_text()), files[1].read_text()


def test_the_json_report_names_versions_strategy_and_capabilities(written):
    _, report, _ = written
    assert (report["contract_version"], report["python"]) == (loopnest.CONTRACT_VERSION, sys.version.split()[0])
    suites = {suite["suite"]: suite for suite in report["suites"]}
    assert set(suites) == {"TestInMemory", "TestPausable", "TestWithoutCapabilities"}
    assert suites["TestPausable"]["strategy"].endswith("doubles.Pausable")
    assert suites["TestPausable"]["capabilities"] == ["image", "logs", "pause", "shared", "survives-host"]
    assert suites["TestWithoutCapabilities"]["capabilities"] == []


def test_each_test_has_an_outcome_and_a_duration(written):
    _, report, _ = written
    (suite,) = (suite for suite in report["suites"] if suite["suite"] == "TestWithoutCapabilities")
    tests = {test["name"]: test for test in suite["tests"]}
    assert all(test["seconds"] >= 0 for test in suite["tests"])
    log = tests["test_the_log_of_a_loop_is_read_from_its_end"]
    assert (log["outcome"], log["needs"]) == ("not-declared", ["logs"])
    assert log["reason"] == "The strategy does not declare logs."
    assert tests["test_a_start_answers_with_a_running_loop"]["outcome"] == "passed"
    assert suite["totals"] | {"seconds": 0} == {"passed": 2, "failed": 0, "skipped": 0, "not-declared": 2, "seconds": 0}


def test_only_a_suite_that_ran_completely_conforms(tmp_path):
    (tmp_path / "test_both.py").write_text(COMPLETE)
    file = tmp_path / "report.json"
    assert pytest_with_report("test_both.py", f"--loopnest-report={file}", *OPTIONS, cwd=tmp_path).returncode == 0
    whole, part = json.loads(file.read_text())["suites"]
    assert (whole["conforms"], whole["left_out"]) == (True, [])
    assert (part["conforms"], part["left_out"]) == (False, ["test_a_probe_finds_the_loop_too"])


def test_the_table_has_a_line_for_each_declared_capability(written):
    terminal, _, document = written
    assert "doubles.Pausable: not all tests ran; capabilities: image, logs, pause, shared, survives-host" in terminal
    for table in (terminal, document):
        for part in ("every strategy", "logs", "survives-host", "all"):
            assert part in table
    assert "| test_the_log_of_a_loop_is_read_from_its_end | not-declared |" in document


def test_what_failed_or_was_not_tested_does_not_conform(tmp_path):
    (tmp_path / "test_bad.py").write_text(BROKEN)
    file = tmp_path / "report.json"
    selected = "answers_with_a_running or a_failed_loop"
    done = pytest_with_report("test_bad.py", "-k", selected, f"--loopnest-report={file}", *OPTIONS, cwd=tmp_path)
    bad, nothing = json.loads(file.read_text())["suites"]
    assert (done.returncode, bad["conforms"], nothing["conforms"]) == (1, False, False)
    outcomes = {test["name"]: (test["outcome"], test["reason"]) for test in bad["tests"]}
    assert outcomes["test_a_failed_loop_can_be_closed"][0] == "skipped"
    assert "broken_request" in outcomes["test_a_failed_loop_can_be_closed"][1]
    assert outcomes["test_a_start_answers_with_a_running_loop"][0] == "failed"
    assert {test["outcome"] for test in nothing["tests"]} == {"failed"}
    assert nothing["tests"][0]["reason"] == "setup: NotImplementedError: override the fixture 'new_manager'"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/report.json", "missing/report.json can't be written: No such file or directory."),
        ("report.xml", "report.xml must end in .json or .md."),
    ],
)
def test_a_report_that_can_not_be_written_is_refused(tmp_path, name, message):
    done = pytest_with_report(SUITE, f"--loopnest-report={tmp_path / name}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr
    assert "passed" not in done.stdout


def test_cells_of_the_markdown_table_can_not_break_it():
    test = {"name": "test_one[a|b]", "outcome": "failed", "seconds": 0.1, "needs": [], "reason": "<b>\nno"}
    suite = {"suite": "TestOne", "strategy": "m.S", "distribution": "d 1", "capabilities": [], "conforms": False}
    suite |= {"tests": [test], "left_out": []}
    report = {"contract_version": 1, "loopnest": "0", "python": "3", "created_at": "now", "suites": [suite]}
    assert "| test_one[a\\|b] | failed | 0.10 | &lt;b> no |" in markdown(report)
