"""The event loop while the engine answers after two seconds."""

from __future__ import annotations

import statistics
import uuid
from typing import Any

from bench.measure import OURS
from bench.program import Answer
from bench.stage import Stage

IDLE = "nothing at all, as long"
WORK = "50 operations, engine 2 s late"
LATENCY = 2.0
_FLEET = 24


def run(stage: Stage) -> None:
    """Lists, starts, closes and events, all in flight at once; then what few operations do to the peers.

    A machine that shares its processors stalls an event loop that has nothing to do, too: the longer one looks, the
    longer the longest. So both are looked at for as long, in turn.
    """
    for _ in range(stage.rounds(3)):
        _round(stage)
    stage.fleet.grow(_FLEET)
    _note(stage, "is running, no cache, engine 2 s late", OURS, _relisted(stage))
    if stage.has("upstream"):
        stage.fleet.name_for("upstream")
        _upstream(stage)


def _round(stage: Stage) -> None:
    stage.fleet.name_for("loopnest")
    stage.fleet.grow(_FLEET)
    manager = stage.fleet_manager(engine=stage.proxy.url)
    manager.calls("list", [{"probe": True}] * 3)
    stage.proxy.delay = LATENCY
    busy = manager.calls("list", _mixed(stage.fleet.keys), together=True)
    stage.proxy.delay = 0
    _note(stage, WORK, OURS, busy)
    _note(stage, IDLE, OURS, manager.call("nothing", seconds=busy.total))
    _sweep(stage)


def _mixed(keys: list[str]) -> list[dict[str, Any]]:
    """15 lists, 15 events, 10 cold starts, 10 closes: 50 operations in turn."""
    closing, sending = keys[:10], keys[10:]
    calls: list[dict[str, Any]] = []
    for index in range(10):
        calls += [{"op": "start", "key": str(uuid.uuid4())}, {"op": "close", "key": closing[index]}]
        calls += [{"op": "list"}, {"op": "send", "key": sending[index % len(sending)]}]
        if index % 2:
            calls += [{"op": "list"}, {"op": "send", "key": sending[(index + 1) % len(sending)]}]
    return calls


def _relisted(stage: Stage) -> Answer:
    """A manager that was just opened has no cache: all of these wait for the engine, and then ask a nested server."""
    manager = stage.fleet_manager(engine=stage.proxy.url)
    stage.proxy.delay = LATENCY
    return manager.calls("get", [{"key": key} for key in stage.fleet.keys[10:20] * 5], together=True)


def _upstream(stage: Stage) -> None:
    program = stage.program("upstream")
    program.call("open", store=str(stage.directory / "upstream"), engine=stage.proxy.url)
    stage.proxy.delay = LATENCY
    key = stage.fleet.keys[-1]
    calls = [{"op": "get", "key": key}, {"op": "send", "key": key}]
    answer = program.calls("get", calls, together=True)
    _note(stage, "is-running and an event, engine 2 s late", "upstream", answer)


def _note(stage: Stage, work: str, program: str, answer: Answer) -> None:
    row = stage.results.row("stall", work, len(answer.seconds), program)
    row.samples += [seconds * 1e3 for seconds in answer.seconds]
    row.stalls.append((answer.stall * 1e3, answer.own_stall * 1e3))
    row.stall, row.own_stall = (statistics.median(each) for each in zip(*row.stalls, strict=True))
    row.note = "median of rounds: " + ", ".join(f"{longest:.1f}" for longest, _ in row.stalls)
    for error in sorted(set(answer.errors))[:3]:
        stage.remark(f"stall, {program}, {answer.errors.count(error)} times: {error[:200]}")


def _sweep(stage: Stage) -> None:
    """The loops that were closed sleep no more; those that were started go."""
    manager = stage.fleet_manager()
    started = [key for key in manager.call("keys").results[0] if key not in stage.fleet.keys]
    manager.calls("close", [{"key": key, "remove": True} for key in [*started, *stage.fleet.keys[:10]]], together=True)
    stage.fleet.forget(stage.fleet.keys[:10])
