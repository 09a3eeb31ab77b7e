"""Stands between a strategy and the real engine, and makes the faults that engines make."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ENGINE = "/var/run/docker.sock"
_REFUSAL = (
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: 29\r\n\r\n"
    b'{"message": "driver failed."}'
)


class EngineProxy:
    """Passes on what it is given, unless told otherwise.

    Attributes:
        url: where it listens.
        delay: seconds before each request is passed on.
        muted: what event streams say is dropped, while they stay open.
        refused: a method and a part of a path; requests like this, which must have no body, are answered with 500.
        requests: the request lines that came by.
    """

    def __init__(self, path: Path) -> None:
        self.url = f"unix://{path}"
        self.delay = 0.0
        self.muted = False
        self.refused: tuple[str, str] | None = None
        self.requests: list[str] = []
        self._path = str(path)
        self._open: list[tuple[socket.socket, socket.socket]] = []
        self._streams: list[tuple[socket.socket, socket.socket]] = []
        self._listener: socket.socket | None = None
        self._pumps: list[threading.Thread] = []

    def up(self) -> None:
        """Take connections."""
        Path(self._path).unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._path)
        self._listener.listen(128)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """As if the engine were killed: no listener, and every connection ends."""
        assert self._listener
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        Path(self._path).unlink(missing_ok=True)
        self._end(self._open)

    def join(self) -> None:
        """Wait until every connection has been let go of."""
        for thread in self._pumps:
            thread.join(10)

    def cut_streams(self) -> None:
        """End the event streams, and nothing else."""
        self._end(self._streams)

    def _end(self, pairs: list[tuple[socket.socket, socket.socket]]) -> None:
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        pairs.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            upstream = socket.socket(socket.AF_UNIX)
            upstream.connect(ENGINE)
            self._open.append((client, upstream))
            is_stream = threading.Event()
            for source, sink, inbound in ((client, upstream, True), (upstream, client, False)):
                pump = threading.Thread(target=self._pump, args=(source, sink, inbound, is_stream), daemon=True)
                pump.start()
                self._pumps.append(pump)

    def _pump(self, source: socket.socket, sink: socket.socket, inbound: bool, is_stream: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if inbound:
                    line = self._note(data, is_stream, (source, sink))
                    time.sleep(self.delay)
                    if self.refused and line.startswith(self.refused[0]) and self.refused[1] in line:
                        source.sendall(_REFUSAL)
                        continue
                if not (self.muted and is_stream.is_set() and not inbound):
                    sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _note(self, data: bytes, is_stream: threading.Event, pair: tuple[socket.socket, socket.socket]) -> str:
        """Note a request; return its line, empty where ``data`` goes on with the one before."""
        line = data.split(b"\r\n", 1)[0].decode(errors="replace")
        if not line.endswith("HTTP/1.1"):
            return ""
        self.requests.append(line)
        if "/events" in line:
            is_stream.set()
            self._streams.append(pair)
        return line


@contextlib.contextmanager
def engine_proxy(directory: Path) -> Iterator[EngineProxy]:
    """An engine proxy that is up."""
    proxy = EngineProxy(directory / "engine.sock")
    proxy.up()
    yield proxy
    proxy.down()
    proxy.join()
