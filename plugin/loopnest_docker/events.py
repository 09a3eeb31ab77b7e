"""The engine's event stream, read by a task and opened again whenever it ends."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx

from loopnest import EngineError
from loopnest.aio import limited
from loopnest_docker.engine import Engine

_log = logging.getLogger(__name__)
_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 5.0


@dataclass(frozen=True)
class EngineEvent:
    """Something that happened to a container."""

    container_id: str
    action: str
    attributes: Mapping[str, str]

    @property
    def exit_code(self) -> int | None:
        """Of the container's process, for ``die``."""
        code = self.attributes.get("exitCode", "")
        return int(code) if code.lstrip("-").isdigit() else None


class EventStream:
    """Calls ``on_event`` for each event, and ``on_gap`` whenever some may have been missed; both in the event loop.

    ``alive`` is True only after ``on_gap`` was called for a stream that is open, so what is listed after ``alive``
    turned True can't have missed an event.
    """

    def __init__(
        self, engine: Engine, label: str, on_event: Callable[[EngineEvent], None], on_gap: Callable[[], None]
    ) -> None:
        self._engine, self._label = engine, label
        self._on_event, self._on_gap = on_event, on_gap
        self.alive = self._reported = False
        self._delay = _FIRST_DELAY
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to read."""
        self._task = asyncio.create_task(self._run(), name="loopnest-events")

    async def aclose(self) -> None:
        """Stop reading."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def reopen(self) -> None:
        """Open another stream instead of the one that is open, as it went silent."""
        try:
            await self.aclose()
        finally:
            self.open()

    async def _run(self) -> None:
        while True:
            try:
                await self._read()
            except (EngineError, httpx.HTTPError, OSError, asyncio.TimeoutError) as error:
                self._report(error)
            except Exception:  # noqa: BLE001 - the stream must be opened again whatever a line of it caused
                _log.exception("The engine's event stream could not be read; it is opened again.")
            finally:
                self.alive = False
                self._on_gap()
            await asyncio.sleep(self._delay + random.uniform(0, self._delay / 4))  # noqa: S311 - jitter
            self._delay = min(self._delay * 2, _LONGEST_DELAY)

    def _report(self, error: Exception) -> None:
        """Log the first failure of an outage; the others say nothing new."""
        level = logging.DEBUG if self._reported else logging.WARNING
        self._reported = True
        why = error.message if isinstance(error, EngineError) else type(error).__name__
        _log.log(level, "The engine's event stream failed (%s). Until it is open, each listing asks the engine.", why)

    async def _read(self) -> None:
        async with self._engine.stream_client() as client:
            response = await limited(self._events(client), self._engine.timeout)
            try:
                self._on_gap()
                self.alive, self._reported, self._delay = True, False, _FIRST_DELAY
                async for line in _lines(response):
                    self._on_event(_parsed(line))
            finally:
                await response.aclose()

    async def _events(self, client: httpx.AsyncClient) -> httpx.Response:
        """Ask for the events of our containers; the answer has begun, and goes on."""
        version = (await client.get("/version")).raise_for_status().json()["ApiVersion"]
        filters = json.dumps({"type": ["container"], "label": [self._label]})
        request = client.build_request("GET", f"/v{version}/events", params={"filters": filters})
        return (await client.send(request, stream=True)).raise_for_status()


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Split an answer at newlines only; httpx's ``aiter_lines`` splits at characters that labels may contain, too."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _parsed(line: bytes) -> EngineEvent:
    raw: dict[str, Any] = json.loads(line)
    actor = raw.get("Actor") or {}
    return EngineEvent(actor.get("ID", ""), raw.get("Action", ""), actor.get("Attributes") or {})
