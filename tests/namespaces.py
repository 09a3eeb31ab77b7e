"""Namespaces of the tests' own: nothing of them is left on the engine, and no rule of theirs on this machine."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from docker.errors import APIError

import docker
from loopnest_docker import naming
from loopnest_docker.engine import Engine
from loopnest_docker.network import Network, removal
from loopnest_docker.settings import DockerSettings


@contextmanager
def own_namespace(engine: docker.APIClient) -> Iterator[str]:
    """A namespace that nobody else has, and nothing of it afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        clear(engine, name)


def clear(engine: docker.APIClient, namespace: str) -> None:
    """Remove the containers, the rules and the network of a namespace.

    Raises:
        APIError: the engine keeps some of it.
    """
    label = {"label": f"{naming.NAMESPACE}={namespace}"}
    remove_containers(engine, engine.containers(all=True, filters=label))
    # With the host's own iptables, as a container each would cost half a second.
    subprocess.run(["sh", "-c", removal(naming.bridge_name(namespace))], check=True)
    for network in engine.networks(filters=label):
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


@contextmanager
def _others_may_be_faster() -> Iterator[None]:
    try:
        yield
    except APIError as error:
        if error.status_code not in {404, 409}:  # gone, or going
            raise
