"""JSON lines over stdin and stdout between the benchmark and a program; standard library only, as all peers load it.

A request names a method of the program's driver and the keyword arguments of one or many calls; the answer has each
call's seconds, and the longest stall of the event loop meanwhile. Time is taken here, so that the line costs nothing.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

_STEP = 0.002


class Stall:
    """The longest time, in seconds, for which the event loop did not get to a timer that was due.

    Attributes:
        longest: as it was.
        own: without the time for which the thread could have run and the machine had no processor for it.
    """

    def __init__(self) -> None:
        self.longest = self.own = 0.0
        self._queue = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", os.O_RDONLY)

    async def __aenter__(self) -> Stall:
        self._task = asyncio.ensure_future(self._sample())
        await asyncio.sleep(2 * _STEP)
        self.longest = self.own = 0.0
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(2 * _STEP)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        os.close(self._queue)

    async def _sample(self) -> None:
        while True:
            began, waited = time.perf_counter(), self._waited()
            await asyncio.sleep(_STEP)
            late = time.perf_counter() - began - _STEP
            self.longest = max(self.longest, late)
            self.own = max(self.own, late - (self._waited() - waited))

    def _waited(self) -> float:
        return int(os.pread(self._queue, 64, 0).split()[1]) / 1e9


def run(driver: Callable[[], Any]) -> None:
    """Serve the driver's methods until stdin ends. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    gc.collect()
    gc.freeze()  # a server would, or the collector's looks at what was imported would be stalls of everybody's
    asyncio.run(_serve(driver(), answers))


async def _serve(driver: Any, answers: Any) -> None:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        answer = await _answer(driver, json.loads(line))
        answers.write(json.dumps(answer, default=str) + "\n")
        answers.flush()


async def _answer(driver: Any, request: dict[str, Any]) -> dict[str, Any]:
    calls = [(getattr(driver, call.pop("op", request["op"])), call) for call in request["calls"]]
    async with Stall() as stall:
        began = time.perf_counter()
        if request["together"]:
            outcomes = await asyncio.gather(*(_timed(method, arguments) for method, arguments in calls))
        else:
            outcomes = [await _timed(method, arguments) for method, arguments in calls]
        total = time.perf_counter() - began
    errors = [outcome["error"] for outcome in outcomes if outcome["error"] is not None]
    for error in errors:  # not while time is taken
        traceback.print_exception(error)
    return {
        "seconds": [outcome["seconds"] for outcome in outcomes],
        "results": [outcome["result"] for outcome in outcomes],
        "errors": [f"{type(error).__name__}: {error}" for error in errors],
        "total": total,
        "stall": stall.longest,
        "own_stall": stall.own,
    }


async def _timed(method: Callable[..., Awaitable[Any]], arguments: dict[str, Any]) -> dict[str, Any]:
    began, result, error = time.perf_counter(), None, None
    try:
        result = await method(**arguments)
    except Exception as raised:  # noqa: BLE001 - the benchmark tells of it
        error = raised
    return {"seconds": time.perf_counter() - began, "result": result, "error": error}
