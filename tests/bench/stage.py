"""What all groups share: the engine, the programs, the images, the results, and the cleaning up."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
from docker.errors import APIError, NotFound
from rich.console import Console

import docker
from bench.environments import interpreter, variables
from bench.fleet import EACH, Fleet
from bench.measure import Results
from bench.program import Answer, Program
from e2e.engine_proxy import EngineProxy
from loopnest_nested.dialects import get_dialect
from namespaces import clear
from ports import free_port

ROOT = Path(__file__).parents[2]
SOCKET = "/var/run/docker.sock"
STANDIN = "loopnest-test/standin:1"
AGENT_SERVER = f"loopnest/agent-server:{get_dialect('agent-server').program.version}"
UPSTREAM = "loopnest-bench/upstream:1.6.0"


class Stage:
    """One run. Everything it makes carries its namespace, and goes with it.

    Args:
        cache: where the peers' environments are.
        sizes: for how many loops listings are measured.
        rounds: at most so many of each work; None for as many as are usual.
        peers: which peers are measured too.
        cycles: of start and close, in the search for leaks.
    """

    def __init__(
        self, directory: Path, cache: Path, sizes: list[int], rounds: int | None, peers: set[str], cycles: int
    ) -> None:
        self.namespace, self.secret = f"bench-{secrets.token_hex(4)}", secrets.token_hex(16)
        self.directory, self.cache, self.sizes, self.peers = directory, cache, sizes, peers
        self.results, self.console, self.cycles = Results(), Console(stderr=True), cycles
        self._rounds = rounds
        self._stack = ExitStack()
        self._programs: dict[str, Program] = {}

    def __enter__(self) -> Stage:
        self._namespaces = {self.namespace}
        self.engine = docker.APIClient(version="auto", timeout=300, max_pool_size=8)
        self._stack.callback(self.engine.close)
        self.proxy = EngineProxy(self.directory / "engine.sock")
        self.proxy.up()
        self._stack.callback(self.proxy.down)
        self.port = free_port()
        self._responder()
        self.fleet = Fleet(self.engine, self.namespace, self.secret, STANDIN, self.port)
        self._stack.callback(self.clear)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- programs ---------------------------------------------------------------------------------------------------

    def program(self, name: str, key: str | None = None, options: tuple[str, ...] = (), **more: str) -> Program:
        """The program of this name, started where it is not running."""
        key = key or name
        if key not in self._programs:
            python = sys.executable if name in {"manager", "floor"} else interpreter(name, self.cache)
            log = self.directory / f"{key.replace(' ', '-')}.log"
            self._programs[key] = Program(python, name, log, variables(**more), options)
        return self._programs[key]

    def manager(
        self, key: str = "manager", engine: str | None = None, *, apart: str = "", **docker_settings: Any
    ) -> Program:
        """loopnest, opened with these settings of its Docker strategy.

        Args:
            apart: the end of a namespace of its own; in one namespace, pools that differ drain each other.
        """
        program = self.program("manager", key)
        chosen: dict[str, Any] = {"image": STANDIN, "start_timeout": 600, **docker_settings}
        if engine:
            chosen["engine"] = {"url": engine, "timeout": 120}
        state = str(self.directory / "state")
        namespace = self.namespace + apart
        self._namespaces.add(namespace)
        program.call("open", namespace=namespace, secret=self.secret, state=state, docker=chosen)
        return program

    def fleet_manager(self, engine: str | None = None) -> Program:
        """loopnest such that it finds the fleet's servers at the responder."""
        return self.manager(engine=engine, url_template=f"http://127.0.0.1:{self.port}", close_timeout=2)

    def floor(self) -> Program:
        program = self.program("floor")
        program.call("open", socket=SOCKET)
        return program

    def counted(self, call: Callable[[], Answer]) -> float:
        """How many requests the engine gets for each call, but event streams."""
        before = len(self.proxy.requests)
        answer = call()
        made = [line for line in self.proxy.requests[before:] if "/events" not in line and "/_ping" not in line]
        return len(made) / max(1, len(answer.seconds))

    # --- the run ----------------------------------------------------------------------------------------------------

    def rounds(self, usual: int) -> int:
        """How many rounds, for work that is usually measured so often."""
        return usual if self._rounds is None else min(usual, self._rounds)

    def has(self, peer: str) -> bool:
        return peer in self.peers

    def fleet_fits(self, size: int) -> bool:
        """Whether there is memory for so many sleeping containers, and as much again to spare."""
        return psutil.virtual_memory().available > 1.25 * EACH * (size - len(self.fleet.keys)) + (3 << 30)

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/] {text}")

    def remark(self, text: str) -> None:
        """Something the reader of the table must know."""
        self.results.remarks.append(text)
        self.say(f"[yellow]{text}[/]")

    @contextlib.contextmanager
    def removing(self, label: str) -> Iterator[None]:
        """Remove the containers with this label afterwards."""
        try:
            yield
        finally:
            self._remove({"label": label})

    def remove_named(self, prefix: str) -> None:
        """Remove what a peer left."""
        self._remove({"name": f"^/{prefix}"})

    def clear(self) -> None:
        """End all programs and remove all containers, so that a group is measured as if it were alone.

        Programs that live on would fill their pools and, where their settings differ from those of another group,
        take its containers for starts that were interrupted, and remove them.
        """
        for program in self._programs.values():
            program.close()
        self._programs.clear()
        self.proxy.delay = 0
        self.fleet.clear()
        for prefix in (f"oh-{self.namespace}-", "openhands-runtime-bench"):
            self.remove_named(prefix)
        for namespace in self._namespaces:
            try:
                clear(self.engine, namespace)
            except APIError as error:  # engines forget to take away endpoints of containers that they removed
                self.say(f"[yellow]{error.explanation}[/]")

    def _remove(self, filters: dict[str, str]) -> None:
        for entry in self.engine.containers(all=True, filters=filters):
            with contextlib.suppress(NotFound, APIError):
                self.engine.remove_container(entry["Id"], force=True, v=True)

    def _responder(self) -> None:
        process = subprocess.Popen([sys.executable, str(Path(__file__).with_name("responder.py")), str(self.port)])
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False)
                return
            time.sleep(0.05)
        raise RuntimeError("The responder does not answer.")
