"""Read a container's log line by line, off the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any

from loopnest_docker.engine import Engine
from loopnest_nested.lines import Lines


async def read(engine: Engine, container_id: str, *, tail: int, follow: bool) -> AsyncIterator[str]:
    """Give the last ``tail`` lines, and with ``follow`` all further ones until the container ends.

    Raises:
        EngineError: the engine refused, or does not answer.
    """
    if not follow:
        raw: bytes = await engine.call("logs", container_id, tail=tail)
        lines = Lines()
        for line in (*lines.feed(raw), *lines.end()):
            yield line
        return
    async for line in _follow(engine, container_id, tail):
        yield line


async def _follow(engine: Engine, container_id: str, tail: int) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()
    client = await asyncio.to_thread(engine.connect, stream=True)
    stream: Any = await asyncio.to_thread(client.logs, container_id, tail=tail, stream=True, follow=True)

    def pump() -> None:
        try:
            for chunk in stream:
                loop.call_soon_threadsafe(queue.put_nowait, chunk)
        finally:
            with contextlib.suppress(RuntimeError):  # the reader has gone, and the event loop is closed
                loop.call_soon_threadsafe(queue.put_nowait, None)

    threading.Thread(target=pump, name="loopnest-logs", daemon=True).start()
    try:
        async for line in _lines(queue):
            yield line
    finally:
        stream.close()
        client.close()


async def _lines(queue: asyncio.Queue[bytes | None]) -> AsyncIterator[str]:
    lines = Lines()
    while (chunk := await queue.get()) is not None:
        for line in lines.feed(chunk):
            yield line
    for line in lines.end():
        yield line
