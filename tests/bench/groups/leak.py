"""Start and close, again and again: nothing may stay."""

from __future__ import annotations

import uuid

from bench.measure import OURS
from bench.stage import Stage
from loopnest_docker import naming

_AT_ONCE = 4
_WARM_UP = 40


def run(stage: Stage) -> None:
    """500 cycles; what the first 40 need for good is not counted."""
    cycles = stage.cycles
    manager = stage.manager("manager of cycles", close_timeout=2)
    row = stage.results.row("leak", "start and close with removal", cycles, OURS)
    before, objects = manager.footprint(), _objects(stage)
    for done in range(0, cycles, _AT_ONCE):
        calls = [{"key": str(uuid.uuid4())} for _ in range(_AT_ONCE)]
        started = manager.calls("start", calls, together=True)
        closed = manager.calls("close", [{**call, "remove": True} for call in calls], together=True)
        row.samples += [(started.total + closed.total) * 1e3 / _AT_ONCE]
        for error in {*started.errors, *closed.errors}:
            stage.remark(f"leak: {error[:200]}")
        if done == _WARM_UP:
            before, objects = manager.footprint(), _objects(stage)
    after = manager.footprint()
    row.memory = after.memory
    row.note = (
        f"threads {after.threads - before.threads:+d}, descriptors {after.descriptors - before.descriptors:+d}, "
        f"memory {(after.memory - before.memory) / 1e6:+.1f} MB; "
        + ", ".join(f"{name} {now - objects[name]:+d}" for name, now in _objects(stage).items())
    )
    stage.end("manager of cycles")


def _objects(stage: Stage) -> dict[str, int]:
    """What the engine has of this run now; of volumes, those of anybody that nobody uses."""
    label = {"label": f"{naming.NAMESPACE}={stage.namespace}"}
    return {
        "containers": len(stage.engine.containers(all=True, filters=label)),
        "networks": len(stage.engine.networks(filters=label)),
        "dangling volumes": len(stage.engine.volumes(filters={"dangling": True}).get("Volumes") or ()),
    }
