"""Events, against bare pooled POSTs to the same server."""

from __future__ import annotations

from typing import Any

from bench.measure import OURS
from bench.program import Program
from bench.stage import Stage

ONE, MANY = "send_event, one after another", "send_event, 50 at once"
_COUNT = 50


def run(stage: Stage) -> None:
    """The responder answers at once, so that what is left is the caller's own cost."""
    stage.fleet.name_for("loopnest")
    stage.fleet.grow(_COUNT)
    for index in range(stage.rounds(10)):
        stage.fleet.name_for("loopnest")
        manager = stage.fleet_manager()
        manager.call("list", probe=True)
        keys = stage.fleet.keys[:_COUNT]
        _measure(stage, OURS, manager, [{"key": key} for key in keys])
        bare = [{"url": f"http://127.0.0.1:{stage.port}/api/conversations/{key}", "key": "any"} for key in keys]
        _measure(stage, "bare POST", stage.floor() if not index else stage.program("floor"), bare)
        if stage.has("upstream"):
            stage.fleet.name_for("upstream")
            upstream = stage.program("upstream")
            upstream.call("open", store=str(stage.directory / "upstream"))
            _measure(stage, "upstream", upstream, [{"key": key} for key in keys])


def _measure(stage: Stage, name: str, program: Program, calls: list[dict[str, Any]]) -> None:
    program.calls("send", calls, together=True)  # connections
    one = program.calls("send", [calls[0]] * 20)
    row = stage.results.row("send", ONE, 1, name)
    row.samples += [seconds * 1e3 for seconds in one.seconds]
    row.stall = max(row.stall or 0, one.stall * 1e3)
    many = program.calls("send", calls, together=True)
    row = stage.results.row("send", MANY, _COUNT, name)
    row.samples.append(many.total * 1e3)
    row.stall = max(row.stall or 0, many.stall * 1e3)
    row.own_stall = max(row.own_stall or 0, many.own_stall * 1e3)
    row.memory = program.footprint().memory
    for error in {*one.errors, *many.errors}:
        stage.remark(f"send, {name}: {error[:200]}")
