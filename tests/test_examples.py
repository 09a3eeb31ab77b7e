"""The examples work as ordinary installed packages, in an environment of their own, and are what the guide quotes."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
TOML = """
[loopnest]
strategy = "in-memory"
overrides = ["redact"]
state_dir = "state"

[loopnest.in-memory]
missing_images = ["gone"]

[loopnest.docker]
memory = "1GiB"  # of a plugin that is not selected
"""
DRIVE = """
import asyncio, json, sys
from in_memory_loops import NESTS
from loopnest import LoopFailed, LoopManager, Message, StartLoop

async def main():
    loops = LoopManager.from_config()
    order = [impl.plugin_name for impl in reversed(loops.plugins.hook.send_event.get_hookimpls())]
    async with loops:
        loop = await loops.start_loop(StartLoop(conversation_id="c1"), "alice")
        await loops.send_event("c1", Message(text="the key is sk-abcdefgh12345678, keep it"), "alice")
        try:
            await loops.start_loop(StartLoop(conversation_id="c2", image="gone"), "alice")
        except LoopFailed as error:
            reason = error.reason
    (nests,) = NESTS.values()
    print(json.dumps({
        "loopnest": sys.modules["loopnest"].__file__,
        "order": order,
        "status": loop.status,
        "texts": [event.text for event in nests["c1"].events],
        "reason": reason,
        "docker": "loopnest_docker" in sys.modules,
    }))

asyncio.run(main())
"""


def run(*command, cwd):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The interpreter of a fresh environment with loopnest's wheel and both distributions.

    What they depend on comes from the environment of the tests; what is installed there as loopnest does not.
    """
    uv = [sys.executable, "-m", "uv"] if importlib.util.find_spec("uv") else ["uv"]
    place = tmp_path_factory.mktemp("site")
    run(*uv, "build", "--wheel", "--quiet", "--out-dir", place, ROOT, cwd=place)
    run(*uv, "venv", "--quiet", "--python", sys.executable, "venv", cwd=place)
    python = place / "venv" / "bin" / "python"
    (wheel,) = place.glob("*.whl")
    distributions = [wheel, *(path for path in EXAMPLES.iterdir() if path.is_dir())]
    run(*uv, "pip", "install", "--quiet", "--no-deps", "--python", python, *distributions, cwd=place)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def test_both_are_found_configured_and_called_in_order(python, tmp_path):
    (tmp_path / "loopnest.toml").write_text(TOML)
    told = json.loads(run(python, "-P" if sys.version_info >= (3, 11) else "-B", "-c", DRIVE, cwd=tmp_path))
    assert Path(told.pop("loopnest")).is_relative_to(python.parents[1])
    assert told == {
        "order": ["redact", "in-memory"],
        "status": "running",
        "texts": ["the key is sk-[redacted], keep it"],
        "reason": "image-missing",
        "docker": False,
    }


def test_the_strategy_conforms_with_nothing_but_its_own_test_file(python, tmp_path):
    shutil.copy(EXAMPLES / "in-memory-loops" / "test_in_memory_loops.py", tmp_path)
    report = tmp_path / "report.json"
    options = ["-p", "no:cacheprovider", "-p", "loopnest.testing.report", f"--loopnest-report={report}"]
    assert " passed" in run(python, "-m", "pytest", "-q", *options, tmp_path, cwd=tmp_path)
    (suite,) = json.loads(report.read_text())["suites"]
    assert suite["conforms"]
    assert (suite["strategy"], suite["distribution"]) == ("in_memory_loops.InMemoryStrategy", "in-memory-loops 0.1.0")


def test_they_are_as_small_as_the_readme_says():
    strategy = (EXAMPLES / "in-memory-loops" / "in_memory_loops.py").read_text().splitlines()
    assert len(strategy) < 100


ECHO_TOML = """
[loopnest]
strategy = "process"
state_dir = "state"

[loopnest.process]
dialect = "echo"
"""
DRIVE_ECHO = """
import asyncio, json
from loopnest import Conversation, LoopManager, Message, StartLoop
from loopnest_nested.client import new_http_client, server_of
from loopnest_nested.dialects import get_dialect

async def main():
    async with LoopManager.from_config() as loops:
        first = Conversation(initial_message=Message(text="one"))
        loop = await loops.start_loop(StartLoop(conversation_id="c1", conversation=first), "alice")
        await loops.send_event("c1", Message(text="two"), "alice")
        closed = await loops.close_session("c1", "alice")
        delivery = await loops.send_event("c1", Message(text="three"), "alice")
        again = await loops.get_loop("c1", "alice")
        async with new_http_client() as http:
            events = [event async for event in get_dialect("echo").events(server_of(again, http), "c1", follow=False)]
        await loops.close_session("c1", "alice", remove=True)
    print(json.dumps({
        "dialect": loop.dialect,
        "graceful": closed.graceful,
        "response": delivery.response,
        "texts": [event["text"] for event in events],
    }))

asyncio.run(main())
"""


def test_a_dialect_drives_its_server_by_configuration_alone(python, tmp_path):
    (tmp_path / "loopnest.toml").write_text(ECHO_TOML)
    driven = json.loads(run(python, "-B", "-c", DRIVE_ECHO, cwd=tmp_path))
    assert driven == {
        "dialect": "echo",
        "graceful": True,
        "response": {"echo": "three"},
        "texts": ["one", "two", "three"],
    }


def test_a_dialect_without_a_dockerfile_asks_for_an_image(python, tmp_path):
    program = """
import asyncio
from loopnest import ConfigurationError
from loopnest_docker.engine import Engine
from loopnest_docker.image import ImageStore
from loopnest_docker.settings import DockerSettings

settings = DockerSettings(dialect="echo")
try:
    asyncio.run(ImageStore(Engine(settings.engine), settings).build())
except ConfigurationError as error:
    print(error.message)
"""
    message = run(python, "-B", "-c", program, cwd=tmp_path)
    assert message.startswith("The dialect 'echo' brings no Dockerfile. Set 'loopnest.docker.image' to an image")


@pytest.mark.parametrize("file", ["hide-demos/hide_demos.py"])
def test_the_guide_quotes_an_example_word_by_word(file):
    guide = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    name = Path(file).name
    assert f"```python\n# {name}\n{(EXAMPLES / file).read_text(encoding='utf-8')}```" in guide


ROUTE_TOML = """
[loopnest]
strategy = "in-memory"
overrides = ["hide-demos", "route-customer"]
state_dir = "state"

[loopnest.route-customer]
customer = "acme"
"""
DRIVE_ROUTE = """
import asyncio, json
from loopnest import EVERYONE, LoopManager, LoopQuery, Message, StartLoop

async def main():
    async with LoopManager.from_config() as loops:
        acme = await loops.start_loop(StartLoop(conversation_id="c1", tags={"customer": "acme"}), "alice")
        ours = await loops.start_loop(StartLoop(conversation_id="c2"), "alice")
        await loops.start_loop(StartLoop(conversation_id="demo-1"), "alice")
        hello = Message(text="hello")
        sent = [(await loops.send_event(name, hello, "alice")).response for name in ("c1", "c2", "demo-1")]
        listed = sorted(loop.conversation_id for loop in await loops.list_loops(LoopQuery(user_id="alice")))
        closed = await loops.close_session("c1", EVERYONE)
        again = await loops.send_event("c1", hello, "alice")
    print(json.dumps([acme.strategy, ours.strategy, sent, listed, closed.already, again.response]))

asyncio.run(main())
"""


def test_overrides_hide_and_route_loops_by_configuration_alone(python, tmp_path):
    (tmp_path / "loopnest.toml").write_text(ROUTE_TOML)
    assert json.loads(run(python, "-B", "-c", DRIVE_ROUTE, cwd=tmp_path)) == [
        "acme",
        "in-memory",
        ["acme has it", None, None],
        ["c1", "c2"],
        False,
        "acme has it",
    ]
