"""Where the nested server comes from, and what is said where it comes from nowhere."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import textwrap
from pathlib import Path

import pytest

from loopnest import LoopFailed, Reason
from loopnest_process import server_python
from loopnest_process.doctor import examine
from loopnest_process.hooks import ProcessStrategy
from loopnest_process.server_python import ServerPython
from loopnest_process.settings import ProcessSettings

SITE = str(Path(__file__).parent / "site")


@pytest.fixture
def find(tmp_path):
    return lambda **settings: ServerPython(ProcessSettings(cache_dir=tmp_path / "cache", **settings))


@pytest.fixture
def no_uv(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")


@pytest.fixture
def fake_uv(no_uv, monkeypatch, tmp_path):
    """A ``uv`` on PATH that makes environments of nothing, and notes what it was asked for."""

    def install(fails_at="nothing"):
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "uv"
        program.write_text(
            textwrap.dedent(f"""\
            #!/bin/sh
            echo "$@" >>{tmp_path}/asked
            [ "$1" = {fails_at} ] && echo "no such release" && exit 2
            for directory; do :; done
            [ "$1" = pip ] || /bin/mkdir -p "$directory/bin"
            exit 0
        """)
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        return tmp_path / "asked"

    return install


def nothing(phase, message):
    pytest.fail("told of an installation")


async def test_the_named_interpreter_is_taken(find):
    found = await find(python=sys.executable, environment={"PYTHONPATH": SITE}).ensure(nothing)
    assert found == Path(sys.executable)


@pytest.mark.parametrize("named", [sys.executable, "/nowhere/python"])
async def test_a_named_interpreter_without_the_server_is_refused(find, named):
    with pytest.raises(LoopFailed, match=r"does not have the module 'openhands\.agent_server'") as caught:
        await find(python=named).ensure(nothing)
    assert caught.value.reason == Reason.SERVER_MISSING
    assert "set 'python' in [loopnest.process]" in str(caught.value)


async def test_the_host_s_own_interpreter_is_taken_where_it_has_the_server(find):
    found = await find(environment={"PYTHONPATH": SITE}).ensure(nothing)
    assert found == Path(sys.executable)


@pytest.mark.usefixtures("no_uv")
async def test_without_an_interpreter_and_without_uv_the_message_says_what_to_do(find):
    with pytest.raises(
        LoopFailed, match=r"there is no 'uv' to make one with\. Install openhands-agent-server"
    ) as caught:
        await find().ensure(nothing)
    assert caught.value.reason == Reason.SERVER_MISSING


async def test_an_environment_is_made_once_and_kept(find, fake_uv, tmp_path):
    asked, told = fake_uv(), []
    one, other = find(version="1.2.3"), find(version="1.2.3")
    found = await asyncio.gather(*(python.ensure(lambda *news: told.append(news)) for python in (one, other, one)))
    assert set(found) == {tmp_path / "cache" / "agent-server-1.2.3" / "bin" / "python"}
    assert [phase for phase, _ in told] == ["installing-server"]
    make, install = asked.read_text().splitlines()
    assert make.startswith("venv ")
    assert install.endswith("openhands-agent-server==1.2.3 openhands-sdk==1.2.3 openhands-tools==1.2.3")
    assert await find(version="1.2.3").find() == found[0]


@pytest.mark.parametrize("step", ["venv", "pip"])
async def test_an_environment_that_can_t_be_made_is_explained_and_tried_again(find, fake_uv, step):
    asked, python = fake_uv(fails_at=step), find()
    for _ in range(2):
        with pytest.raises(LoopFailed, match=f"'uv {step}' failed") as caught:
            await python.ensure(lambda *_: None)
        assert caught.value.log_tail == ("no such release",)
    assert [line.split()[0] for line in asked.read_text().splitlines()].count("venv") == 2


async def test_a_dialect_without_distributions_needs_a_named_interpreter(find):
    with pytest.raises(LoopFailed, match="set 'python'"):
        await find(dialect="openhands-v0").ensure(nothing)
    assert await find(dialect="openhands-v0", python=sys.executable).ensure(nothing) == Path(sys.executable)


async def test_an_installation_ends_with_who_waits_for_it(find, fake_uv, monkeypatch):
    asked = fake_uv()
    entered = asyncio.Event()

    async def hangs(*command, **options):
        entered.set()
        await asyncio.Event().wait()

    python = find()
    await python.find()
    monkeypatch.setattr(server_python, "_run", hangs)
    waiting = asyncio.ensure_future(python.ensure(lambda *_: None))
    await entered.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not asked.exists()


async def test_the_doctor_warns_that_nothing_is_isolated(find):
    isolation, server = await examine(find(python=sys.executable, environment={"PYTHONPATH": SITE}))
    assert (isolation.level, isolation.check) == ("warning", "isolation")
    assert "strategy = 'docker'" in isolation.advice
    assert server.level == "ok"


@pytest.mark.usefixtures("no_uv")
async def test_the_doctor_says_what_is_missing(find):
    assert (await examine(find()))[1].level == "error"
    assert (await examine(find(python="/nowhere/python")))[1].level == "error"


async def test_the_doctor_tells_of_the_coming_installation(find, fake_uv):
    fake_uv()
    assert (await examine(find()))[1].message == "It will be installed at the first start."


async def test_the_strategy_is_examined_before_it_is_opened():
    strategy = ProcessStrategy(ProcessSettings(python=sys.executable, environment={"PYTHONPATH": SITE}))
    assert [finding.check for finding in await strategy.diagnose()] == ["isolation", "nested server"]
