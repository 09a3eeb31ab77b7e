"""Find, pull or build the image of the nested server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from docker.utils import parse_repository_tag

import docker
from loopnest import ConfigurationError, EngineError, LoopFailed, Phase, Reason
from loopnest_docker import naming
from loopnest_docker.engine import Engine, NotOnEngine
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import get_dialect


@dataclass(frozen=True)
class Image:
    """An image the engine has; ``command`` is its own entry point and arguments."""

    name: str
    id: str
    command: tuple[str, ...]
    labels: Mapping[str, str]


#: Called while an image is pulled or built: the phase, a line for a person, and how far it is (0 to 1) where known.
Progress = Callable[[Phase, str, float | None], None]


def _no_progress(_phase: Phase, _message: str, _progress: float | None) -> None:
    pass


class ImageStore:
    """The engine's images, as far as loops need them."""

    def __init__(self, engine: Engine, settings: DockerSettings) -> None:
        self._engine, self._settings = engine, settings
        self._program = get_dialect(settings.dialect).program
        self._locks: dict[str, asyncio.Lock] = {}
        self._fetched: set[str] = set()

    @property
    def default(self) -> str:
        """The image that is used where a request names none."""
        return self._settings.image or f"loopnest/{self._settings.dialect}:{self.version}"

    @property
    def version(self) -> str:
        """The nested server's version in the image that we build."""
        return self._settings.build.version or self._program.version

    async def ensure(self, image: str, progress: Progress = _no_progress) -> Image:
        """Make sure that the engine has ``image``, as the pull policy says, and return it.

        Concurrent calls for one image share one pull or build; ``always`` means once for each host process.

        Raises:
            LoopFailed: ``image-missing``, ``image-pull-failed`` or ``image-build-failed``.
        """
        policy = self._settings.pull_policy
        async with self._locks.setdefault(image, asyncio.Lock()):
            found = await self.find(image)
            if found and (policy != "always" or image in self._fetched):
                return found
            if policy == "never":
                raise LoopFailed(
                    f"The engine has no image {image!r}, and 'loopnest.docker.pull_policy' is 'never'. Run "
                    f"'loopnest image {self._settings.image_source}', or set 'loopnest.docker.image'.",
                    reason=Reason.IMAGE_MISSING,
                )
            await self._fetch(image, progress)
            self._fetched.add(image)
            return await self.find(image) or _vanished(image)

    async def find(self, image: str) -> Image | None:
        """Return ``image`` where the engine has it."""
        try:
            found = await self._engine.call("inspect_image", image)
        except NotOnEngine:
            return None
        config = found.get("Config") or {}
        command = (*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ()))
        return Image(image, found["Id"], command, config.get("Labels") or {})

    async def list(self) -> list[dict[str, Any]]:
        """The images on the engine that say they contain a nested server, as the engine lists them."""
        found: list[dict[str, Any]] = await self._engine.call("images", filters={"label": naming.DIALECT})
        return found

    async def pull(self, image: str | None = None, progress: Progress = _no_progress) -> str:
        """Pull ``image`` (by default the configured one) and return its name.

        Raises:
            LoopFailed: ``image-pull-failed``, with the registry's words.
        """
        image = image or self.default
        repository, tag = parse_repository_tag(image)

        def lines(client: docker.APIClient) -> Any:
            return client.pull(repository, tag=tag or "latest", stream=True, decode=True)

        await self._follow(lines, Phase.PULLING_IMAGE, Reason.IMAGE_PULL_FAILED, image, progress)
        return image

    async def build(self, progress: Progress = _no_progress) -> str:
        """Build the configured dialect's image from its packaged Dockerfile, and return its name.

        Raises:
            LoopFailed: ``image-build-failed``, with the builder's last words.
        """
        build, context = self._settings.build, self._program.image_context
        if context is None:
            raise ConfigurationError(
                f"The dialect {self._settings.dialect!r} brings no Dockerfile. Set 'loopnest.docker.image' to an image "
                f"with its server, and 'loopnest.docker.image_source' to \"pull\"."
            )
        arguments = {**build.args, self._program.version_argument: self.version}
        if build.base_image:
            arguments["BASE_IMAGE"] = build.base_image

        def lines(client: docker.APIClient) -> Any:
            return client.build(
                path=str(context),
                tag=self.default,
                buildargs=arguments,
                network_mode=build.network,
                rm=True,
                forcerm=True,
                decode=True,
            )

        await self._follow(lines, Phase.BUILDING_IMAGE, Reason.IMAGE_BUILD_FAILED, self.default, progress)
        return self.default

    async def _fetch(self, image: str, progress: Progress) -> None:
        if self._settings.image_source == "build" and image == self.default:
            await self.build(progress)
        else:
            await self.pull(image, progress)

    async def _follow(
        self,
        lines: Callable[[docker.APIClient], Iterable[dict[str, Any]]],
        phase: Phase,
        reason: str,
        image: str,
        progress: Progress,
    ) -> None:
        """Run a pull or a build on a thread, and report its progress."""
        tracker = _Tracker()
        async for line in self._stream(lines):
            if error := line.get("error"):
                words = f"{error} {tracker.last}".strip()
                raise LoopFailed(
                    f"{phase.replace('-', ' ').capitalize()} {image!r} failed: {words[-600:]}", reason=reason
                )
            progress(phase, *tracker.read(line))

    async def _stream(
        self, lines: Callable[[docker.APIClient], Iterable[dict[str, Any]]]
    ) -> AsyncIterator[dict[str, Any]]:
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def pump(client: docker.APIClient) -> None:
            for line in lines(client):
                loop.call_soon_threadsafe(queue.put_nowait, line)

        async def run() -> None:
            try:
                await self._engine.run(pump, limit=self._settings.build.timeout)
            finally:
                queue.put_nowait(None)

        task = asyncio.ensure_future(run())
        try:
            while (line := await queue.get()) is not None:
                yield line
            await task
        except EngineError as error:
            yield {"error": error.message}
        finally:
            task.cancel()


def _vanished(image: str) -> Image:
    raise LoopFailed(f"The engine has no image {image!r} after it was fetched.", reason=Reason.IMAGE_MISSING)


class _Tracker:
    """Makes lines for a person, and a fraction, out of what the engine tells while it pulls or builds."""

    def __init__(self) -> None:
        self.last = ""
        self._done: Counter[str] = Counter()
        self._total: Counter[str] = Counter()

    def read(self, line: dict[str, Any]) -> tuple[str, float | None]:
        if text := str(line.get("stream") or "").strip():
            self.last = text.splitlines()[-1]
            return self.last, _step(self.last)
        self.last = f"{line.get('status', '')} {line.get('id', '')}".strip()
        detail = line.get("progressDetail") or {}
        if line.get("status") == "Downloading" and detail.get("total"):
            self._done[line["id"]], self._total[line["id"]] = detail["current"], detail["total"]
        total = sum(self._total.values())
        return self.last, min(1.0, sum(self._done.values()) / total) if total else None


def _step(text: str) -> float | None:
    """How far a build is that says ``Step 3/12 : RUN ...``."""
    if not text.startswith("Step ") or "/" not in text:
        return None
    step, _, total = text[5:].split(" ", 1)[0].partition("/")
    return int(step) / int(total) if step.isdigit() and total.isdigit() and int(total) else None
