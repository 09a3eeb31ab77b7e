"""Starts of the real agent server, warm and cold, until the conversation is created; then an event, and the close."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.images import V0, upstream_image
from bench.measure import OURS
from bench.program import Answer, Program
from bench.stage import AGENT_SERVER, Stage

WARM, COLD, CLOSE, SEND = "warm start", "cold start", "close of an idle loop", "send_event, real nested server"
WARM_V0 = "warm start, openhands-v0"
_MEMORY = 2 << 30
_LLM = {"model": "openai/gpt-4o", "api_key": "sk-none", "base_url": "http://127.0.0.1:9/v1", "usage_id": "agent"}
_EVENT = {"role": "user", "content": [{"type": "text", "text": "Good morning"}], "run": False}
ENVIRONMENT = {
    "OH_ENABLE_VSCODE": "0",
    "OH_PRELOAD_TOOLS": "0",
    "OH_ENABLE_BROWSER": "0",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENHANDS_SUPPRESS_BANNER": "1",
}


def body(directory: str) -> dict[str, Any]:
    """What creates a conversation, in the agent server's own terms."""
    return {
        "agent": {"kind": "Agent", "llm": _LLM, "tools": [{"name": "terminal", "params": {}}]},
        "workspace": {"kind": "LocalWorkspace", "working_dir": directory},
        "autotitle": False,
    }


def run(stage: Stage) -> None:
    """One start at a time, and its close, in turn; the pool is full again before anything else is measured."""
    manager = stage.manager(image=AGENT_SERVER, pool={"size": 1})
    stage.say("start: filling the pool")
    manager.call("pooled", size=1)
    subjects: list[Callable[[int], None]] = [
        lambda _: _ours(stage, manager, warm=True),
        lambda _: _ours(stage, manager, warm=False),
        lambda _: _floor(stage),
    ]
    if stage.has("agent server"):
        outer = agent_server(stage)
        subjects.append(lambda _: _agent_server(stage, outer))
    if stage.has("app server"):
        app = stage.program("app_server")
        options = {
            "image": AGENT_SERVER,
            "port": 8000,
            "prefix": f"oh-{stage.namespace}-",
            "environment": ENVIRONMENT,
            "engine": None,
        }
        app.call("open", **options)
        subjects.append(lambda _: _app_server(stage, app))
    if stage.has("upstream") and (image := upstream_image(stage)):
        upstream = stage.program("upstream")
        upstream.call("open", store=str(stage.directory / "upstream"), image=image)
        subjects.append(lambda index: _upstream(stage, upstream) if index < 2 else None)
        v0 = stage.manager("manager of openhands-v0", apart="-v0", image=V0, dialect="openhands-v0", pool={"size": 1})
        v0.call("pooled", size=1)
        subjects.append(lambda _: _ours_v0(stage, v0))
    for index in range(stage.rounds(5)):
        stage.say(f"start: round {index + 1}")
        for subject in subjects:
            subject(index)


def agent_server(stage: Stage, name: str = "agent server", *options: str, **variables: str) -> Program:
    """The agent server's own Docker mode, or, with an option, loopnest in its place."""
    home = stage.directory / name.replace(" ", "-")
    for directory in ("conversations", "persistence", "bash", "workspace"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    program = stage.program("agent_server", name, options, **{**_served(home), **variables})
    program.call("open")
    return program


def _served(home: Path) -> dict[str, str]:
    return {
        "OH_CONVERSATION_RUNTIME": "docker",
        "OH_CONVERSATION_IMAGE": AGENT_SERVER,
        "OH_SESSION_API_KEYS_0": "outer-key",
        "OH_SECRET_KEY": "secret-of-the-outer-server",
        "OH_CONVERSATIONS_PATH": str(home / "conversations"),
        "OH_PERSISTENCE_DIR": str(home / "persistence"),
        "OH_BASH_EVENTS_DIR": str(home / "bash"),
        "OH_WORKSPACE_PATH": str(home / "workspace"),
        "HOME": str(home),
        **ENVIRONMENT,
    }


def _note(stage: Stage, work: str, name: str, answer: Answer, note: str = "") -> None:
    row = stage.results.row("start", work, 1, name)
    if answer.errors:
        stage.remark(f"{work}, {name}: {answer.errors[0][:300]}")
        return
    row.samples += [seconds * 1e3 for seconds in answer.seconds]
    row.stall = max(row.stall or 0, answer.stall * 1e3)
    row.own_stall = max(row.own_stall or 0, answer.own_stall * 1e3)
    row.note = note


def _ours(stage: Stage, manager: Program, *, warm: bool) -> None:
    key = str(uuid.uuid4())
    started = manager.calls("start", [{"key": key, "cold": not warm}])
    _note(stage, WARM if warm else COLD, OURS, started, str(started.results[0]))
    manager.call("pooled", size=1)
    if warm and not started.errors:
        server = manager.call("server", key=key).results[0]
        _note(stage, SEND, OURS, manager.calls("send", [{"key": key}] * 10))
        floor = stage.floor()
        floor.call("send", **server)
        _note(stage, SEND, "bare POST", floor.calls("send", [server] * 10))
    elif not started.errors:
        _note(stage, CLOSE, OURS, manager.calls("close", [{"key": key}]))
    manager.calls("close", [{"key": key, "remove": True}])


def _ours_v0(stage: Stage, manager: Program) -> None:
    key = uuid.uuid4().hex
    started = manager.calls("start", [{"key": key}])
    _note(stage, WARM_V0, OURS, started, str(started.results[0]))
    manager.call("pooled", size=1)
    manager.calls("close", [{"key": key, "remove": True}])


def _floor(stage: Stage) -> None:
    """Create, start and import; the conversation is there only so that it can be stopped."""
    floor, key, session_key = stage.floor(), f"floor-{secrets.token_hex(4)}", secrets.token_hex(16)
    environment = {**ENVIRONMENT, "OH_SESSION_API_KEYS_0": session_key, "OH_SECRET_KEY": secrets.token_hex(16)}
    with stage.removing("dev.loopnest.bench=floor"):
        asked = {"key": key, "image": AGENT_SERVER, "environment": environment, "memory": _MEMORY}
        started = floor.calls("start", [asked])
        _note(stage, COLD, "floor", started, "no conversation")
        _note(stage, WARM, "floor", started, "cold: create, start, import")
        conversation = str(uuid.uuid4())
        create = {**body("/workspace/project"), "conversation_id": conversation}
        floor.call("converse", key=key, session_key=session_key, body=create)
        closing = {"key": key, "session_key": session_key, "conversation": conversation}
        _note(stage, CLOSE, "floor", floor.calls("close", [closing]))


def _agent_server(stage: Stage, outer: Program) -> None:
    key = str(uuid.uuid4())
    started = outer.calls("start", [{"key": key, "body": body("/workspace")}])
    _both(stage, "agent server", started)
    if not started.errors:
        _note(stage, SEND, "agent server", outer.calls("send", [{"key": key, "event": _EVENT}] * 10))
        _note(stage, CLOSE, "agent server", outer.calls("close", [{"key": key}]))


def _app_server(stage: Stage, app: Program) -> None:
    key = secrets.token_hex(8)
    started = app.calls("start", [{"key": key}])
    _both(stage, "app server", started, "no conversation")
    _note(stage, CLOSE, "app server", app.calls("close", [{"key": key}]), "delete")


def _upstream(stage: Stage, upstream: Program) -> None:
    key = f"bench{uuid.uuid4().hex}"
    started = upstream.calls("start", [{"key": key}])
    _both(stage, "upstream", started, "openhands-v0")
    _note(stage, WARM_V0, "upstream", started)
    if not started.errors:
        _note(stage, CLOSE, "upstream", upstream.calls("close", [{"key": key}]), "openhands-v0")


def _both(stage: Stage, name: str, started: Answer, note: str = "") -> None:
    """The peers know no warm starts: their one start is compared with both of ours."""
    for work in (WARM, COLD):
        _note(stage, work, name, started, note)
