"""What went wrong, in the agent server's form: a status and ``{"detail": ...}``, with our stable reason beside it."""

from __future__ import annotations

from typing import Any, Final

from starlette.responses import JSONResponse

from loopnest import (
    EngineError,
    HookTimeout,
    InvalidRequest,
    LoopnestError,
    LoopNotFound,
    NestedError,
    QuotaExceeded,
    Reason,
)
from loopnest_openhands.agent_server.launch import Refused

_STATUSES: Final[dict[type[LoopnestError], int]] = {
    InvalidRequest: 422,
    QuotaExceeded: 429,
    EngineError: 503,
    HookTimeout: 504,
}
#: Seconds after which it makes sense to try again.
_RETRY_AFTER: Final = {429: "30", 503: "5"}


def as_response(error: LoopnestError) -> JSONResponse:
    """Say it to the client."""
    if isinstance(error, Refused):
        return JSONResponse({"detail": error.detail}, error.http_status)
    if isinstance(error, LoopNotFound):
        return JSONResponse({"detail": f"Conversation not found: {error.conversation_id}", "reason": error.reason}, 404)
    status = _status(error)
    content: dict[str, Any] = {"detail": error.message, "reason": error.reason}
    if tail := getattr(error, "log_tail", ()):
        content["log_tail"] = list(tail)
    headers = {"retry-after": _RETRY_AFTER[status]} if status in _RETRY_AFTER else None
    return JSONResponse(content, status, headers)


def _status(error: LoopnestError) -> int:
    if error.reason == Reason.HISTORY_LOST:
        return 410
    if isinstance(error, NestedError):
        return 504 if error.reason == Reason.NESTED_TIMEOUT else error.http_status or 502
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 502)
