"""What a host says of its loops when it starts."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from loopnest import EngineError, Finding
from loopnest_openhands.findings import log_findings


class Examined:
    def __init__(self, answer: list[Finding] | Exception) -> None:
        self._answer = answer

    async def diagnose(self) -> list[Finding]:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("error", [EngineError("It is down."), RuntimeError("a plugin is broken")])
async def test_an_examination_that_fails_is_told_whatever_failed_it(caplog, error):
    loops: Any = Examined(error)
    await log_findings(loops)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert str(error) in record.message
    assert "loopnest doctor" in record.message


async def test_only_what_is_to_be_mended_is_told(caplog):
    findings = [
        Finding(check="engine", level="ok", message="It is up."),
        Finding(check="image", level="error", message="It is missing.", advice="Build it."),
    ]
    loops: Any = Examined(findings)
    await log_findings(loops)
    assert [record.message for record in caplog.records] == ["image: It is missing. Build it."]
