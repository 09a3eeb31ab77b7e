"""How a container ended, or why it could not be started, in words and with a reason code."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import SecretStr

import docker
from loopnest import EngineError, LoopFailed, Reason
from loopnest_docker import stop_request
from loopnest_docker.engine import Engine, NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_nested.ending import Ending, ending, is_clean
from loopnest_nested.redaction import redacted

_LINES: Final = 20
#: What the engine gives to containers whose end it did not see, as in a crash of it or of its machine.
_LOST: Final = 255


async def read_ending(engine: Engine, container_id: str, *, ready: bool = True) -> Ending | None:
    """Ask the engine how a container ended; None where it runs, as when it was started again meanwhile.

    Raises:
        NotOnEngine: the container was removed, or is being removed.
        EngineError: the engine could not be asked.
    """
    state = await _state(engine, container_id)
    if state.get("Running"):
        return None
    code = int(state.get("ExitCode") or 0)
    return ending(
        code,
        stop_requested=not (ready and is_clean(code)) and await _stop_requested(engine, container_id, state),
        out_of_memory=bool(state.get("OOMKilled")),
        lost=code == _LOST,
        ready=ready,
    )


async def _state(engine: Engine, container_id: str) -> dict[str, Any]:
    state: dict[str, Any] = (await engine.call("inspect_container", container_id))["State"]
    if state.get("Status") == "removing":
        raise NotOnEngine("The container is being removed.", reason=Reason.NOT_FOUND)
    return state


async def _stop_requested(engine: Engine, container_id: str, state: dict[str, Any]) -> bool:
    def noted(client: docker.APIClient) -> bool:
        return stop_request.is_noted(client, container_id, state)

    if await engine.run(noted):
        return True
    await _state(engine, container_id)  # one that was removed in between looks as if it had no note
    return False


async def explain_early_end(engine: Engine, container: Facts, secrets: Iterable[SecretStr]) -> LoopFailed:
    """Say why a container ended before its nested server was ready.

    Args:
        secrets: masked in the log lines.
    """
    try:
        end = await read_ending(engine, container.id, ready=False)
    except NotOnEngine:
        return LoopFailed("The container was removed while the loop was starting.", reason=Reason.INTERRUPTED)
    if end is None:
        return LoopFailed(
            "The container runs, but the engine publishes no port of it. Check 'port' and 'url_template' in "
            "[loopnest.docker].",
            reason=Reason.NESTED_UNREACHABLE,
        )
    return await as_failure(engine, container, end, secrets)


async def as_failure(engine: Engine, container: Facts, end: Ending, secrets: Iterable[SecretStr]) -> LoopFailed:
    """Return the error for an end that was a failure, with the last log lines."""
    lines = await log_tail(engine, container.id, secrets)
    return LoopFailed(end.message or "", reason=end.reason, exit_code=end.exit_code, log_tail=lines)


async def log_tail(engine: Engine, container_id: str, secrets: Iterable[SecretStr] = ()) -> list[str]:
    """The last log lines of a container without ``secrets``, oldest first; none where the engine can't give them."""
    try:
        raw: bytes = await engine.call("logs", container_id, tail=_LINES)
    except EngineError:
        return []
    text = raw.decode(errors="replace")
    return [line[:500] for line in redacted(text, secrets).splitlines()]
