"""Namespaces of the tests' own: nothing of them is left on the engine, and no rule of theirs on this machine.

A name says which process of which machine has the namespace, so that a later run can clear what a killed one left, and
leaves alone what others have that share the engine.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psutil
from docker.errors import APIError

import docker
from loopnest_docker import naming
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network, removal
from loopnest_docker.settings import DockerSettings

#: Names the namespace on containers that must not look like ours.
FOREIGN: Final = "loopnest-tests.namespace"
_LABELS: Final = (naming.NAMESPACE, FOREIGN)
_MACHINE: Final = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:4]
_NAME: Final = re.compile(rf"test-{_MACHINE}-(?P<pid>\d+)-[0-9a-f]{{6}}")


@contextmanager
def own_namespace(engine: docker.APIClient) -> Iterator[str]:
    """A namespace that nobody else has, and nothing of it afterwards."""
    name = f"test-{_MACHINE}-{os.getpid()}-{secrets.token_hex(3)}"
    try:
        yield name
    finally:
        clear(engine, name)


def clear_left_behind(engine: docker.APIClient) -> None:
    """Clear the namespaces of processes of this machine that are no more.

    Raises:
        APIError: the engine keeps some of it.
    """
    for namespace in _namespaces(engine):
        match = _NAME.fullmatch(namespace)
        if match and not psutil.pid_exists(int(match["pid"])):
            clear(engine, namespace)


def clear(engine: docker.APIClient, namespace: str) -> None:
    """Remove the containers, the rules and the network of a namespace.

    Raises:
        APIError: the engine keeps some of it.
    """
    for label in _LABELS:
        remove_containers(engine, engine.containers(all=True, filters={"label": f"{label}={namespace}"}))
    # With the host's own iptables, as a container each would cost half a second.
    subprocess.run(["sh", "-c", removal(naming.bridge_name(namespace))], check=True)
    for network in engine.networks(filters={"label": f"{naming.NAMESPACE}={namespace}"}):
        with _others_may_be_faster():
            engine.remove_network(network["Id"])


def remove_containers(engine: docker.APIClient, listed: Iterable[dict[str, Any]]) -> None:
    """Remove containers, and what they alone have."""
    for container in listed:
        with _others_may_be_faster():
            engine.remove_container(container["Id"], force=True, v=True)


async def gateway(namespace: str) -> str:
    """Make the network of a namespace, and return the one address of this machine that its loops see."""
    settings = DockerSettings()
    engine = Engine(settings.engine)
    try:
        return await Network(engine, settings, namespace).gateway()
    finally:
        await engine.aclose()


def _namespaces(engine: docker.APIClient) -> set[str]:
    """Those of which the engine has something."""
    found: set[str] = set()
    for label in _LABELS:
        wanted = {"label": label}
        listed = [*engine.containers(all=True, filters=wanted), *engine.networks(filters=wanted)]
        found.update(entry["Labels"][label] for entry in listed)
    return found


@contextmanager
def _others_may_be_faster() -> Iterator[None]:
    try:
        yield
    except APIError as error:
        if error.status_code not in {404, 409}:  # gone, or going
            raise
