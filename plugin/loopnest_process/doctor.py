"""What the strategy needs, for ``loopnest doctor``."""

from __future__ import annotations

from collections.abc import Sequence

from loopnest import Finding, LoopFailed
from loopnest_process.server_python import ServerPython

NO_ISOLATION = (
    "The process strategy isolates nothing: agents run as this user, with its files, its network and its processes. "
    "Use it only for agents and conversations that you trust."
)


async def examine(python: ServerPython) -> Sequence[Finding]:
    """Say that there is no isolation, and look for an interpreter that has the nested server."""
    isolation = Finding(
        check="isolation",
        level="warning",
        message=NO_ISOLATION,
        advice="Set strategy = 'docker' in [loopnest] to run each loop in a container.",
    )
    return [isolation, await _interpreter(python)]


async def _interpreter(python: ServerPython) -> Finding:
    try:
        found = await python.find()
    except LoopFailed as error:
        return Finding(check="nested server", level="error", message=error.message)
    if found:
        return Finding(check="nested server", level="ok", message=f"{found} has it.")
    if python.uv():
        return Finding(check="nested server", level="ok", message="It will be installed at the first start.")
    return Finding(check="nested server", level="error", message=python.missing_uv().message)
