"""Why a container ended, or could not be started, in words and with a reason code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import SecretStr

from loopnest import EngineError, LoopFailed, Reason
from loopnest_docker.engine import Engine, NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_nested.redaction import redacted

_LINES: Final = 20


async def explain_death(
    engine: Engine, container: Facts, secrets: Iterable[SecretStr], *, early: bool, exit_code: int | None = None
) -> LoopFailed:
    """Look at a container that ended without being asked to, and say why.

    Args:
        secrets: masked in the log lines.
        early: it never became ready.
        exit_code: where the container is gone already.
    """
    try:
        state: dict[str, Any] = (await engine.call("inspect_container", container.id))["State"]
    except NotOnEngine:
        return LoopFailed("The container was removed by somebody else.", reason=Reason.KILLED, exit_code=exit_code)
    code = int(state.get("ExitCode") or 0)
    lines = await log_tail(engine, container.id, secrets)
    reason, words = _verdict(state, code, early)
    return LoopFailed(words, reason=reason, exit_code=code, log_tail=lines)


async def log_tail(engine: Engine, container_id: str, secrets: Iterable[SecretStr] = ()) -> list[str]:
    """The last log lines of a container without ``secrets``, oldest first; none where the engine can't tell."""
    try:
        raw: bytes = await engine.call("logs", container_id, tail=_LINES)
    except EngineError:
        return []
    text = raw.decode(errors="replace")
    return [line[:500] for line in redacted(text, secrets).splitlines()]


def _verdict(state: dict[str, Any], code: int, early: bool) -> tuple[str, str]:
    if state.get("OOMKilled"):
        return Reason.OOM_KILLED, "The nested server was killed because it used more memory than 'memory' allows."
    if code == 137:
        return Reason.KILLED, "The nested server was killed (SIGKILL)."
    if early:
        return Reason.EXITED_EARLY, f"The nested server ended with exit code {code} before it was ready."
    return Reason.EXITED, f"The nested server ended by itself, with exit code {code}."
