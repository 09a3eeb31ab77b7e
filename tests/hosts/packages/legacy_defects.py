"""What upstream's nested manager gets wrong by itself: users, limits, ids, requests, failures, listings."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from types import SimpleNamespace
from unittest import mock

from fastapi import HTTPException
from legacy_bench import Bench, check, init, longest_stall, metadata, seconds, upstream_conversation
from openhands.events.action import MessageAction
from openhands.integrations.provider import CustomSecret
from openhands.runtime.impl.docker import docker_runtime
from pydantic import SecretStr

from loopnest_openhands.legacy import users


@check("one user sees nothing of another's")
class _Users:
    async def upstream(bench: Bench) -> bool:
        bench.container("a1")
        return not await bench.upstream.get_agent_loop_info(user_id="bob")

    async def ours(bench: Bench) -> bool:
        await bench.start("a1", "alice")
        by_name = await bench.ours.get_agent_loop_info(user_id="bob")
        users.note("bob")
        unnamed = await bench.ours.get_agent_loop_info(filter_to_sids={"a1"})
        await bench.ours.close_session("a1")
        users.note("alice")
        return not by_name and not unnamed and await bench.ours.is_agent_loop_running("a1")


@check("the limit counts each user's own, and closes the one idle longest")
class _Limit:
    async def upstream(bench: Bench) -> bool:
        for sid in ("b1", "b2"):
            bench.container(sid)
            bench.files.write(f"sessions/{sid}/metadata.json", metadata(sid))
        await bench.upstream.ensure_num_conversations_below_limit("mine", "alice")
        return set(bench.engine.states.values()) == {"running"}

    async def ours(bench: Bench) -> bool:
        await bench.start("b1", "bob")
        for sid, hour in (("m1", 9), ("m2", 8)):
            await bench.start(sid, "alice")
            event = {"id": 0, "timestamp": f"2026-01-01T{hour:02}:00:00", "source": "user", "action": "message"}
            path = f"users/alice/conversations/{sid}/events/0.json"
            bench.files.write(path, json.dumps({**event, "args": {"content": "x"}, "message": "x"}))
        await bench.start("m3", "alice")
        running = await bench.ours.get_running_agent_loops()
        told = [to for to, data in bench.sio.emitted if data.get("id") == "AGENT_ERROR$TOO_MANY_CONVERSATIONS"]
        return running == {"b1", "m1", "m3"} and told == ["room:m2"]


@check("ids that are paths, empty or options are refused")
class _Ids:
    async def upstream(bench: Bench) -> bool:
        bench.container("../other")
        await bench.upstream.close_session("../other")
        return bench.engine.states["../other"] == "running"

    async def ours(bench: Bench) -> bool:
        refused = 0
        for sid in ("../other", "", "-x"):
            try:
                await bench.ours.maybe_start_agent_loop(sid, init(), None)
            except HTTPException as error:
                refused += error.status_code == 400
        return refused == 3 and not bench.strategy.requests


@check("images and instructions reach the nested server")
class _Message:
    async def upstream(bench: Bench) -> bool:
        await upstream_conversation(bench, init(conversation_instructions="be kind"))
        body = dict(bench.stub.told)["/api/conversations"]
        return body["image_urls"] == ["data:x"] and body.get("conversation_instructions") == "be kind"

    async def ours(bench: Bench) -> bool:
        message = MessageAction(content="look", image_urls=["data:x"])
        await bench.ours.maybe_start_agent_loop("m", init(conversation_instructions="be kind"), None, message)
        await asyncio.sleep(0.05)
        [request] = bench.strategy.requests
        return (
            request.conversation.initial_message.image_urls == ("data:x",)
            and request.conversation.instructions == "be kind"
        )


@check("settings with secrets do not break a start")
class _Secrets:
    async def upstream(bench: Bench) -> bool:
        with contextlib.suppress(TypeError):  # it can't be put into JSON
            await upstream_conversation(bench, init(sandbox_api_key=SecretStr("hidden")))
            return True
        return False

    async def ours(bench: Bench) -> bool:
        secrets = {"TOKEN": CustomSecret(secret=SecretStr("t"), description="d")}
        await bench.start("s", sandbox_api_key=SecretStr("hidden"), custom_secrets=secrets)
        [request] = bench.strategy.requests
        json.dumps(dict(request.conversation.settings))
        value = request.conversation.secrets["TOKEN"].value.get_secret_value()
        return (
            request.conversation.settings["sandbox_api_key"] == "hidden"
            and value == "t"
            and "hidden" not in repr(request)
        )


@check("the event store carries the session key")
class _Store:
    async def upstream(bench: Bench) -> bool:
        bench.container("e")
        [info] = await bench.upstream.get_agent_loop_info()
        return bool(info.event_store.session_api_key)

    async def ours(bench: Bench) -> bool:
        await bench.start("e")
        [info] = await bench.ours.get_agent_loop_info()
        return info.event_store.session_api_key == info.session_api_key == "key of e"


@check("a start that failed is listed as failed")
class _Failure:
    async def upstream(bench: Bench) -> bool:
        bench.container("f")
        manager = bench.upstream
        runtime = SimpleNamespace(wait_until_alive=mock.Mock(side_effect=RuntimeError("never")), api_url="")
        starting = asyncio.ensure_future(manager._start_conversation("f", init(), runtime, None, None, ""))
        await asyncio.wait({starting})
        starting.exception()
        [info] = await manager.get_agent_loop_info()
        return bool(info.status.value == "ERROR")

    async def ours(bench: Bench) -> bool:
        await bench.start("f", message="fail")
        [info] = await bench.ours.get_agent_loop_info()
        return bool(info.status.value == "ERROR")


@check("the engine's slowness does not stall the host")
class _Stall:
    async def upstream(bench: Bench) -> bool:
        slow = mock.patch.object(bench.engine, "containers", side_effect=lambda **_: time.sleep(0.3) or [])
        with slow:
            return await longest_stall(bench.upstream.get_running_agent_loops()) < 0.15

    async def ours(bench: Bench) -> bool:
        await bench.start("q")
        slow = mock.patch.object(bench.engine, "containers", side_effect=lambda **_: time.sleep(0.3) or [])
        with slow:
            return await longest_stall(bench.ours.get_agent_loop_info()) < 0.15


@check("nested servers that hang delay a listing by one short limit in all")
class _Hung:
    async def upstream(bench: Bench) -> bool:
        bench.stub.hung = True
        for sid in ("h1", "h2"):
            bench.container(sid)
        return await seconds(bench.upstream.get_agent_loop_info()) < 3

    async def ours(bench: Bench) -> bool:
        for sid in ("h1", "h2"):
            await bench.start(sid)
        bench.strategy.stub.hung = True
        return await seconds(bench.ours.get_agent_loop_info()) < 3


@check("the host's end leaves the loops running")
class _End:
    async def upstream(bench: Bench) -> bool:
        refused = mock.patch.object(docker_runtime.DockerRuntime, "_init_docker_client", side_effect=RuntimeError)
        with mock.patch.object(docker_runtime, "stop_all_containers") as stop, refused:
            with mock.patch.object(docker_runtime, "add_shutdown_listener") as add, contextlib.suppress(RuntimeError):
                docker_runtime.DockerRuntime(bench.config, None, None)
            add.call_args.args[0]()  # as the host does when it ends
        return not stop.called

    async def ours(bench: Bench) -> bool:
        await bench.start("z")
        await bench.ours.__aexit__(None, None, None)
        return bench.strategy.loops["z"].status.value == "running"


@check("a start that the host's death interrupted is taken up with its first message")
class _Interrupted:
    async def upstream(bench: Bench) -> bool:
        bench.container("i")  # it boots, and nobody remembers what for
        await bench.upstream.maybe_start_agent_loop("i", init(), None)
        return "/api/conversations" in dict(bench.stub.told)

    async def ours(bench: Bench) -> bool:
        pending = {"message": {"text": "first", "image_urls": []}}
        await bench.ours._host.keep_pending("i", None, pending)  # as the host that died had
        await bench.ours.maybe_start_agent_loop("i", init(), None)
        await asyncio.sleep(0.2)
        [request] = bench.strategy.requests
        return request.conversation.initial_message.text == "first" and not await bench.ours._host.pending("i", None)


@check("nothing is unsupported")
class _Supported:
    async def upstream(bench: Bench) -> bool:
        try:
            await bench.upstream.attach_to_conversation("u")
        except ValueError:
            return False
        return True

    async def ours(bench: Bench) -> bool:
        await bench.start("u", "alice")
        mine = await bench.ours.attach_to_conversation("u", "alice")
        theirs = await bench.ours.attach_to_conversation("u", "bob")
        return mine.sid == "u" and mine.runtime.vscode_url is None and theirs is None
