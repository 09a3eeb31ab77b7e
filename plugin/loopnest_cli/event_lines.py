"""Events of nested servers for people: when, who, and what in a few lines.

Knows the events of the current agent server and of the legacy one; of others it shows the kind. Bookkeeping (system
prompts, statistics, whole states) is left out: ``--json`` has it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.text import Text

from loopnest_cli.output import console, printable

_LONGEST: Final = 20
_WHO: Final = 9
_STYLES: Final = {"user": "cyan", "agent": "green", "status": "yellow", "error": "red"}


class Line(NamedTuple):
    """An event for people: ``who`` speaks (user, agent, output, status, error), and what."""

    who: str
    text: str


def describe(event: Mapping[str, Any]) -> Line | None:
    """Say what an event means; None where it is bookkeeping."""
    if "kind" in event:
        teller = _CURRENT.get(str(event["kind"]))
        return teller(event) if teller else Line(_source(event), str(event["kind"]))
    if "action" in event or "observation" in event:
        return _legacy(event)
    return Line(_source(event), "unknown event")


def print_event(event: Mapping[str, Any], to: Console | None = None) -> None:
    """Print an event, unless it is bookkeeping."""
    line = describe(event)
    if line is None:
        return
    rows = _shortened(printable(line.text).rstrip().splitlines() or [""])
    style = _STYLES.get(line.who, "")
    for number, row in enumerate(rows):
        when, who = (_time(event), line.who) if number == 0 else ("", "")
        head = Text.assemble((f"{when:8}  ", "dim"), (f"{who:{_WHO}} ", style))
        (to or console()).print(head + Text(row, style="dim" if line.who == "output" else ""), soft_wrap=True)


def _shortened(rows: list[str]) -> list[str]:
    return rows if len(rows) <= _LONGEST else [f"... {len(rows) - _LONGEST} lines more", *rows[-_LONGEST:]]


def _time(event: Mapping[str, Any]) -> str:
    """The local time of day; servers give times in UTC, the legacy one without saying so."""
    try:
        moment = datetime.fromisoformat(str(event.get("timestamp", "")).replace("Z", "+00:00"))
    except ValueError:
        return ""
    return (moment.astimezone() if moment.tzinfo else moment).strftime("%H:%M:%S")


def _source(event: Mapping[str, Any]) -> str:
    return str(event.get("source") or "event")


# --- the current agent server ---------------------------------------------------------------------------------------


def _message(event: Mapping[str, Any]) -> Line:
    return Line(_source(event), _content((event.get("llm_message") or {}).get("content")))


def _action(event: Mapping[str, Any]) -> Line:
    action = event.get("action") or {}
    if "command" in action:
        return Line("agent", _command(event.get("tool_name"), action))
    if "message" in action:
        return Line("agent", str(action["message"]))
    return Line("agent", " ".join([str(event.get("tool_name")), _thought(event) or _arguments(action)]).strip())


def _observation(event: Mapping[str, Any]) -> Line | None:
    if event.get("tool_name") == "finish":
        return None  # repeats the action
    observation = event.get("observation") or {}
    text = _content(observation.get("content"))
    code = observation.get("exit_code")
    return Line("output", text if code in (None, 0) else f"{text.rstrip()}\nexit code {code}".lstrip())


def _state(event: Mapping[str, Any]) -> Line | None:
    return Line("status", str(event.get("value"))) if event.get("key") == "execution_status" else None


def _error(event: Mapping[str, Any]) -> Line:
    return Line("error", str(event.get("detail") or event.get("error") or event.get("code") or ""))


def _bookkeeping(_event: Mapping[str, Any]) -> None:
    return None


_CURRENT: Final[dict[str, Callable[[Mapping[str, Any]], Line | None]]] = {
    "MessageEvent": _message,
    "ActionEvent": _action,
    "ObservationEvent": _observation,
    "ConversationStateUpdateEvent": _state,
    "AgentErrorEvent": _error,
    "ConversationErrorEvent": _error,
    "PauseEvent": lambda _: Line("status", "paused by the user"),
    "InterruptEvent": lambda _: Line("status", "interrupted by the user"),
    "SystemPromptEvent": _bookkeeping,
    "LLMCompletionLogEvent": _bookkeeping,
    "StreamingDeltaEvent": _bookkeeping,
    "TokenEvent": _bookkeeping,
}


def _command(tool: object, action: Mapping[str, Any]) -> str:
    if tool in ("terminal", None):
        return f"$ {action['command']}"
    return f"{tool} {action['command']} {action.get('path', '')}".rstrip()


def _thought(event: Mapping[str, Any]) -> str:
    return _content(event.get("thought"))


def _arguments(action: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r:.60}" for key, value in action.items() if key != "kind" and value is not None)


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = (part for part in content or () if isinstance(part, dict))
    return "\n".join(str(part["text"]) if "text" in part else f"[{part.get('type', 'something')}]" for part in parts)


# --- the legacy server ----------------------------------------------------------------------------------------------


def _legacy(event: Mapping[str, Any]) -> Line | None:
    arguments, extras = event.get("args") or {}, event.get("extras") or {}
    kind = str(event.get("action") or event.get("observation"))
    if kind in ("system", "recall", "null", "change_agent_state"):
        return None
    if "observation" in event:
        if kind == "agent_state_changed":
            return Line("status", str(extras.get("agent_state")))
        return Line("error" if kind == "error" else "output", str(event.get("content") or ""))
    if kind == "run":
        return Line("agent", f"$ {arguments.get('command')}")
    text = arguments.get("content") or arguments.get("final_thought") or arguments.get("thought")
    return Line(_source(event), str(text or event.get("message") or kind))
