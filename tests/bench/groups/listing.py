"""Listings, is-running and the start of a running loop, by number of loops."""

from __future__ import annotations

from typing import Any

from bench.measure import OURS
from bench.program import Answer, Program
from bench.stage import Stage

#: By the work, what each program is asked for.
LIST, LIST_PROBED, LIST_IDS = "list with status", "list, all nested servers asked", "list of ids"
_LISTINGS = {LIST, LIST_PROBED, LIST_IDS}
RUNNING, START = "is running", "start of a running loop"
_WORKS: dict[str, dict[str, str]] = {
    OURS: {LIST: "list", LIST_PROBED: "probe", LIST_IDS: "list", RUNNING: "get", START: "start"},
    "upstream": {LIST: "info", LIST_PROBED: "info", LIST_IDS: "list", RUNNING: "get", START: "start"},
    "app server": {LIST: "list", LIST_PROBED: "list", RUNNING: "get"},
}
_PREFIX = "oh-agent-server-"
#: Loops above which a peer's slow listings are measured once, and above which not again where they fail or are counted.
_MANY, _TOO_MANY = 50, 100


def run(stage: Stage) -> None:
    """For each number of loops, program by program in turn, round by round."""
    for size in stage.sizes:
        if not stage.fleet_fits(size):
            stage.remark(f"{size} running containers do not fit into this machine's memory; left out.")
            break
        stage.say(f"list: {size} loops")
        stage.fleet.name_for("loopnest")
        stage.fleet.grow(size)
        rounds = stage.rounds(5 if size <= 100 else 1)
        for index in range(rounds):
            for program in _programs(stage):
                _measure(stage, program, size, last=index == rounds - 1)


def _programs(stage: Stage) -> list[str]:
    return [name for name in _WORKS if name == OURS or stage.has(name)]


def _measure(stage: Stage, name: str, size: int, *, last: bool) -> None:
    program = _opened(stage, name, None)
    for work, op in _WORKS[name].items():
        if name != OURS and work == LIST_PROBED:
            continue  # it is the same call as the listing
        row = stage.results.row("list", work, size, name)
        answer = _answered(program, size, *_request(stage, name, op, size, _repeats(name, op, size)))
        row.samples += [seconds * 1e3 for seconds in answer.seconds]
        row.stall = max(row.stall or 0, answer.stall * 1e3)
        row.own_stall = max(row.own_stall or 0, answer.own_stall * 1e3)
        row.memory = program.footprint().memory
        if answer.errors:
            stage.remark(f"{work}, {name}, {size} loops: {answer.errors[0][:200]}")
        elif work in _LISTINGS and set(answer.results) != {size}:
            stage.remark(f"{work}, {name}: it found {answer.results} loops, not {size}.")
    if last and (name == OURS or size <= _TOO_MANY):
        _count(stage, name, size)
    _copy_probed(stage, name, size)


def _answered(program: Program, size: int, op: str, calls: list[dict[str, Any]]) -> Answer:
    """Some peers fail while other people's containers go away: ask again, a few times."""
    answer = program.calls(op, calls)
    for _ in range(4 if size <= _TOO_MANY else 0):
        if answer.errors:
            answer = program.calls(op, calls)
    return answer


def _count(stage: Stage, name: str, size: int) -> None:
    """In a pass of its own, as the proxy that counts costs time."""
    program = _opened(stage, name, stage.proxy.url)
    for work, op in _WORKS[name].items():
        request = _request(stage, name, op, size, 1)
        row = stage.results.row("list", work, size, name)
        row.calls = stage.counted(lambda request=request: program.calls(*request))


def _copy_probed(stage: Stage, name: str, size: int) -> None:
    """The peers always ask every nested server: their one listing is compared with both of ours."""
    if name == OURS:
        return
    listed, probed = (stage.results.row("list", work, size, name) for work in (LIST, LIST_PROBED))
    probed.samples, probed.calls, probed.stall = listed.samples, listed.calls, listed.stall


def _opened(stage: Stage, name: str, engine: str | None) -> Program:
    """The program, connected and warm: what is measured is its every day."""
    if name == OURS:
        stage.fleet.name_for(name)
        program = stage.fleet_manager(engine)
        program.calls("list", [{"probe": True}, {}])
        return program
    if name == "upstream":
        program = stage.program("upstream")
        program.call("open", store=str(stage.directory / "upstream"), engine=engine)
        stage.fleet.name_for(name)  # no sooner: a host of upstream's that ends removes all containers named so
        program.calls("get", [{"key": stage.fleet.keys[0]}])
        return program
    program = stage.program("app_server")
    program.call("open", image="unused", port=stage.port, prefix=_PREFIX, environment={}, engine=engine)
    stage.fleet.name_for(name)
    return program


def _request(stage: Stage, name: str, op: str, size: int, repeats: int) -> tuple[str, list[dict[str, Any]]]:
    key = stage.fleet.keys[size // 2]
    if op == "probe":
        return "list", [{"probe": True}] * repeats
    if op in {"get", "start"}:
        named = {"session_key": stage.fleet.session_key(key)} if name == "app server" else {"key": key}
        return op, [named] * repeats
    return op, [{}] * repeats


def _repeats(name: str, op: str, size: int) -> int:
    if name == OURS and op != "probe":
        return 20
    return 5 if size <= _MANY else 1
