"""What the documents say to install is installed as they say, by the tool that they use and by the other, and starts.

Each block with an install command is taken from its document, so that none is left out: one that nothing here starts
is a failure. Its commands run in a copy of this clone, up to the last that installs something.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from .. import requirements
from ..documents import ROOT, Block, blocks
from ..ports import free_port
from ..processes import end, inherited

pytestmark = pytest.mark.timeout(900)
_INSTALL: Final = re.compile(r"\bpip install\b")
_NEW_ENVIRONMENT: Final = re.compile(r"(?:-m venv|uv venv .*?) *(\S+)$")
#: The commands of the other tool.
_UV_FOR_PIP: Final = {r"(\S+)/bin/pip install": r"uv pip install --python \1"}
_PIP_FOR_UV: Final = {r"^uv pip install": "$VIRTUAL_ENV/bin/pip install"}
#: Seconds for a host to answer; it compiles its modules first.
_START: Final = 180
_PARTS: Final = ("openhands-agent-server", "openhands-sdk", "openhands-tools")


@dataclass(frozen=True)
class Machine:
    """Where a reader works: a directory with a copy of this clone, and an environment that the commands make."""

    directory: Path
    environment: str
    variables: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command to its end; return what it printed on standard output."""
        options: dict[str, Any] = {"cwd": self.directory, "env": self.variables, "text": True}
        done = subprocess.run(command, capture_output=True, check=False, **options)
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout

    def program(self, name: str) -> str:
        """A program of the environment."""
        return str(self.directory / self.environment / "bin" / name)

    def releases(self) -> dict[str, str]:
        """What is installed in the environment."""
        ask = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
        found: dict[str, str] = json.loads(self.run(self.program("python"), "-c", ask))
        return found

    def serves(self, *command: str, path: str) -> None:
        """Have a host answer, and end."""
        log, port = self.directory / "host.log", str(free_port())
        with log.open("wb") as output:
            options: dict[str, Any] = {"cwd": self.directory, "env": self.variables, "stdout": output, "stderr": output}
            host = subprocess.Popen([*command, "--port", port], **options)
        try:
            deadline = time.monotonic() + _START
            while not _answers(f"http://127.0.0.1:{port}{path}"):
                assert host.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.2)
        finally:
            end(host, log)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the PATH, with what the documents ask for."""
    directory = tmp_path_factory.mktemp("programs")
    for name in ("python3.12", "python3.13"):
        (directory / name).symlink_to(_interpreter(name))
    (directory / "python3").symlink_to(sys.executable)
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert uv, "the dependency group 'test' has it"
    (directory / "uv").symlink_to(uv)
    return directory


def _interpreter(name: str) -> str:
    """A Python that runs; a version manager's shim may refuse to."""
    managed = (str(path) for path in Path.home().glob(f".pyenv/versions/*/bin/{name}"))
    runs = (path for path in filter(None, (shutil.which(name), *managed)) if _runs(path))
    return next(runs, None) or requirements.missing(f"No {name} runs here", f"Have {name} on the PATH.")


def _runs(python: str) -> bool:
    return subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A copy of this clone."""
    clone = tmp_path / "clone"
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    return clone


@pytest.fixture
def variables(programs: Path, tmp_path: Path) -> dict[str, str]:
    """A reader's, and no state of theirs; loops, of which none is started, are processes."""
    theirs = {
        name: value for name, value in inherited(tmp_path).items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    return {
        **theirs,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "UV_PYTHON_DOWNLOADS": "never",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LOOPNEST_STATE_DIR": str(tmp_path / "state"),
        "LOOPNEST_STRATEGY": "process",
        "OH_PERSISTENCE_DIR": str(tmp_path / "state"),
        "FILE_STORE_PATH": str(tmp_path / "state"),
    }


# --- how what was installed starts ------------------------------------------------------------------------------------


def _command(machine: Machine) -> None:
    assert machine.releases()["uv"]
    machine.run(machine.program("loopnest"), "doctor")


def _tox(machine: Machine) -> None:
    assert "e2e" in machine.run(machine.program("tox"), "list")


def _agent_server(machine: Machine) -> None:
    releases = machine.releases()
    assert {name: releases[name] for name in _PARTS} == dict.fromkeys(_PARTS, "1.58.0")
    machine.run(machine.program("loopnest"), "doctor")
    machine.serves(machine.program("loopnest"), "serve", "agent-server", path="/health")


def _app_server(machine: Machine) -> None:
    releases = machine.releases()
    assert releases["openhands-ai"] == "1.11.0"
    assert {releases[name] for name in _PARTS} == {"1.34.0"}
    machine.variables["OH_SANDBOX_KIND"] = "loopnest_openhands.SandboxServiceInjector"
    machine.variables["OH_SANDBOX_SPEC_KIND"] = "loopnest_openhands.SandboxSpecServiceInjector"
    machine.serves(machine.program("uvicorn"), "openhands.app_server.app:app", path="/alive")


def _legacy_server(machine: Machine) -> None:
    guide = [it for it in blocks() if it.document == "docs/openhands-legacy.md" and it.language == "toml"]
    [configuration] = [it.text for it in guide if "openhands-legacy" in it.text]
    (machine.directory / "loopnest.toml").write_text(configuration)
    del machine.variables["LOOPNEST_STRATEGY"]
    machine.variables["CONVERSATION_MANAGER_CLASS"] = "loopnest_openhands.ConversationManager"
    machine.variables["SERVE_FRONTEND"] = "0"
    show = "from openhands.server.shared import conversation_manager as it; print(type(it).__module__)"
    shown = machine.run(machine.program("python"), "-c", f"import openhands.server.listen; {show}")
    assert shown.splitlines()[-1] == "loopnest_openhands.legacy.manager"


# --- the blocks -------------------------------------------------------------------------------------------------------

#: What an install command is told by, what starts what it installs, and whether the other tool is tried, too: pip takes
#: four minutes to find out what the app server needs, and its guide does not use it.
_STARTS: Final[dict[str, tuple[Callable[[Machine], None], bool]]] = {
    "[process]": (_command, True),
    "tox-uv": (_tox, True),
    "[agent-server]": (_agent_server, True),
    "openhands-ai==": (_app_server, False),
    "uv pip install .": (_legacy_server, True),
}
#: What a guide begins with that makes no environment.
_HOST: Final = ("uv venv --quiet --seed --python 3.12 host", "uv pip install --quiet --python host openhands-ai==1.6.0")


def _steps(block: Block) -> tuple[str, ...]:
    """The block's commands up to the last that installs something."""
    steps = [step.strip() for command in block.commands for step in command.split("&&")]
    last = max(index for index, step in enumerate(steps) if _INSTALL.search(step))
    return tuple(step.partition("  #")[0].strip() for step in steps[: last + 1])


def _known(step: str) -> tuple[Callable[[Machine], None], bool]:
    found = [known for words, known in _STARTS.items() if words in step]
    assert len(found) == 1, f"What {step!r} installs must be started here."
    return found[0]


def _by_the_other_tool(step: str) -> str:
    for pattern, replacement in (_PIP_FOR_UV if step.startswith("uv ") else _UV_FOR_PIP).items():
        step = re.sub(pattern, replacement, step)
    return step


def _cases() -> list[Any]:
    """The steps of the blocks, each once, and the same by the other tool."""
    places: dict[tuple[str, ...], list[str]] = {}
    for block in blocks():
        if _INSTALL.search(block.text):
            places.setdefault(_steps(block), []).append(str(block))
    cases = []
    for steps, found in places.items():
        start, other = _known(steps[-1])
        cases.append(pytest.param(steps, start, id=f"{' '.join(found)} as documented"))
        if other:
            translated = tuple(map(_by_the_other_tool, steps))
            cases.append(pytest.param(translated, start, id=f"{' '.join(found)} by the other tool"))
    return cases


@pytest.mark.parametrize(("steps", "start"), _cases())
def test_what_is_installed_as_documented_starts(directory, variables, steps, start):
    made = [found[1] for step in steps if (found := _NEW_ENVIRONMENT.search(step))]
    machine = Machine(directory, made[0] if made else "host", variables)
    before: dict[str, str] = {}
    if not made:
        machine.run("bash", "-ec", "\n".join(_HOST))
        before, variables["VIRTUAL_ENV"] = machine.releases(), str(directory / "host")
    machine.run("bash", "-ec", "\n".join(steps))
    after = machine.releases()
    assert {name: after.get(name) for name in before} == before  # what was there is as it was
    start(machine)


def test_an_sdk_of_another_release_is_refused_before_it_is_imported(directory, variables):
    machine = Machine(directory, "host", variables)
    wanted = "openhands-agent-server==1.58.0 openhands-tools==1.58.0"  # for which uv chooses an SDK of long ago
    machine.run("bash", "-ec", f"uv venv --python 3.13 host; uv pip install --python host {wanted} .")
    sdk = machine.releases()["openhands-sdk"]
    assert sdk != "1.58.0"
    for command, code in (("doctor", 1), ("serve agent-server", 2)):
        done = subprocess.run(
            [machine.program("loopnest"), *command.split()], env=variables, capture_output=True, text=True, check=False
        )
        shown = done.stdout + done.stderr
        assert f"openhands-sdk {sdk} is installed beside openhands-agent-server 1.58.0." in shown
        assert "Install openhands-sdk==1.58.0." in shown
        assert "Traceback" not in shown
        assert done.returncode == code
