"""A request to the agent server as a host, which passes it on to the nested server of its conversation."""

from __future__ import annotations

import uuid

from bench.groups.starting import agent_server, body
from bench.measure import OURS
from bench.program import Program
from bench.stage import AGENT_SERVER, Stage

ONE, MANY = "proxied GET, one after another", "proxied GET, 50 at once"


def run(stage: Stage) -> None:
    """The same application with its own Docker mode, and with loopnest in its place."""
    if not stage.has("agent server"):
        return
    outers = {OURS: _ours(stage), "agent server": agent_server(stage)}
    keys = {name: str(uuid.uuid4()) for name in outers}
    for name, outer in outers.items():
        outer.call("start", key=keys[name], body=body("/workspace/project" if name == OURS else "/workspace"))
    for _ in range(stage.rounds(5)):
        for name, outer in outers.items():
            _measure(stage, name, outer, keys[name])
    for name, outer in outers.items():
        outer.call("close", key=keys[name])


def _ours(stage: Stage) -> Program:
    variables = {
        "LOOPNEST_NAMESPACE": stage.namespace,
        "LOOPNEST_SECRET": stage.secret,
        "LOOPNEST_STATE_DIR": str(stage.directory / "host-state"),
        "LOOPNEST_DOCKER__IMAGE": AGENT_SERVER,
    }
    return agent_server(stage, "loopnest as host", "--loopnest", **variables)


def _measure(stage: Stage, name: str, outer: Program, key: str) -> None:
    one = outer.calls("proxied", [{"key": key}] * 10)
    many = outer.calls("proxied", [{"key": key}] * 50, together=True)
    for work, size, answer, samples in (
        (ONE, 1, one, one.seconds),
        (MANY, 50, many, [many.total]),
    ):
        row = stage.results.row("proxied", work, size, name)
        row.samples += [seconds * 1e3 for seconds in samples]
        row.stall = max(row.stall or 0, answer.stall * 1e3)
        row.own_stall = max(row.own_stall or 0, answer.own_stall * 1e3)
        for error in set(answer.errors):
            stage.remark(f"proxied, {name}: {error[:200]}")
