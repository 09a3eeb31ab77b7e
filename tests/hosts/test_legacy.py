"""The legacy OpenHands server's conversation manager beside upstream's nested one, in the host's environment.

Upstream's class fails each of the first checks, which are about the defects that it was seen to have, and ours passes.
Engine and nested servers are doubles here. What can only be seen on the real ones is seen in the tests that are named.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .. import requirements
from .legacy_process import environment

PACKAGES = Path(__file__).parent / "packages"
ROOT = Path(__file__).parents[2]
_HOST, _USERS, _RACES = "hosts/test_legacy_host", "hosts/test_legacy_users", "e2e/test_docker_races"
#: What upstream's class gets wrong, and where ours is seen to be right on the real engine too.
DEFECTS = {
    "an event and a stop reach the nested server's conversation, not a path that does not exist": _HOST,
    "the engine's slowness does not stall the host": "",
    "of two starts at once none undoes the other": f"{_RACES}: a hundred starts",
    "a conversation that was stopped starts again, and not only its container": f"{_HOST}: a stopped conversation",
    "a container that a failed start left is started": f"{_RACES}: a host killed in the middle",
    "a start that failed is listed as failed": "e2e/test_docker_failures",
    "a start that the host's death interrupted is taken up with its first message": f"{_RACES}: a host killed",
    "one user sees nothing of another's": f"{_USERS}: no user sees",
    "the limit counts each user's own, and closes the one idle longest": f"{_USERS}: at the limit",
    "a listing outlives containers that go away meanwhile": "e2e/test_docker_failures: somebody removes",
    "a container of somebody else's breaks no listing": "",
    "ids that are paths, empty or options are refused": "",
    "neither session key nor startup variables are in a container's configuration": f"{_USERS}: secrets",
    "images and instructions reach the nested server": f"{_USERS}: all that two users ask for",
    "settings with secrets do not break a start": f"{_USERS}: all that two users ask for",
    "the event store carries the session key": "",
    "with a user too, the nested server writes into the conversation's directory of the host": f"{_USERS}: events",
    "the host's end leaves the loops running": f"{_HOST}: a host that was killed",
    "starts leave no threads and no descriptors behind": "",
    "nested servers that hang delay a listing by one short limit in all": "",
    "nothing is unsupported": f"{_HOST}: the routes that attach",
}
#: What it has no counterpart of.
BEYOND = (
    "at the limit a start may be refused instead",
    "who asks for another's conversation changes nothing for its user",
    "containers that upstream started are left alone where the settings say so",
    "a file store that is not on this machine is not mounted",
    "the host's own sandbox table shapes containers",
    "a connection to a nested server that breaks loses and repeats nothing, and all clients share it",
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
    python = requirements.server("openhands-1.6.0")
    directory = tmp_path_factory.mktemp("legacy")
    variables = environment(directory, **pretending(directory))
    command = [python, str(PACKAGES / "legacy_checks.py"), str(directory)]
    ran = subprocess.run(
        command, cwd=directory, env=variables, capture_output=True, text=True, timeout=600, check=False
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    found["told"] = ran.stderr[-8000:]
    return found


@pytest.mark.timeout(600)
@pytest.mark.parametrize("check", DEFECTS)
def test_what_upstream_gets_wrong_is_right_here(results: dict[str, Any], check: str) -> None:
    assert results[check] == {"upstream": False, "ours": True}, results["told"]


@pytest.mark.parametrize("check", BEYOND)
def test_what_upstream_does_not_have_is_here(results: dict[str, Any], check: str) -> None:
    assert results[check] == {"ours": True}, results["told"]


def test_no_check_is_left_out(results: dict[str, Any]) -> None:
    assert results.keys() - {"told"} == {*DEFECTS, *BEYOND}
