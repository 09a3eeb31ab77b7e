"""Where the demo runs: in Docker where that can be had, else as a child process; and why."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

from loopnest import EngineError, LoopFailed, LoopnestError
from loopnest.selection import build, find
from loopnest.settings import Configuration
from loopnest_cli.progress import Show
from loopnest_docker.engine import Engine
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.image import ImageStore
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings, Pool

#: Its own, so that a host's loops and the demo's never meet.
NAMESPACE: Final = "demo"
_FALLBACK: Final = "process"


@dataclass(frozen=True)
class Stage:
    """A place to run one loop.

    Attributes:
        why: this strategy, for people.
        address: where the loop reaches services of this machine.
    """

    name: str
    why: str
    address: str
    _settings: DockerSettings | None
    _configuration: Configuration

    def strategy(self, port: int | None) -> object:
        """Return the strategy's plugin; its loops reach ``port`` of this machine."""
        if self._settings is None:
            return build(find(self.name), self._configuration)
        access = (port,) if port else self._settings.host_access
        changes = {"host_access": access, "pool": Pool()}  # nothing is booted ahead for one loop
        return DockerStrategy(self._settings.model_copy(update=changes))


@contextlib.asynccontextmanager
async def stage(configuration: Configuration, named: str | None, show: Show) -> AsyncIterator[Stage]:
    """Find a place, and clear it away afterwards.

    Args:
        named: the strategy to use; None means Docker where it can be had, else a process.

    Raises:
        LoopnestError: no place can be had; with the reason.
    """
    async with contextlib.AsyncExitStack() as stack:
        if named not in (None, "docker"):
            yield Stage(named, "as you named it", "127.0.0.1", None, configuration)
            return
        try:
            found = await stack.enter_async_context(_docker(configuration, show))
        except (EngineError, LoopFailed) as error:
            if named:
                raise
            found = await _process(configuration, error)
        yield found


@contextlib.asynccontextmanager
async def _docker(configuration: Configuration, show: Show) -> AsyncIterator[Stage]:
    settings = configuration.plugin("docker", DockerSettings)
    engine = Engine(settings.engine)
    network, images = Network(engine, settings, NAMESPACE), ImageStore(engine, settings)
    try:
        version: dict[str, Any] = await engine.call("version")
        image = await images.ensure(images.default, show)
        why = f"engine {version['Version']} answers and has image {image.name}"
        yield Stage("docker", why, await network.gateway(), settings, configuration)
    finally:
        with contextlib.suppress(EngineError):
            await network.remove(images.default)
        await engine.aclose()


async def _process(configuration: Configuration, without_docker: LoopnestError) -> Stage:
    """The fallback, if it works here.

    Raises:
        LoopFailed: it does not either.
    """
    found = Stage(_FALLBACK, f"no Docker ({without_docker.message})", "127.0.0.1", None, configuration)
    plugin: Any = found.strategy(None)
    problems = [finding for finding in await plugin.diagnose() if finding.level == "error"]
    if problems:
        advice = " ".join(filter(None, (problem.advice for problem in problems)))
        raise LoopFailed(
            f"The demo needs a Docker engine or a nested server on this machine, and has neither. "
            f"Docker: {without_docker.message} Process: {problems[0].message} {advice}".strip(),
            reason=without_docker.reason,
        )
    return found
