"""What had a conversation goes by its owner, the operator or retention only; containers get back what they need."""

from __future__ import annotations

import asyncio
import signal
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from loopnest import (
    EVERYONE,
    LoopFailed,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    Message,
    Reason,
    StartLoop,
    hookimpl,
)
from loopnest.models import utcnow
from loopnest_docker import engine as engine_module
from loopnest_docker import naming
from loopnest_docker.contents import has_entries
from loopnest_docker.engine import Engine
from loopnest_docker.settings import Engine as EngineSettings

ALL = LoopQuery(user_id=EVERYONE)
HOST = Path(__file__).with_name("host_process.py")
STORE = "/workspace/.openhands/conversations"
#: A host that believes every start to be over after half a second.
HASTY = {"start_timeout": 0.5, "sweep_interval": 0.2}


def request(mode: str = "normal") -> StartLoop:
    return StartLoop(conversation_id="c1", environment={"STANDIN": mode})


@pytest.fixture
def run_in(engine, containers):
    """Run a shell command in the one loop's container, as the agent or as another user."""

    async def run(command: str, user: str = "") -> str:
        created = engine.exec_create(containers()[0]["Id"], ["sh", "-c", command], user=user)
        output: bytes = await asyncio.to_thread(engine.exec_start, created["Id"])
        assert engine.exec_inspect(created["Id"])["ExitCode"] == 0, output
        return output.decode()

    return run


@pytest.fixture
async def damaged(open_manager, run_in):
    """A manager with a stopped loop, whose nested server can't read its conversation any more."""
    manager = await open_manager()
    await manager.start_loop(request())
    await run_in(f"echo work >/workspace/work; mv {STORE}/*.jsonl {STORE}/truncated")
    await manager.close_session("c1")
    return manager


async def test_a_lost_history_fails_the_start_and_keeps_the_workspace(damaged, containers, engine):
    with pytest.raises(LoopFailed) as caught:
        await damaged.start_loop(request())
    assert caught.value.reason == Reason.HISTORY_LOST
    assert f"docker cp {containers()[0]['Names'][0].lstrip('/')}:" in caught.value.message
    [loop] = await damaged.list_loops(ALL)
    assert (loop.status, loop.reason) == (LoopStatus.FAILED, Reason.HISTORY_LOST)
    [container] = containers()
    assert container["State"] == "exited"
    assert b"".join(engine.get_archive(container["Id"], "/workspace/work")[0])


async def test_an_event_does_not_begin_a_lost_history_anew(damaged):
    with pytest.raises(LoopFailed) as caught:
        await damaged.send_event("c1", Message(text="hello"))
    assert caught.value.reason == Reason.HISTORY_LOST


async def test_an_interrupted_restart_never_costs_the_workspace(
    damaged, settings, standin, open_manager, containers, engine
):
    arguments = [settings.namespace, str(settings.state_dir), standin, "slow", "c1"]
    host = await asyncio.create_subprocess_exec(sys.executable, str(HOST), *arguments)
    while containers()[0]["State"] != "running":
        await asyncio.sleep(0.05)
    host.send_signal(signal.SIGKILL)
    await host.wait()
    await damaged.aclose()
    manager = await open_manager(**HASTY)
    async with manager.watch() as changes:
        change = await asyncio.wait_for(anext(changes), 30)
    assert (change.status, change.loop.reason) == (LoopStatus.FAILED, Reason.HISTORY_LOST)
    [container] = containers()
    assert container["State"] == "exited"
    assert b"".join(engine.get_archive(container["Id"], "/workspace/work")[0])


async def test_an_interrupted_first_start_with_files_is_stopped_and_kept(
    settings, standin, open_manager, containers, run_in
):
    arguments = [settings.namespace, str(settings.state_dir), standin, "never", "c1"]
    host = await asyncio.create_subprocess_exec(sys.executable, str(HOST), *arguments)
    while not containers() or containers()[0]["State"] != "running":
        await asyncio.sleep(0.05)
    host.send_signal(signal.SIGKILL)
    await host.wait()
    await run_in("mkdir -p /workspace/project; echo cloned >/workspace/project/README")
    manager = await open_manager(**HASTY)
    async with manager.watch() as changes:
        change = await asyncio.wait_for(anext(changes), 30)
    assert (change.status, change.loop.reason) == (LoopStatus.FAILED, Reason.INTERRUPTED)
    assert containers()[0]["State"] == "exited"
    assert (await manager.start_loop(request())).status is LoopStatus.RUNNING


async def test_a_start_that_fails_after_the_creation_keeps_the_conversation(open_manager, containers):
    manager = await open_manager(start_timeout=3)
    with pytest.raises(LoopFailed) as caught:
        await manager.start_loop(request("mute"))
    assert caught.value.reason == Reason.START_TIMEOUT
    assert containers()[0]["State"] == "exited"
    assert (await manager.start_loop(request())).status is LoopStatus.RUNNING


async def test_a_claim_counts_as_new_however_old_the_container_is(open_manager, engine, namespace):
    manager = await open_manager(pool={"size": 1}, environment={"STANDIN": "hesitant"})
    token = {"label": [f"{naming.NAMESPACE}={namespace}", f"{naming.ROLE}=token"]}
    while not engine.containers(all=True, filters=token):
        await asyncio.sleep(0.05)
    await asyncio.sleep(7)  # the age of the slot is the point: more than the other host's limit for a start
    await open_manager(pool={"size": 1}, environment={"STANDIN": "hesitant"}, **HASTY)
    loop = await manager.start_loop(StartLoop(conversation_id="c1"))
    assert (loop.origin, loop.status) == ("warm", LoopStatus.RUNNING)


async def test_a_claim_never_takes_a_conversation_from_its_owner(open_manager, engine, namespace, containers):
    """A slot is older than a container that was created while the slot waited."""

    class Wait:
        def __init__(self):
            self.reached, self.go_on = asyncio.Event(), asyncio.Event()

        @hookimpl
        async def configure_container(self, request, spec):
            if request.conversation_id == "c1":
                self.reached.set()
                await self.go_on.wait()

    wait = Wait()
    late = await open_manager(wait, pool={"size": 1})
    token = {"label": [f"{naming.NAMESPACE}={namespace}", f"{naming.ROLE}=token"]}
    while not engine.containers(all=True, filters=token):
        await asyncio.sleep(0.05)
    bob = asyncio.ensure_future(late.start_loop(StartLoop(conversation_id="c1"), "bob"))
    await wait.reached.wait()
    early = await open_manager(memory="1GiB")  # so the slot is of no use to it
    await early.start_loop(StartLoop(conversation_id="c1"), "alice")
    wait.go_on.set()
    with pytest.raises(LoopNotFound):
        await bob
    assert len(containers()) == 1
    assert (await early.get_loop("c1", "alice")).status is LoopStatus.RUNNING


async def test_of_two_users_who_claim_one_id_at_once_exactly_one_gets_it(open_manager, engine, namespace, containers):
    hosts = [await open_manager(pool={"size": 4}) for _ in range(2)]
    tokens = {"label": [f"{naming.NAMESPACE}={namespace}", f"{naming.ROLE}=token"]}
    for number in range(5):
        while len(engine.containers(all=True, filters=tokens)) < 4:
            await asyncio.sleep(0.05)
        users = zip(hosts, ("alice", "bob"), strict=True)
        starts = [host.start_loop(StartLoop(conversation_id=f"c{number}"), user) for host, user in users]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Loop", "LoopNotFound"], outcomes
    assert len(containers()) == 5


async def test_a_host_whose_clock_is_ahead_removes_nothing(open_manager, containers, monkeypatch):
    def ahead():
        return utcnow() + timedelta(hours=2)

    monkeypatch.setattr(engine_module, "utcnow", ahead)
    manager = await open_manager(retention=3600, sweep_interval=0.1, pool={"size": 1})
    await manager.start_loop(request())
    await manager.close_session("c1")
    await asyncio.sleep(1)  # some sweeps, which must do nothing
    assert len(containers()) == 1


async def test_retention_counts_from_the_end_by_the_engine_s_clock(open_manager, containers, monkeypatch):
    monkeypatch.setattr(engine_module, "utcnow", lambda: utcnow() - timedelta(hours=2))
    manager = await open_manager(retention=1, sweep_interval=0.1)
    await manager.start_loop(request())
    async with manager.watch() as changes:
        await manager.close_session("c1")
        async with asyncio.timeout(20):
            while (await anext(changes)).phase != "removed":
                pass
    assert containers() == []


async def test_now_is_the_engine_s_clock_once_it_answered(engine, monkeypatch):
    monkeypatch.setattr(engine_module, "utcnow", lambda: utcnow() + timedelta(hours=2))
    asked = Engine(EngineSettings())
    assert asked.now() - utcnow() > timedelta(hours=1)
    await asked.call("version")
    assert abs(asked.now() - utcnow()) < timedelta(seconds=5)
    await asked.aclose()


async def test_a_loop_whose_network_was_removed_starts_again(open_manager, engine, namespace):
    manager = await open_manager()
    await manager.start_loop(request())
    await manager.close_session("c1")
    engine.remove_network(naming.network_name(namespace))
    assert (await manager.start_loop(request())).status is LoopStatus.RUNNING
    await manager.close_session("c1")
    engine.remove_network(naming.network_name(namespace))
    await manager.aclose()
    await (await open_manager()).send_event("c1", Message(text="hello"))


async def test_the_pool_is_filled_again_after_its_network_was_removed(open_manager, engine, namespace):
    await open_manager(pool={"size": 1})
    token = {"label": [f"{naming.NAMESPACE}={namespace}", f"{naming.ROLE}=token"]}
    while not engine.containers(all=True, filters=token):
        await asyncio.sleep(0.05)
    [slot] = engine.containers(all=True, filters={"label": f"{naming.ROLE}=slot", "name": namespace})
    engine.kill(slot["Id"])
    engine.remove_network(naming.network_name(namespace))
    engine.remove_container(slot["Id"], force=True)
    async with asyncio.timeout(60):
        while not engine.containers(all=True, filters=token):
            await asyncio.sleep(0.05)


async def test_a_mount_whose_directory_is_gone_is_reported_by_name(open_manager, tmp_path):
    workspace = tmp_path / "workspaces" / "c1"
    mounts = [{"source": f"{tmp_path}/workspaces/{{conversation_id}}", "target": "/workspace/project"}]
    manager = await open_manager(mounts=mounts)
    await manager.start_loop(request())
    (workspace / "work").write_text("work")
    await manager.close_session("c1")
    aside = workspace.rename(tmp_path / "aside")
    with pytest.raises(LoopFailed, match=str(workspace)) as caught:
        await manager.start_loop(request())
    assert caught.value.reason == Reason.MOUNT_MISSING
    assert not workspace.exists()
    aside.rename(workspace)
    assert (await manager.start_loop(request())).status is LoopStatus.RUNNING
    assert (workspace / "work").read_text() == "work"


async def test_entries_of_a_directory_are_found_running_and_stopped(open_manager, containers, run_in):
    manager = await open_manager()
    await manager.start_loop(request())
    await run_in(
        "mkdir /empty /full && head -c 50000000 /dev/zero >/full/file && mkdir -p /deep/$(printf %0200d 1)", "0"
    )
    container, asked = containers()[0]["Id"], Engine(EngineSettings())

    async def found() -> list[bool]:
        return [await has_entries(asked, container, path) for path in ("/empty", "/full", "/deep", "/none")]

    assert await found() == [False, True, True, False]
    await manager.close_session("c1")
    assert await found() == [False, True, True, False]
    await asked.aclose()


def test_a_stopped_loop_survives_a_prune_with_the_documented_filter(loopnest):
    run, engine = loopnest
    assert "no stopped loops that 'docker system prune' would remove" in run("doctor")
    run("start", "c1")
    run("close", "c1")
    advice = "--filter 'label!=dev.loopnest.namespace'"
    assert advice in " ".join(run("doctor").split())
    done = engine.run("sh", "-c", f"docker system prune --force {advice}")
    assert done.returncode == 0, done.stderr
    assert "c1" in run("list")
    engine.docker("network", "prune", "--force")
    run("start", "c1")
    assert "running" in run("list")


def test_a_prune_without_the_filter_removes_stopped_loops(loopnest):
    """What the documents warn of: where this fails, the warning is out of date."""
    run, engine = loopnest
    run("start", "c1")
    run("close", "c1")
    engine.docker("system", "prune", "--force")
    assert "c1" not in run("list")
