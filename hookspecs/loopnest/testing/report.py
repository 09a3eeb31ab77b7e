"""A report of the conformance suite that can be published: a pytest plugin.

Load it by name, and say where the report goes::

    pytest -p loopnest.testing.report --loopnest-report=report.json --loopnest-report=report.md

A file that ends in ``.json`` has everything, one in ``.md`` tables; a table is printed as well. The plugin has no entry
point in the group ``pytest11``: pytest would import it, and the contract with it, in every run of every project that
has loopnest installed, also where it is only a dependency of a host.

The JSON object has the keys ``contract_version``, ``loopnest`` and ``python`` (versions), ``created_at`` (UTC, in the
form of ISO 8601), ``totals`` and ``suites``. Each suite is one subclass of `loopnest.testing.StrategyConformance`:

- ``suite``: the name of the subclass; ``strategy``: the class of the strategy with its module;
- ``distribution``: name and version, or empty where the strategy is not installed as one;
- ``capabilities``: as declared; ``conforms``: a boolean; ``totals``: a number for each outcome, and ``seconds``;
- ``tests``: each with a ``name``, ``seconds``, an ``outcome`` (``passed``, ``failed``, ``not-declared``, ``skipped``),
  the capabilities that it ``needs``, and a ``reason`` where it did not pass;
- ``left_out``: tests of the suite that were not selected.

A suite conforms where all tests ran, and none failed or was skipped for any reason but a missing declaration.
"""

from __future__ import annotations

import json
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from importlib_metadata import PackageNotFoundError, version

from loopnest._markers import CONTRACT_VERSION
from loopnest.models import utcnow
from loopnest.testing.harness import Harness
from loopnest.testing.profile import CAPABILITIES, DISTRIBUTION, NEEDS, NOT_DECLARED, STRATEGY, needed
from loopnest.testing.rendering import OUTCOMES, markdown, rows

_SUITE: Final = "loopnest.suite"
_LEFT_OUT: Final = "loopnest.left-out"
_SUFFIXES: Final = (".json", ".md")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--loopnest-report``."""
    parser.getgroup("loopnest").addoption(
        "--loopnest-report",
        action="append",
        default=[],
        metavar="FILE",
        help="write a report of loopnest's conformance suite to FILE (.json or .md); may be repeated",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what can't be written before any test runs."""
    paths = [_writable(Path(name)) for name in config.getoption("loopnest_report")]
    config.pluginmanager.register(Report(paths), "loopnest-report")


def _writable(path: Path) -> Path:
    if path.suffix not in _SUFFIXES:
        raise pytest.UsageError(f"--loopnest-report: {path} must end in {' or '.join(_SUFFIXES)}.")
    try:
        path.open("a", encoding="utf-8").close()
    except OSError as error:
        raise pytest.UsageError(f"--loopnest-report: {path} can't be written: {error.strerror}.") from error
    return path


class Report:
    """Collects the outcomes of the suite's tests, also those of pytest-xdist's workers."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._suites: dict[str, dict[str, Any]] = {}
        self._tests: dict[str, dict[str, Any]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Mark the tests of the suite, with the names of those that were not selected."""
        items: dict[type, list[pytest.Function]] = defaultdict(list)
        for item in session.items:
            if isinstance(item, pytest.Function) and item.cls and issubclass(item.cls, Harness):
                items[item.cls].append(item)
        for suite, tests in items.items():
            every = {name for name in dir(suite) if name.startswith("test_")}
            left_out = ", ".join(sorted(every - {test.originalname for test in tests}))
            for test in tests:
                names = ", ".join(sorted(needed(test.function)))
                test.user_properties += [(_SUITE, suite.__qualname__), (NEEDS, names), (_LEFT_OUT, left_out)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add one phase of a test."""
        properties = dict(report.user_properties)
        if _SUITE not in properties:
            return
        where, _, name = report.nodeid.rpartition("::")
        suite = self._suites.setdefault(where, {"suite": str(properties[_SUITE]), "tests": []})
        suite["left_out"] = _words(properties[_LEFT_OUT])
        if report.nodeid not in self._tests:
            self._tests[report.nodeid] = {"name": name, "outcome": "passed", "seconds": 0.0}
            suite["tests"].append(self._tests[report.nodeid])
        test = self._tests[report.nodeid]
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        test["needs"] = _words(properties[NEEDS])
        if STRATEGY in properties:
            suite["strategy"], suite["distribution"] = properties[STRATEGY], properties[DISTRIBUTION]
            suite["capabilities"] = _words(properties[CAPABILITIES])
        if not report.passed and test["outcome"] != "failed":
            test["outcome"] = "not-declared" if NOT_DECLARED in properties else str(report.outcome)
            test["reason"] = _reason(report)

    def summary(self) -> dict[str, Any]:
        """Everything, as it is written in JSON."""
        return {
            "contract_version": CONTRACT_VERSION,
            "loopnest": _version(),
            "python": platform.python_version(),
            "created_at": utcnow().isoformat(timespec="seconds"),
            "totals": _totals(list(self._tests.values())),
            "suites": [_summed(suite) for suite in self._suites.values()],
        }

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print a table, and write the files."""
        summary = self.summary()
        if summary["suites"]:
            terminalreporter.section("loopnest conformance")
            for row in rows(summary):
                terminalreporter.write_line(row)
        for path in self._paths:
            text = json.dumps(summary, indent=2) + "\n" if path.suffix == ".json" else markdown(summary)
            path.write_text(text, encoding="utf-8")
            terminalreporter.write_line(f"loopnest conformance: wrote {path}")


def _summed(suite: Mapping[str, Any]) -> dict[str, Any]:
    """A suite with its verdict and totals, also where its strategy is unknown as every test failed before."""
    totals = _totals(suite["tests"])
    facts = {"suite": suite["suite"], "strategy": "", "distribution": "", "capabilities": [], "left_out": []}
    facts.update({key: suite[key] for key in facts if suite.get(key)})
    conforms = not (facts["left_out"] or totals["failed"] or totals["skipped"])
    return {**facts, "conforms": conforms, "totals": totals, "tests": suite["tests"]}


def _totals(tests: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    counts = {outcome: sum(test["outcome"] == outcome for test in tests) for outcome in OUTCOMES}
    return {**counts, "seconds": round(sum(test["seconds"] for test in tests), 3)}


def _reason(report: pytest.TestReport) -> str:
    """Why a test did not pass, in one line."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash else str(report.longrepr)
    return f"{report.when}: {next(iter(text.splitlines()), '')}"


def _words(value: object) -> list[str]:
    return str(value).split(", ") if value else []


def _version() -> str:
    try:
        return version("loopnest")
    except PackageNotFoundError:
        return "unknown"
