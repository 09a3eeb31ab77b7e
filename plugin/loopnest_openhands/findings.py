"""What a host says in its log when it starts, for those who did not ask ``loopnest doctor`` before."""

from __future__ import annotations

import logging

from loopnest import LoopManager, LoopnestError

_log = logging.getLogger(__name__)


async def log_findings(loops: LoopManager) -> None:
    """Log what ``loopnest doctor`` would complain about, such as an image whose version is not this host's."""
    try:
        findings = await loops.diagnose()
    except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and the finding reports it
        why = error.message if isinstance(error, LoopnestError) else repr(error)
        _log.warning("What the loops need could not be examined: %s 'loopnest doctor' tries again.", why)
        return
    for finding in findings:
        if finding.level != "ok":
            _log.warning("%s: %s %s", finding.check, finding.message, finding.advice or "")
