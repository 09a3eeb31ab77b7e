"""Many containers that cost little: they sleep, and one responder answers for all of them.

loopnest and its peers know their containers by name, and some peers look at every container of the engine. So there is
one set of containers for all, which is renamed for whoever is measured.
"""

from __future__ import annotations

import contextlib
import secrets
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from docker.errors import APIError, NotFound
from pydantic import SecretStr

import docker
from loopnest_docker import naming
from loopnest_nested import session_keys

#: Bytes that one running container costs outside of its own process: the engine's shim, mostly.
EACH = 14 * 1024 * 1024
_AT_ONCE = 4
_NAMES = {
    "loopnest": lambda namespace, key: str(naming.LoopName(namespace, key, "nobody")),
    "upstream": lambda _, key: f"openhands-runtime-{key}",
    "app server": lambda _, key: f"oh-agent-server-{key}",
}


class Fleet:
    """The containers of ``namespace``; ``keys`` are the conversations they are for."""

    def __init__(self, engine: docker.APIClient, namespace: str, secret: str, image: str, port: int) -> None:
        self.keys: list[str] = []
        self._engine, self._namespace, self._secret = engine, namespace, SecretStr(secret)
        self._image, self._port = image, port
        self._ids: dict[str, str] = {}
        self._named = "loopnest"

    def grow(self, size: int) -> None:
        """Have so many of them, running."""
        fresh = [str(uuid.uuid4()) for _ in range(size - len(self.keys))]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            self._ids |= dict(zip(fresh, threads.map(self._make, fresh), strict=True))
        self.keys += fresh

    def name_for(self, program: str) -> None:
        """Let ``program`` see them as its own."""
        if program == self._named:
            return
        for key, container in self._ids.items():
            self._engine.rename(container, _NAMES[program](self._namespace, key))
        self._named = program

    def session_key(self, key: str) -> str:
        """What the peers read from the container's environment."""
        return f"key-of-{key}"

    def clear(self) -> None:
        """Remove all."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            list(threads.map(self._remove, self._ids.values()))
        self.keys, self._ids, self._named = [], {}, "loopnest"

    def forget(self, keys: list[str]) -> None:
        """Somebody else removed these."""
        self.keys = [key for key in self.keys if key not in keys]
        for key in keys:
            self._ids.pop(key, None)

    def _make(self, key: str) -> str:
        made = self._engine.create_container_from_config(self._body(key), _NAMES[self._named](self._namespace, key))
        self._engine.start(made["Id"])
        return str(made["Id"])

    def _body(self, key: str) -> dict[str, Any]:
        return {
            "Image": self._image,
            "Entrypoint": ["sleep", "infinity"],
            "Env": [f"port={self._port}", f"OH_SESSION_API_KEYS_0={self.session_key(key)}"],
            "Labels": {
                naming.SCHEMA: "1",
                naming.NAMESPACE: self._namespace,
                naming.DIALECT: "agent-server",
                naming.NONCE: secrets.token_hex(16),
                naming.KEY: session_keys.fingerprint(self._secret),
                naming.ORIGIN: "cold: the benchmark made it",
            },
            "StopSignal": "SIGKILL",
            "HostConfig": {"NetworkMode": "host", "LogConfig": {"Type": "none"}},
        }

    def _remove(self, container: str) -> None:
        with contextlib.suppress(NotFound, APIError):
            self._engine.remove_container(container, force=True, v=True)
