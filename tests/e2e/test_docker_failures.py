"""Every failure has a reason of its own, says why, and leaves nothing behind."""

from __future__ import annotations

import asyncio

import pytest

from loopnest import EVERYONE, EngineError, LoopFailed, LoopNotFound, LoopQuery, LoopStatus, Message, StartLoop

from ..sockets import leaves_sockets
from .engine_proxy import engine_proxy

MINE = LoopQuery(user_id=EVERYONE)


def request(mode: str = "normal", **more: object) -> StartLoop:
    return StartLoop(conversation_id="c1", environment={"STANDIN": mode}, **more)


async def failure(manager, start: StartLoop) -> LoopFailed:
    with pytest.raises(LoopFailed) as caught:
        await manager.start_loop(start)
    return caught.value


async def test_a_nested_server_that_exits_early_is_explained_and_removed(open_manager, containers):
    manager = await open_manager()
    error = await failure(manager, request("exit"))
    assert (error.reason, error.exit_code) == ("exited-early", 3)
    assert any("refusing to boot" in line for line in error.log_tail)
    assert containers() == []
    [loop] = await manager.list_loops(MINE)
    assert (loop.status, loop.reason, loop.exit_code) == (LoopStatus.FAILED, "exited-early", 3)
    assert loop.log_tail == error.log_tail


@leaves_sockets
@pytest.mark.parametrize("refused", [("DELETE", "/containers/"), ("GET", "/archive?")], ids=str)
async def test_a_failed_start_keeps_its_reason_where_the_engine_refuses_to_clean_up(
    open_manager, containers, tmp_path, caplog, refused
):
    with engine_proxy(tmp_path) as proxy:
        manager = await open_manager(engine={"url": proxy.url})
        proxy.refused = refused
        error = await failure(manager, request("exit"))
        assert (error.reason, error.exit_code) == ("exited-early", 3)
        assert [container["State"] for container in containers()] == ["exited"]
        if refused[0] == "DELETE":
            assert "driver failed" in caplog.text


async def test_quoted_log_lines_do_not_contain_the_session_key(open_manager):
    manager = await open_manager()
    error = await failure(manager, request("exit"))
    [line] = [line for line in error.log_tail if "session key" in line]
    assert line.endswith("session key **********")


async def test_a_nested_server_that_eats_its_memory_is_reported_as_oom_killed(open_manager, containers):
    manager = await open_manager(memory="64MiB")
    error = await failure(manager, request("hog"))
    assert error.reason == "oom-killed"
    assert "'memory'" in error.message
    assert containers() == []


async def test_a_nested_server_that_is_never_ready_runs_into_the_start_timeout(open_manager, containers):
    manager = await open_manager(start_timeout=2)
    error = await failure(manager, request("never"))
    assert error.reason == "start-timeout"
    assert "start_timeout" in error.message
    assert any("booting" in line for line in error.log_tail)
    assert containers() == []


async def test_a_nested_server_that_refuses_the_conversation_says_what_it_refused(open_manager, containers):
    manager = await open_manager()
    error = await failure(manager, request("refuse"))
    assert error.reason == "nested-refused"
    assert "no agent" in error.message
    assert containers() == []


async def test_an_image_that_is_missing_is_named_with_what_to_do(open_manager):
    manager = await open_manager(image="loopnest-test/none:1", pull_policy="never")
    error = await failure(manager, request())
    assert error.reason == "image-missing"
    assert "loopnest image build" in error.message


async def test_an_image_that_can_not_be_pulled_has_its_own_reason(open_manager):
    manager = await open_manager(image="127.0.0.1:1/none:1", image_source="pull")
    error = await failure(manager, request())
    assert error.reason == "image-pull-failed"


async def test_a_runtime_the_engine_does_not_have_is_reported(open_manager, containers):
    manager = await open_manager(runtime="nonesuch")
    with pytest.raises(EngineError, match="nonesuch"):
        await manager.start_loop(request())
    assert containers() == []


async def test_a_failed_container_can_be_kept_for_inspection(open_manager, containers):
    manager = await open_manager(keep_failed=True)
    await failure(manager, request("exit"))
    [container] = containers()
    assert container["State"] == "exited"


async def test_a_nested_server_that_is_killed_is_told_to_everybody_and_can_be_closed(open_manager, engine, containers):
    manager = await open_manager()
    await manager.start_loop(request())
    async with manager.watch() as changes:
        engine.kill(containers()[0]["Id"])
        change = await asyncio.wait_for(anext(changes), 10)
    assert (change.status, change.loop.reason, change.loop.exit_code) == (LoopStatus.FAILED, "killed", 137)
    [loop] = await manager.list_loops(MINE)
    assert (loop.status, loop.reason) == (LoopStatus.FAILED, "killed")
    assert (await manager.close_session("c1")).already
    await manager.start_loop(request())
    [loop] = await manager.list_loops(MINE)
    assert loop.status is LoopStatus.RUNNING


async def test_a_loop_that_runs_out_of_memory_while_it_runs_is_told_as_oom_killed(open_manager, engine, containers):
    manager = await open_manager(memory="64MiB")
    await manager.start_loop(request())
    hog = "python3 -c 'x = []\nwhile True: x.append(bytearray(1 << 24))'"
    async with manager.watch() as changes:
        # As the init process's own memory is what counts, the nested server itself is made to grow.
        container = containers()[0]["Id"]
        run = engine.exec_create(container, ["sh", "-c", f"kill -9 1 & {hog}"])
        await asyncio.to_thread(engine.exec_start, run["Id"])
        engine.kill(container)
        change = await asyncio.wait_for(anext(changes), 10)
    assert change.loop.reason == "oom-killed"


async def test_closing_a_server_that_is_deaf_to_signals_ends_within_its_limit(open_manager, containers):
    manager = await open_manager(close_timeout=1)
    await manager.start_loop(request("deaf"))
    closed = await asyncio.wait_for(manager.close_session("c1", remove=True), 15)
    assert not closed.graceful
    assert closed.exit_code == 137
    assert containers() == []


async def test_events_start_a_stopped_loop_again(open_manager):
    manager = await open_manager()
    await manager.start_loop(request())
    await manager.close_session("c1")
    await manager.send_event("c1", Message(text="hello"))
    [loop] = await manager.list_loops(MINE)
    assert loop.status is LoopStatus.RUNNING


async def test_a_container_that_was_removed_from_outside_is_not_found(open_manager, engine, containers):
    manager = await open_manager()
    await manager.start_loop(request())
    async with manager.watch() as changes:
        engine.remove_container(containers()[0]["Id"], force=True)
        assert (await asyncio.wait_for(anext(changes), 10)).phase == "removed"
    assert await manager.list_loops(MINE) == []
    with pytest.raises(LoopNotFound):
        await manager.send_event("c1", Message(text="hello"))
    assert (await manager.start_loop(request())).status is LoopStatus.RUNNING


@leaves_sockets
async def test_an_engine_that_is_down_is_reported_as_unreachable(open_manager, tmp_path):
    manager = await open_manager(engine={"url": f"unix://{tmp_path}/none.sock"})
    with pytest.raises(EngineError, match="loopnest doctor") as caught:
        await manager.start_loop(request())
    assert caught.value.reason == "engine-unreachable"


@leaves_sockets
async def test_an_engine_that_hangs_is_reported_as_such(open_manager, hanging_engine):
    manager = await open_manager(engine={"url": hanging_engine.url, "timeout": 1})
    with pytest.raises(EngineError) as caught:
        await manager.list_loops(MINE)
    assert caught.value.reason == "engine-timeout"
    assert "engine.timeout" in caught.value.message
