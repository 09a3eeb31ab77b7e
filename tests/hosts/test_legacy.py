"""The legacy OpenHands server's conversation manager beside upstream's nested one, in the host's environment."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ..e2e.legacy_process import INTERPRETER, environment

PACKAGES = Path(__file__).parent / "packages"
ROOT = Path(__file__).parents[2]
CHECKS = (
    "one user sees nothing of another's",
    "the limit counts each user's own, and closes the one idle longest",
    "a container of somebody else's breaks no listing",
    "ids that are paths, empty or options are refused",
    "images and instructions reach the nested server",
    "settings with secrets do not break a start",
    "the event store carries the session key",
    "a start that failed is listed as failed",
    "the engine's slowness does not stall the host",
    "nested servers that hang delay a listing by one short limit in all",
    "the host's end leaves the loops running",
    "a start that the host's death interrupted is taken up with its first message",
    "nothing is unsupported",
)


def pretending(directory: Path) -> dict[str, str]:
    """Install a strategy below ``directory`` that runs nothing, and return the variables that select it."""
    info = directory / "site" / "pretend_v0-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend-v0\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[loopnest]\npretend-v0 = pretend_v0:PretendV0\n")
    paths = [ROOT / "hookspecs", ROOT / "plugin", PACKAGES, directory / "site"]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths)), "LOOPNEST_STRATEGY": "pretend-v0"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if INTERPRETER not in os.environ:
        message = f"{INTERPRETER} names no interpreter with openhands-ai 1.6.0 and loopnest"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    directory = tmp_path_factory.mktemp("legacy")
    variables = environment(directory, **pretending(directory))
    command = [os.environ[INTERPRETER], str(PACKAGES / "legacy_checks.py"), str(directory)]
    ran = subprocess.run(
        command, cwd=directory, env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("check", CHECKS)
def test_what_upstream_gets_wrong_is_right_here(results: dict[str, Any], check: str) -> None:
    assert results[check] == {"upstream": False, "ours": True}


def test_no_check_is_left_out(results: dict[str, Any]) -> None:
    assert set(results) == set(CHECKS)
