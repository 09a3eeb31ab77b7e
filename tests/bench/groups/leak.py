"""Start and close, again and again: nothing may stay."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Sequence

from bench.measure import OURS
from bench.program import Footprint, Program
from bench.stage import Stage
from loopnest_docker import naming

_AT_ONCE = 4
#: Batches of cycles that are looked at in the beginning and at the end; one alone has more or fewer idle connections.
_LOOKS = 10


def run(stage: Stage) -> None:
    """500 cycles; what the first 44 need for good is not counted."""
    manager = stage.manager(close_timeout=2)
    row = stage.results.row("leak", "start and close with removal", stage.cycles, OURS)
    footprints, before = [], _objects(stage)
    for done in range(0, stage.cycles, _AT_ONCE):
        row.samples.append(_cycle(stage, manager))
        footprints.append(manager.footprint())
        if done == _LOOKS * _AT_ONCE:
            before, footprints = _objects(stage), footprints[-1:]
    row.memory = footprints[-1].memory
    row.note = f"{_growth(footprints)}; " + ", ".join(
        f"{name} {now - before[name]:+d}" for name, now in _objects(stage).items()
    )


def _cycle(stage: Stage, manager: Program) -> float:
    """Milliseconds for one start and close, of some at once."""
    calls = [{"key": str(uuid.uuid4())} for _ in range(_AT_ONCE)]
    started = manager.calls("start", calls, together=True)
    closed = manager.calls("close", [{**call, "remove": True} for call in calls], together=True)
    for error in {*started.errors, *closed.errors}:
        stage.remark(f"leak: {error[:200]}")
    return (started.total + closed.total) * 1e3 / _AT_ONCE


def _growth(footprints: Sequence[Footprint]) -> str:
    """From the median of the first looks to that of the last."""

    def grown(what: str) -> float:
        values = [getattr(footprint, what) for footprint in footprints]
        return statistics.median(values[-_LOOKS:]) - statistics.median(values[:_LOOKS])

    if len(footprints) < 2 * _LOOKS:
        return "too few cycles to tell of growth"
    threads, descriptors, memory = grown("threads"), grown("descriptors"), grown("memory") / 1e6
    return f"threads {threads:+g}, descriptors {descriptors:+g}, memory {memory:+.1f} MB"


def _objects(stage: Stage) -> dict[str, int]:
    """What the engine has of this run now; of volumes, those of anybody that nobody uses."""
    label = {"label": f"{naming.NAMESPACE}={stage.namespace}"}
    return {
        "containers": len(stage.engine.containers(all=True, filters=label)),
        "networks": len(stage.engine.networks(filters=label)),
        "dangling volumes": len(stage.engine.volumes(filters={"dangling": True}).get("Volumes") or ()),
    }
