"""What a killed test run left on the engine is removed by the next one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loopnest_docker import naming

from .. import namespaces
from .conftest import BASE_IMAGE

ROOT = Path(__file__).parents[2]
#: Makes what a test makes, says where, and does what it is told.
PROGRAM = """
import asyncio, os, signal, sys
import docker
from tests import namespaces

engine = docker.APIClient(**docker.utils.kwargs_from_env())
with namespaces.own_namespace(engine) as name:
    asyncio.run(namespaces.gateway(name))
    for label in namespaces._LABELS:
        engine.start(engine.create_container(sys.argv[1], ["sleep", "600"], labels={label: name}))
    print(name, flush=True)
    if sys.stdin.readline() == "die\\n":
        os.kill(os.getpid(), signal.SIGKILL)
"""


def of(engine, namespace):
    """How many containers and networks the engine has of a namespace."""
    counts = [0, 0]
    for label in namespaces._LABELS:
        wanted = {"label": f"{label}={namespace}"}
        counts[0] += len(engine.containers(all=True, filters=wanted))
        counts[1] += len(engine.networks(filters=wanted))
    return tuple(counts)


@pytest.fixture
def run(engine, standin):
    """Another test run, which has made its things; its process and its namespace."""
    command = [sys.executable, "-c", PROGRAM, BASE_IMAGE]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        name = process.stdout.readline().strip()
        yield process, name
        process.kill()
    namespaces.clear(engine, name)


def test_what_a_killed_run_left_is_removed(engine, run):
    process, name = run
    assert of(engine, name) == (2, 1)
    process.communicate("die\n", timeout=30)
    assert of(engine, name) == (2, 1)
    namespaces.clear_left_behind(engine)
    assert of(engine, name) == (0, 0)


def test_what_a_run_has_that_goes_on_is_kept(engine, run):
    process, name = run
    namespaces.clear_left_behind(engine)
    assert of(engine, name) == (2, 1)
    process.communicate("end\n", timeout=30)
    assert of(engine, name) == (0, 0)


def test_a_namespace_that_is_no_test_s_of_this_machine_is_kept(engine, namespace):
    other = f"{namespace}-not-the-tests"
    made = engine.create_network(naming.network_name(other), labels={naming.NAMESPACE: other})
    try:
        namespaces.clear_left_behind(engine)
        assert of(engine, other) == (0, 1)
    finally:
        engine.remove_network(made["Id"])
