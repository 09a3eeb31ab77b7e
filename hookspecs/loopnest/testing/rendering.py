"""A report of the conformance suite as text: for the terminal, and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from loopnest.capabilities import Capability

OUTCOMES: Final = ("passed", "failed", "skipped", "not-declared")
_HEAD: Final = ("part", *OUTCOMES, "seconds")
_EVERY: Final = "every strategy"


def rows(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a table for the terminal."""
    for suite in report["suites"]:
        yield f"{suite['suite']}: {_title(suite)}"
        table = [_HEAD, *_parts(suite)]
        widths = [max(len(row[column]) for row in table) for column in range(len(_HEAD))]
        for row in table:
            first, *others = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            yield "  " + "  ".join([first, *(cell.strip().rjust(len(cell)) for cell in others)])
        yield ""


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as a Markdown document."""
    versions = (
        f"Contract version {report['contract_version']}, loopnest {report['loopnest']}, Python {report['python']}"
    )
    lines = ["# loopnest conformance", "", f"{versions}, {report['created_at']}.", ""]
    for suite in report["suites"]:
        lines += [f"## {_cell(suite['suite'])}", "", f"{_cell(_title(suite))}.", ""]
        lines += _table(_HEAD, _parts(suite))
        tests = [
            (test["name"], test["outcome"], f"{test['seconds']:.2f}", test.get("reason", "")) for test in suite["tests"]
        ]
        lines += _table(("test", "outcome", "seconds", "reason"), tests)
    return "\n".join(lines)


def _title(suite: Mapping[str, Any]) -> str:
    verdict = " conforms" if suite["conforms"] else ": not all tests ran"
    if any(test["outcome"] == "failed" for test in suite["tests"]):
        verdict = " does not conform"
    name = suite["strategy"] or "an unknown strategy"
    source = f" ({suite['distribution']})" if suite["distribution"] else ""
    capabilities = ", ".join(suite["capabilities"]) or "none"
    return f"{name}{source}{verdict}; capabilities: {capabilities}"


def _parts(suite: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row for what every strategy must do, one for each capability, and one for all."""
    tests = suite["tests"]
    parts = {_EVERY: [test for test in tests if not test["needs"]]}
    parts |= {str(one): [test for test in tests if str(one) in test["needs"]] for one in Capability}
    return [_row(name, part) for name, part in parts.items() if part] + [_row("all", tests)]


def _row(name: str, tests: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    counts = (str(sum(test["outcome"] == outcome for test in tests)) for outcome in OUTCOMES)
    return name, *counts, f"{sum(test['seconds'] for test in tests):.1f}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head)
    return [*(f"| {' | '.join(map(_cell, row))} |" for row in (head, rule, *body)), ""]


def _cell(text: str) -> str:
    """Text that can't break out of a table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
