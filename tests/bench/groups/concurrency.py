"""Starts at once, with servers that boot at once: what is left is the engine's work, and ours."""

from __future__ import annotations

import secrets
import uuid

from bench.measure import OURS
from bench.program import Program
from bench.stage import STANDIN, Stage

WORK = "cold starts at once, stand-in"
_MEMORY = 2 << 30


def run(stage: Stage) -> None:
    """1, 4 and 16 at once, in turn; each sample is the time until all are up."""
    manager = stage.manager()
    manager.call("start", key=str(uuid.uuid4()))  # the network, and its rules
    floor = stage.floor()
    for count in (1, 4, 16):
        for _ in range(stage.rounds(5)):
            _ours(stage, manager, count)
            _floor(stage, floor, count)
            if stage.has("app server"):
                _app_server(stage, count)


def _ours(stage: Stage, manager: Program, count: int) -> None:
    calls = [{"key": str(uuid.uuid4())} for _ in range(count)]
    _note(stage, OURS, count, manager.calls("start", calls, together=True))
    manager.calls("close", [{**call, "remove": True} for call in calls], together=True)


def _floor(stage: Stage, floor: Program, count: int) -> None:
    calls = [
        {"key": f"floor-{secrets.token_hex(6)}", "image": STANDIN, "environment": {}, "memory": _MEMORY}
        for _ in range(count)
    ]
    with stage.removing("dev.loopnest.bench=floor"):
        _note(stage, "floor", count, floor.calls("start", calls, together=True))


def _app_server(stage: Stage, count: int) -> None:
    program = stage.program("app_server")
    program.call("open", image=STANDIN, port=8000, prefix=f"oh-{stage.namespace}-", environment={}, engine=None)
    calls = [{"key": secrets.token_hex(8)} for _ in range(count)]
    _note(stage, "app server", count, program.calls("start", calls, together=True))
    stage.remove_named(f"oh-{stage.namespace}-")


def _note(stage: Stage, name: str, count: int, answer: object) -> None:
    row = stage.results.row("concurrency", WORK, count, name)
    row.samples.append(answer.total * 1e3)  # type: ignore[attr-defined]
    row.stall = max(row.stall or 0, answer.stall * 1e3)  # type: ignore[attr-defined]
    row.own_stall = max(row.own_stall or 0, answer.own_stall * 1e3)  # type: ignore[attr-defined]
    for error in set(answer.errors):  # type: ignore[attr-defined]
        stage.remark(f"concurrency, {name}: {error[:200]}")
