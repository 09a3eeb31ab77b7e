"""Without an engine or servers, tests are skipped and say what brings them; where ``CI`` is set they fail instead."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .requirements import SERVERS

ROOT = Path(__file__).parents[1]
#: In these, every test needs an engine or a real server.
NEEDY = (
    "tests/e2e/agent_server_dialect/test_repositories.py",
    "tests/e2e/test_app_server.py",
    "tests/e2e/test_docker_bare.py",
    "tests/hosts/test_legacy.py",
    "tests/hosts/test_legacy_host.py",
)
#: Sources of tests that skip in each way, run by a test below.
SKIPS = {
    "test_module.py": "import pytest\npytest.importorskip('loopnest_of_nobody')",
    "test_function.py": "import pytest\ndef test_it(): pytest.skip('it is missing')",
    "test_failure.py": "import pytest\n@pytest.mark.xfail\ndef test_it(): assert False",
}


def run(*arguments: object, **variables: str) -> tuple[int, dict[str, int], str]:
    """Run pytest, and return its exit code, how many tests ended how, and what it said."""
    own = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("LOOPNEST_TEST_")}
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", *map(str, arguments)]
    environment = {**own, "DOCKER_HOST": "unix:///nowhere.sock", "COLUMNS": "500", **variables}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    counts = re.findall(r"(\d+) (\w+)", ran.stdout.splitlines()[-1].partition(" in ")[0])
    return ran.returncode, {how: int(count) for count, how in counts}, ran.stdout


def test_on_a_developer_s_machine_what_is_missing_is_said_with_its_cure():
    code, counts, said = run(*NEEDY)
    assert (code, counts.keys()) == (0, {"skipped"})
    assert "No Docker engine answers" in said
    assert "'.ci/engine' starts one" in said
    assert "LOOPNEST_TEST_AGENT_SERVER_PYTHON is not set. '.ci/servers DIR agent-server-1.58.0' installs" in said


def test_in_ci_what_is_missing_is_a_failure():
    code, counts, said = run(*NEEDY, CI="true")
    assert (code, counts.keys()) == (1, {"errors"})
    assert "Nothing may be skipped in CI. Skipped: No Docker engine answers" in said


def test_an_interpreter_that_is_not_there_is_missing_too(tmp_path):
    python = str(tmp_path / "python")
    _, counts, said = run(NEEDY[0], LOOPNEST_TEST_AGENT_SERVER_PYTHON=python)
    assert counts.keys() == {"skipped"}
    assert f"LOOPNEST_TEST_AGENT_SERVER_PYTHON names no file: {python}" in said


@pytest.mark.parametrize(
    ("variables", "code", "expected"),
    [({}, 0, {"skipped": 2, "xfailed": 1}), ({"CI": "true"}, 1, {"failed": 1, "error": 1, "xfailed": 1})],
)
def test_no_skip_of_any_kind_passes_in_ci(tmp_path, variables, code, expected):
    for name, source in SKIPS.items():
        (tmp_path / name).write_text(source)
    options = ["--continue-on-collection-errors", "-p", "tests.conftest", tmp_path]
    assert run(*options, PYTHONPATH=str(ROOT), **variables)[:2] == (code, expected)


def test_ci_installs_every_server_under_the_variable_that_tests_read():
    written = re.findall(r"^ +tell (\w+) (\S+)$", (ROOT / ".ci" / "servers").read_text(), re.MULTILINE)
    assert {name: f"LOOPNEST_TEST_{variable}" for variable, name in written} == SERVERS
