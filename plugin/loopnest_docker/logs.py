"""Read a container's log line by line, off the event loop and in bounded memory: its agent writes it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import CancelledError
from typing import Any, Final

import requests
from docker.errors import create_api_error_from_http_exception

import docker
from loopnest_docker.engine import Engine
from loopnest_nested.lines import Lines

_CHUNK: Final = 64 * 1024
#: Chunks that wait for a slow reader; the engine waits while there are as many.
_WAITING: Final = 16
#: Seconds for the thread to end once its stream is closed.
_END: Final = 5.0
#: What the engine puts before each piece of output: its stream, three zeros, and its length.
_HEADER: Final = 8


async def read(engine: Engine, container_id: str, *, tail: int, follow: bool) -> AsyncIterator[str]:
    """Give the last ``tail`` lines, and with ``follow`` all further ones until the container ends.

    Raises:
        EngineError: the engine refused, or does not answer.
    """
    if not follow:
        for line in await engine.run(lambda client: last_lines(client, container_id, tail)):
            yield line
        return
    async for line in _follow(engine, container_id, tail):
        yield line


def last_lines(client: docker.APIClient, container_id: str, count: int) -> list[str]:
    """Return the last ``count`` lines, oldest first; blocks.

    Not by the SDK's ``logs``: it collects the whole answer, or turns the limit of time off.

    Raises:
        APIError: the engine refused.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container_id}/logs"
    wanted = {"stdout": 1, "stderr": 1, "tail": count}
    lines, found = Lines(), deque[str](maxlen=count)
    with client.get(url, params=wanted, stream=True, timeout=client.timeout) as response:
        try:
            response.raise_for_status()
        except requests.HTTPError as error:
            create_api_error_from_http_exception(error)
        for piece in _output(response.iter_content(_CHUNK)):
            found.extend(lines.feed(piece))
    found.extend(lines.end())
    return list(found)


def _output(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The output in an answer of the engine, whose pieces may be cut anywhere."""
    header, left = b"", 0
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            if left:
                piece, rest = rest[:left], rest[left:]
                left -= len(piece)
                yield bytes(piece)
                continue
            missing = _HEADER - len(header)
            header, rest = header + bytes(rest[:missing]), rest[missing:]
            if len(header) == _HEADER:
                header, left = b"", int.from_bytes(header[4:], "big")


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
            putting.close()  # where the event loop is closed, which is no error for a coroutine that has ended

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
