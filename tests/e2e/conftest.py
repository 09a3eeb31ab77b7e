"""The real engine. Everything that a test makes carries the test's own namespace, and goes with it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
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
    from loopnest_docker.image import TESTED

    return requirements.image(engine, f"loopnest/agent-server:{TESTED['agent-server']}")


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
