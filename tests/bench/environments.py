"""The peers' environments: made once by uv, in a cache directory, as their dependencies don't mix with ours."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from processes import inherited


@dataclass(frozen=True)
class Environment:
    """One peer's: ``variable`` may name an interpreter that has the packages already."""

    python: str
    packages: tuple[str, ...]
    variable: str


ENVIRONMENTS = {
    "upstream": Environment("3.12", ("openhands-ai==1.6.0", "google-cloud-storage"), "LOOPNEST_TEST_OPENHANDS_PYTHON"),
    "app_server": Environment("3.12", ("openhands-ai==1.11.0",), "LOOPNEST_TEST_APP_SERVER_PYTHON"),
    "agent_server": Environment(
        "3.13",
        ("openhands-agent-server==1.58.0", "openhands-sdk==1.58.0", "openhands-tools==1.58.0"),
        "LOOPNEST_TEST_AGENT_SERVER_PYTHON",
    ),
}


def interpreter(name: str, cache: Path) -> str:
    """Return the interpreter of a peer, after installing it where it is missing."""
    wanted = ENVIRONMENTS[name]
    if given := os.environ.get(wanted.variable):
        return given
    directory = cache / f"{name}-{wanted.packages[0].partition('==')[2]}"
    python = directory / "bin" / "python"
    complete = directory / ".complete"
    if not complete.exists():
        uv = [shutil.which("uv") or "uv"]
        subprocess.run([*uv, "venv", "--quiet", "--clear", "-p", wanted.python, str(directory)], check=True)
        install = ["pip", "install", "--quiet", "--compile-bytecode", "--python", str(python), *wanted.packages]
        subprocess.run([*uv, *install], check=True)
        complete.touch()
    return str(python)


def variables(**more: str) -> dict[str, str]:
    """The environment of every program: nobody's configuration, and this package on its path."""
    return {
        **inherited(),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "LOG_LEVEL": "ERROR",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        **more,
    }
