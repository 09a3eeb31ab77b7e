"""How the nested server of a loop ended: one answer for every process and every strategy.

A process that saw the end and a replica that is started a day later must give the same answer. So it depends only on
facts that both can read: the exit code, whether a stop was requested, whether the kernel's out-of-memory killer acted,
and whether the server was ready before. Each strategy has its own place for these facts.

- A requested stop explains every exit code: a server that is asked to end may end with any, and with 137 where it had
  to be killed.
- Without one, 0 and the codes of SIGINT and SIGTERM (130, 143) mean a stop: ``docker stop`` and the shutdown of an
  engine send SIGTERM, and leave no other trace.
- 137 is SIGKILL: a failure unless a stop was requested. The out-of-memory killer uses it too. With another exit code
  it did not kill the server but a process of the agent, so its flag does not count.
- Where the exit code was lost, as in a crash of the machine, the server was killed as well.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Final

from loopnest import LoopStatus, Reason

#: Exit codes of a server that ended by itself without an error, or by SIGINT or SIGTERM.
_CLEAN: Final = frozenset({0, 128 + signal.SIGINT, 128 + signal.SIGTERM})
_KILLED: Final = 128 + signal.SIGKILL


@dataclass(frozen=True)
class Ending:
    """What the end of its nested server means for a loop; ``reason`` and ``message`` are of failures.

    Attributes:
        exit_code: None where it was lost.
    """

    status: LoopStatus
    exit_code: int | None
    reason: str | None = None
    message: str | None = None


def is_clean(exit_code: int | None) -> bool:
    """Whether a nested server that ended with this code counts as stopped, whatever else is known."""
    return exit_code in _CLEAN


def was_killed(exit_code: int | None) -> bool:
    """Whether a nested server that was asked to end had to be killed, as far as its exit code tells."""
    return exit_code is None or exit_code == _KILLED


def ending(
    exit_code: int | None,
    *,
    stop_requested: bool = False,
    out_of_memory: bool = False,
    lost: bool = False,
    ready: bool = True,
) -> Ending:
    """Return what the end of a nested server means for its loop.

    Args:
        stop_requested: loopnest was asked to stop this run of it.
        out_of_memory: the out-of-memory killer ended a process of this run.
        lost: ``exit_code`` is not the server's, as nothing saw it end; implied by None.
        ready: False where it ended before it was ready, so that its start fails in any case.
    """
    if stop_requested and not ready:
        return Ending(LoopStatus.FAILED, None, Reason.INTERRUPTED, "The loop was closed while it was starting.")
    if stop_requested or (ready and is_clean(exit_code)):
        return Ending(LoopStatus.STOPPED, exit_code)
    if lost or exit_code is None:
        return Ending(LoopStatus.FAILED, exit_code, Reason.KILLED, _LOST)
    if exit_code == _KILLED:
        reason, message = (Reason.OOM_KILLED, _OUT_OF_MEMORY) if out_of_memory else (Reason.KILLED, _SIGKILL)
        return Ending(LoopStatus.FAILED, exit_code, reason, message)
    if ready:
        return Ending(LoopStatus.FAILED, exit_code, Reason.EXITED, f"The nested server ended {_with(exit_code)}.")
    message = f"The nested server ended {_with(exit_code)} before it was ready."
    return Ending(LoopStatus.FAILED, exit_code, Reason.EXITED_EARLY, message)


def _with(exit_code: int) -> str:
    try:
        return f"with exit code {exit_code} ({signal.Signals(exit_code - 128).name})"
    except ValueError:
        return f"with exit code {exit_code}"


_SIGKILL: Final = "The nested server was killed (SIGKILL), and no stop was requested."
_OUT_OF_MEMORY: Final = "The nested server was killed because it used more memory than 'memory' allows."
_LOST: Final = (
    "The nested server is gone and its exit code was lost, as in a crash or restart of its machine or engine."
)
