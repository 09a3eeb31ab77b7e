"""A program that is measured, seen from the benchmark."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True)
class Answer:
    """What came of one request; times are seconds.

    Attributes:
        seconds: of each call; ``total`` of all of them.
        stall: the event loop's longest; ``own_stall`` without the time it waited for a processor.
    """

    seconds: list[float]
    results: list[Any]
    errors: list[str]
    total: float
    stall: float
    own_stall: float


@dataclass(frozen=True)
class Footprint:
    """What the program's process uses now."""

    memory: int
    threads: int
    descriptors: int


class Program:
    """Runs ``python -m bench.programs.<name>`` until it is closed.

    Args:
        log: where it prints.
    """

    def __init__(
        self, python: str, name: str, log: Path, variables: Mapping[str, str], options: Sequence[str] = ()
    ) -> None:
        self.name, self._log = name, log
        self._output = log.open("ab")
        self._process = subprocess.Popen(
            [python, "-m", f"bench.programs.{name}", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._output,
            env=dict(variables),
            cwd=log.parent,
        )

    def call(self, op: str, **arguments: Any) -> Answer:
        """Make one call.

        Raises:
            RuntimeError: it failed.
        """
        answer = self.calls(op, [arguments])
        if answer.errors:
            raise RuntimeError(f"{self.name}.{op}: {answer.errors[0]} (see {self._log})")
        return answer

    def calls(self, op: str, calls: Sequence[Mapping[str, Any]], *, together: bool = False) -> Answer:
        """Make many calls, one after another or all at once; each may name another ``op``."""
        request = {"op": op, "calls": [dict(call) for call in calls], "together": together}
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended: {self._log.read_text()[-2000:]}")
        return Answer(**json.loads(line))

    def footprint(self) -> Footprint:
        process = psutil.Process(self._process.pid)
        return Footprint(process.memory_info().rss, process.num_threads(), process.num_fds())

    def close(self) -> None:
        """Let it end by itself, and then not."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._output.close()
