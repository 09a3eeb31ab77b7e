"""The connections of the SDK's clients, which can be closed while a call waits for its answer.

The SDK is synchronous: a thread that waits for an answer goes on only when its connection ends. The SDK has no method
for that, so the connections are noted as its pools make them.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from typing import Any

import docker


class Connections:
    """All connections of the clients that it follows, until they are closed together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: weakref.WeakSet[Any] = weakref.WeakSet()
        self._closed = False

    def follow(self, client: docker.APIClient) -> None:
        """Note every connection that ``client`` makes from now on."""
        adapter: Any = client.get_adapter(client.base_url)
        find_pool = adapter.get_connection_with_tls_context

        def find_followed_pool(*args: Any, **kwargs: Any) -> Any:
            pool = find_pool(*args, **kwargs)
            self._follow_pool(pool)
            return pool

        adapter.get_connection_with_tls_context = find_followed_pool

    def close(self) -> None:
        """End every call that waits for an answer, and let no other begin; one that just connects ends by its limit."""
        with self._lock:
            self._closed = True
            made = list(self._made)
        for connection in made:
            with contextlib.suppress(OSError, AttributeError):  # it has no socket, or just lost it
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _follow_pool(self, pool: Any) -> None:
        with self._lock:
            if "_new_conn" in vars(pool):
                return
            make = pool._new_conn
            pool._new_conn = lambda: self._noted(make())

    def _noted(self, connection: Any) -> Any:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("The engine's client was closed.")
            self._made.add(connection)
        return connection
