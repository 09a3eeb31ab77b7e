"""What tests need of the machine: an engine, images on it, interpreters with real servers.

A test without what it needs is skipped, and says what is missing and what brings it. Where ``CI`` is set,
`tests/conftest.py` makes a failure of that.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, NoReturn

import pytest
from docker.errors import DockerException

import docker

from .namespaces import clear_left_behind

#: By the name of an environment that ``.ci/servers`` makes, the variable that names its interpreter.
SERVERS: Final = {
    "agent-server-1.58.0": "LOOPNEST_TEST_AGENT_SERVER_PYTHON",
    "agent-server-1.54.0": "LOOPNEST_TEST_AGENT_SERVER_PYTHON_1_54",
    "agent-server-1.49.0": "LOOPNEST_TEST_AGENT_SERVER_PYTHON_1_49",
    "openhands-1.11.0": "LOOPNEST_TEST_APP_SERVER_PYTHON",
    "openhands-1.9.3": "LOOPNEST_TEST_APP_SERVER_PYTHON_193",
    "openhands-1.6.0": "LOOPNEST_TEST_OPENHANDS_PYTHON",
    "openhands-1.0.0": "LOOPNEST_TEST_OPENHANDS_1_0_PYTHON",
    "openhands-0.62.0": "LOOPNEST_TEST_OPENHANDS_0_62_PYTHON",
}


def missing(what: str, cure: str) -> NoReturn:
    """Skip the test, for developers without an engine or servers; where ``CI`` is set, tests/conftest.py fails it."""
    pytest.skip(f"{what}. {cure}.")


def server(name: str) -> str:
    """Return the interpreter of a real server, which has loopnest too."""
    variable = SERVERS[name]
    python = os.environ.get(variable, "")
    if not Path(python).is_file():
        said = f"names no file: {python}" if python else "is not set"
        missing(f"{variable} {said}", f"'.ci/servers DIR {name}' installs {name}, and DIR/servers.env sets it")
    return python


def image(engine: docker.APIClient, name: str) -> str:
    """Return ``name``, which the engine has an image of."""
    if not engine.images(name):
        missing(f"The engine has no image {name}", "'.ci/images' builds it")
    return name


@contextmanager
def engine() -> Iterator[docker.APIClient]:
    """The real engine, with nothing on it that killed test runs of this machine left."""
    with closing(_connected()) as client:
        clear_left_behind(client)
        yield client


def _connected() -> docker.APIClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # of sockets that the SDK leaves open where it can't connect
        try:
            return docker.APIClient(version="auto", timeout=60, **docker.utils.kwargs_from_env())
        except DockerException as error:
            said = str(error)
        gc.collect()
    missing(f"No Docker engine answers ({said})", "'.ci/engine' starts one")
