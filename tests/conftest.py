"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _unskipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _unskipped((yield))


def _unskipped(report: Any) -> Any:
    """Make a failure of a skip where ``CI`` is set, unless the conformance suite skips what is not declared."""
    # An expected failure is no skip; and doubles without a capability are there to have its tests left out.
    properties = dict(getattr(report, "user_properties", ()))
    excused = hasattr(report, "wasxfail") or "loopnest.not-declared" in properties
    if os.environ.get("CI") and report.skipped and not excused:
        _, _, reason = report.longrepr
        report.outcome, report.longrepr = "failed", f"Nothing may be skipped in CI. {reason}"
    return report
