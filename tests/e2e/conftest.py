"""The real engine. Everything that a test makes carries the test's own namespace, and goes with it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import docker
from loopnest import LoopManager, LoopnestSettings
from loopnest_docker import naming
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings

from .. import requirements
from ..namespaces import own_namespace
from ..own_engine import OwnEngine, own_engine
from ..sockets import sockets_collected  # noqa: F401 - a fixture

ROOT = Path(__file__).parents[2]
STANDIN = "loopnest-test/standin:1"
BASE_IMAGE = os.environ.get("LOOPNEST_TEST_BASE_IMAGE", "loopnest-base:trixie")
OpenManager = Callable[..., Awaitable[LoopManager]]


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.APIClient]:
    with requirements.engine() as client:
        yield client


@pytest.fixture(scope="session")
def standin(engine: docker.APIClient) -> str:
    """The image of a nested server that boots at once and misbehaves on demand."""
    arguments = {"BASE_IMAGE": requirements.image(engine, BASE_IMAGE)}
    context = str(ROOT / "tests" / "standin")
    lines = list(engine.build(path=context, tag=STANDIN, buildargs=arguments, rm=True, decode=True))
    assert "error" not in lines[-1], lines[-1]
    return STANDIN


@pytest.fixture(scope="session")
def agent_server_image(engine: docker.APIClient) -> str:
    """The image of the real agent server."""
    from loopnest_nested.dialects import get_dialect

    return requirements.image(engine, f"loopnest/agent-server:{get_dialect('agent-server').program.version}")


@pytest.fixture
def namespace(engine: docker.APIClient) -> Iterator[str]:
    with own_namespace(engine) as name:
        yield name


@pytest.fixture
def settings(namespace: str, tmp_path: Path) -> LoopnestSettings:
    return LoopnestSettings(namespace=namespace, state_dir=tmp_path / "state")


@pytest.fixture
async def open_manager(settings: LoopnestSettings, standin: str) -> AsyncIterator[OpenManager]:
    """Open a manager of the Docker strategy; by default with the stand-in, and open to the host for speed."""
    async with AsyncExitStack() as stack:

        async def open_one(*overrides: object, **docker_settings: Any) -> LoopManager:
            chosen = {"image": standin, "close_timeout": 2, **docker_settings}
            strategy = DockerStrategy(DockerSettings(**chosen))
            manager = LoopManager.from_plugins(strategy, *overrides, settings=settings)
            return await stack.enter_async_context(manager)

        yield open_one


@pytest.fixture
def containers(engine: docker.APIClient, namespace: str) -> Callable[[], list[dict[str, Any]]]:
    """What the engine has of the test's loops now."""

    def listed() -> list[dict[str, Any]]:
        found = engine.containers(all=True, filters={"label": f"{naming.NAMESPACE}={namespace}"})
        return [entry for entry in found if naming.parse(entry["Names"][0])]

    return listed


@pytest.fixture
def loopnest(tmp_path: Path, standin: str) -> Iterator[tuple[Callable[..., str], OwnEngine]]:
    """The command line on an engine of its own."""
    if os.geteuid() != 0 or not shutil.which("dockerd"):
        requirements.missing("An engine of a test's own needs root and dockerd", "'.ci/engine' installs it")
    with own_engine(tmp_path / "engine") as engine:
        engine.take_image(standin)
        settings = {
            "LOOPNEST_NAMESPACE": "own",
            "LOOPNEST_STATE_DIR": str(tmp_path / "state"),
            "LOOPNEST_DOCKER__IMAGE": standin,
            "LOOPNEST_DOCKER__PULL_POLICY": "never",
        }

        def run(*arguments: str) -> str:
            command = Path(sys.executable).with_name("loopnest")
            done = engine.run(str(command), *arguments, env=settings)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        yield run, engine
    shutil.rmtree(tmp_path / "engine")


@dataclass
class HangingEngine:
    """Takes connections, and never answers; ``taken`` are its ends of them."""

    url: str
    taken: list[socket.socket] = field(default_factory=list)


@pytest.fixture
def hanging_engine(tmp_path: Path) -> Iterator[HangingEngine]:
    path = tmp_path / "hanging.sock"
    hanging = HangingEngine(f"unix://{path}")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)
        stop = threading.Event()
        listener.settimeout(0.1)

        def take() -> None:
            while not stop.is_set():
                try:
                    hanging.taken.append(listener.accept()[0])
                except TimeoutError:
                    continue

        thread = threading.Thread(target=take)
        thread.start()
        yield hanging
        stop.set()
        thread.join()
        for connection in hanging.taken:
            connection.close()
