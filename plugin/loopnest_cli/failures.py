"""What becomes of an error: one exit code, one message, and no traceback for a user's mistake.

Exit codes:

====  =================================================================================================
0     done
1     the work failed, or ``doctor`` found an error
2     the command line, the configuration or an argument is wrong; nothing was done
3     no such loop (or image), or the user does not own it
4     the engine can't be reached, or does not answer
130   interrupted (Ctrl-C); 143 terminated. A start that was interrupted leaves nothing.
====  =================================================================================================
"""

from __future__ import annotations

import json
import traceback
from typing import Any, Final

import typer

from loopnest import LoopnestError, Reason
from loopnest_cli.output import printable

_FAILED: Final = 1
_CODES: Final = {
    Reason.CONFIGURATION: 2,
    Reason.INVALID_REQUEST: 2,
    Reason.NOT_FOUND: 3,
    Reason.ENGINE_UNREACHABLE: 4,
    Reason.ENGINE_TIMEOUT: 4,
}
_HINTS: Final = {
    Reason.NOT_FOUND: "'loopnest list' shows the loops there are.",
    Reason.NOT_RUNNING: "'loopnest start' starts it again, where it was.",
    Reason.ENGINE_UNREACHABLE: "'loopnest doctor' looks closer.",
    Reason.ENGINE_TIMEOUT: "'loopnest doctor' looks closer.",
    Reason.IMAGE_MISSING: "'loopnest image build' or 'loopnest image pull' gets it.",
    Reason.OOM_KILLED: "Give loops more memory in the configuration; 'loopnest config' shows the limits.",
    Reason.INTERNAL: "'loopnest -v ...' shows where.",
}


def exit_code(error: Exception) -> int:
    """The exit code that ``error`` ends the command with."""
    return _CODES.get(error.reason, _FAILED) if isinstance(error, LoopnestError) else _FAILED


def report(error: Exception, *, as_json: bool = False, verbosity: int = 0) -> int:
    """Say on standard error what went wrong and what to do, and return the exit code.

    Args:
        as_json: as one JSON document on one line: ``{"error": {"reason", "message", ...}}``.
        verbosity: above 0, the traceback too.
    """
    if verbosity:
        typer.echo("".join(traceback.format_exception(error)), err=True)
    if as_json:
        typer.echo(json.dumps({"error": _document(error)}), err=True)
    else:
        for line in _lines(error):
            typer.echo(printable(line), err=True)
    return exit_code(error)


def _document(error: Exception) -> dict[str, Any]:
    return {
        "reason": getattr(error, "reason", Reason.INTERNAL),
        "message": _message(error),
        "conversation_id": getattr(error, "conversation_id", None),
        "exit_code": getattr(error, "exit_code", None),
        "log_tail": list(getattr(error, "log_tail", ())),
        "hint": _hint(error),
    }


def _lines(error: Exception) -> list[str]:
    log: tuple[str, ...] = getattr(error, "log_tail", ())
    code = getattr(error, "exit_code", None)
    lines = [f"error ({getattr(error, 'reason', Reason.INTERNAL)}): {_message(error)}"]
    lines += [f"exit code of the nested server: {code}"] if code is not None else []
    lines += ["its last log lines:", *(f"  {line}" for line in log)] if log else []
    hint = _hint(error)
    return [*lines, f"hint: {hint}"] if hint else lines


def _message(error: Exception) -> str:
    return error.message if isinstance(error, LoopnestError) else f"{type(error).__name__}: {error}"


def _hint(error: Exception) -> str | None:
    hint = _HINTS.get(getattr(error, "reason", Reason.INTERNAL))
    return None if hint is None or hint.split("'")[1] in _message(error) else hint
