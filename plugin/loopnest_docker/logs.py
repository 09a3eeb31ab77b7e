"""Read a container's log line by line, off the event loop and in bounded memory: its agent writes it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from typing import Any, Final

from loopnest_docker.engine import Engine
from loopnest_nested.lines import Lines

#: Chunks that wait for a slow reader; the engine waits while there are as many.
_WAITING: Final = 16
#: Seconds for the thread to end once its stream is closed.
_END: Final = 5.0


def read(engine: Engine, container_id: str, *, tail: int, follow: bool) -> AsyncIterator[str]:
    """Give the last ``tail`` lines, and with ``follow`` all further ones until the container ends.

    The iterator raises EngineError: the engine refused, or does not answer.
    """
    return (_follow if follow else _last)(engine, container_id, tail)


async def _last(engine: Engine, container_id: str, tail: int) -> AsyncIterator[str]:
    # Bounded, too: the engine stores lines in pieces of 16 KB, each of which counts as one of ``tail``.
    raw: bytes = await engine.call("logs", container_id, tail=tail)
    lines = Lines()
    for line in (*lines.feed(raw), *lines.end()):
        yield line


async def _follow(engine: Engine, container_id: str, tail: int) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
    client = await asyncio.to_thread(engine.connect, stream=True)
    stream: Any = await asyncio.to_thread(client.logs, container_id, tail=tail, stream=True, follow=True)

    def put(chunk: bytes | None) -> None:
        putting = queue.put(chunk)
        try:
            asyncio.run_coroutine_threadsafe(putting, loop).result()
        finally:
            putting.close()  # it was not begun where the event loop is closed

    def pump() -> None:
        with contextlib.suppress(RuntimeError, CancelledError):  # the reader has gone, and its event loop ended
            try:
                for chunk in stream:
                    put(chunk)
            finally:
                put(None)

    thread = threading.Thread(target=pump, name="loopnest-logs", daemon=True)
    thread.start()
    lines = Lines()
    try:
        while (chunk := await queue.get()) is not None:
            for line in lines.feed(chunk):
                yield line
        for line in lines.end():
            yield line
    finally:
        stream.close()
        client.close()
        while not queue.empty():  # which the thread may wait for
            queue.get_nowait()
        await asyncio.to_thread(thread.join, _END)
