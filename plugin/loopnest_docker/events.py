"""The engine's event stream, read on a thread of its own and opened again whenever it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

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
        self.alive = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._open_stream: Any = None

    def open(self) -> None:
        """Begin to read."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="loopnest-events", daemon=True)
        self._thread.start()

    async def aclose(self) -> None:
        """Stop reading."""
        self._closing.set()
        await self.reopen()

    async def reopen(self) -> None:
        """End the stream that is open, as it went silent; another one is opened unless we are closing."""
        self.alive = False
        if stream := self._open_stream:
            with contextlib.suppress(OSError, AttributeError):  # it may end by itself at this very moment
                await asyncio.to_thread(stream.close)

    def _run(self) -> None:
        delay = _FIRST_DELAY
        while not self._closing.is_set():
            try:
                self._read()
                delay = _FIRST_DELAY
            except Exception as error:  # noqa: BLE001 - whatever ends the stream, it is opened again
                _log.debug("The engine's event stream failed: %s", type(error).__name__)
            self._tell(self._ended)
            if self._closing.wait(delay + random.uniform(0, delay / 4)):  # noqa: S311 - jitter
                return
            delay = min(delay * 2, _LONGEST_DELAY)

    def _read(self) -> None:
        client = self._engine.connect(stream=True)
        try:
            filters = {"type": "container", "label": self._label}
            self._open_stream = client.events(filters=filters, decode=True)
            self._tell(self._began)
            for raw in self._open_stream:
                actor = raw.get("Actor") or {}
                event = EngineEvent(actor.get("ID", ""), raw.get("Action", ""), actor.get("Attributes") or {})
                self._tell(self._on_event, event)
        finally:
            client.close()

    def _began(self) -> None:
        self._on_gap()
        self.alive = not self._closing.is_set()

    def _ended(self) -> None:
        self.alive = False
        self._on_gap()

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        if self._loop and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # the loop was closed in between
                self._loop.call_soon_threadsafe(function, *arguments)
