"""What upstream's nested manager gets wrong with its containers: ours beside the same containers, or its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from types import SimpleNamespace
from typing import Any
from unittest import mock

from docker.errors import APIError, NotFound
from legacy_bench import Bench, check, init, new_container, open_descriptors, until
from openhands.runtime.impl.docker import docker_runtime

from loopnest import StartLoop


@check("an event and a stop reach the nested server's conversation, not a path that does not exist")
class _Paths:
    async def upstream(bench: Bench) -> bool:
        bench.container("e")
        await bench.upstream.send_event_to_conversation("e", {"action": "message", "args": {"content": "x"}})
        await bench.upstream.close_session("e")
        return _told(bench) == ["/api/conversations/e/events", "/api/conversations/e/stop"]

    async def ours(bench: Bench) -> bool:
        bench.container("e")
        await bench.ours.send_event_to_conversation("e", {"action": "message", "args": {"content": "x"}})
        await bench.ours.close_session("e")
        return _told(bench) == ["/api/conversations/e/events", "/api/conversations/e/stop"]


@check("a container that a failed start left is started")
class _Created:
    async def upstream(bench: Bench) -> bool:
        bench.container("c", "created")
        with _no_new_container(bench):
            await bench.upstream.maybe_start_agent_loop("c", init(), None)
        return bench.engine.started == ["c"]

    async def ours(bench: Bench) -> bool:
        bench.container("c", "created")
        await bench.ours.maybe_start_agent_loop("c", init(), None)
        return await until(lambda: bench.engine.started == ["c"])


@check("a conversation that was stopped starts again, and not only its container")
class _Resumed:
    async def upstream(bench: Bench) -> bool:
        bench.container("c", "exited")
        bench.stub.status = "STOPPED"
        with _no_new_container(bench):
            await bench.upstream.maybe_start_agent_loop("c", init(), None)
            await asyncio.sleep(0.2)
        return "/api/conversations/c/start" in _told(bench)

    async def ours(bench: Bench) -> bool:
        bench.container("c", "exited")
        bench.stub.status = "STOPPED"
        await bench.ours.maybe_start_agent_loop("c", init(), None)
        return await until(lambda: "/api/conversations/c/start" in _told(bench))


@check("a listing outlives containers that go away meanwhile")
class _Vanishing:
    async def upstream(bench: Bench) -> bool:
        bench.container("here")
        bench.container("gone")
        bench.engine.vanished.add("gone")
        with contextlib.suppress(NotFound):
            return await bench.upstream.get_running_agent_loops() == {"here"}
        return False

    async def ours(bench: Bench) -> bool:
        bench.container("here")
        bench.container("gone")
        bench.engine.vanished.add("gone")
        return await bench.ours.get_running_agent_loops() == {"here"}


@check("a container of somebody else's breaks no listing")
class _Foreign:
    async def upstream(bench: Bench) -> bool:
        bench.container("theirs")
        bench.engine.foreign.add("theirs")
        with contextlib.suppress(StopIteration, RuntimeError):  # a coroutine turns the one into the other
            return not await bench.upstream.get_agent_loop_info()
        return False

    async def ours(bench: Bench) -> bool:
        bench.container("theirs")
        bench.engine.foreign.add("theirs")
        return not await bench.ours.get_agent_loop_info()


@check("of two starts at once none undoes the other")
class _Race:
    async def upstream(bench: Bench) -> bool:
        conflict = APIError("Conflict", response=SimpleNamespace(status_code=409))
        with (
            _runtimes(bench, run=[SimpleNamespace(), conflict]),
            mock.patch.object(docker_runtime, "stop_all_containers") as stop,
        ):
            runtimes = [await bench.upstream._create_runtime("r", None, init()) for _ in "12"]
            runtimes[0].init_container()
            with contextlib.suppress(APIError):
                runtimes[1].init_container()
        return not stop.called

    async def ours(bench: Bench) -> bool:
        starts = (bench.ours.maybe_start_agent_loop("r", init(), None) for _ in range(10))
        told = await asyncio.gather(*starts)
        running = await until(lambda: bench.strategy.loops["r"].status.value == "running")
        return running and not bench.strategy.closed and {it.conversation_id for it in told} == {"r"}


@check("neither session key nor startup variables are in a container's configuration")
class _Inspected:
    async def upstream(bench: Bench) -> bool:
        bench.config.sandbox.runtime_startup_env_vars = {"PASSWORD": "hidden"}
        environment = (await _asked_of_engine(bench, "k"))["environment"]
        return "SESSION_API_KEY" not in environment and "hidden" not in environment.values()

    async def ours(bench: Bench) -> bool:
        bench.config.sandbox.runtime_startup_env_vars = {"PASSWORD": "hidden"}
        await bench.start("k")
        [request] = bench.strategy.requests
        spec = new_container(request)
        await bench.plugin.configure_container(request, spec)
        return request.environment["PASSWORD"].get_secret_value() == "hidden" and "hidden" not in f"{request} {spec}"


@check("with a user too, the nested server writes into the conversation's directory of the host")
class _Mounted:
    async def upstream(bench: Bench) -> bool:
        volumes = (await _asked_of_engine(bench, "m", "alice"))["volumes"]
        targets = {source: volume["bind"] for source, volume in volumes.items()}
        source = f"{bench.config.file_store_path}/users/alice/conversations/m/"
        return targets.get(source, "").rstrip("/") == "/root/.openhands/sessions/m"

    async def ours(bench: Bench) -> bool:
        request = StartLoop(conversation_id="m")
        spec = new_container(request)
        bench.ours._host.users["m"] = "alice"
        await bench.plugin.configure_container(request, spec)
        source = f"{bench.config.file_store_path}/users/alice/conversations/m"
        return spec.binds == [f"{source}:/w/.openhands/sessions/m:rw"]


@check("starts leave no threads and no descriptors behind")
class _Leaks:
    async def upstream(bench: Bench) -> bool:
        manager = bench.upstream
        with _runtimes(bench, run=[]):
            await manager._create_runtime("l", None, init())
            before = threading.active_count(), open_descriptors()
            for number in range(5):
                await manager._create_runtime(f"l{number}", None, init())
            return before == (threading.active_count(), open_descriptors())

    async def ours(bench: Bench) -> bool:
        await asyncio.gather(
            *(asyncio.to_thread(time.sleep, 0.05) for _ in range(40))
        )  # as many threads as there may be
        for number in range(2):
            await bench.start(f"w{number}", f"w{number}")
        before = threading.active_count(), open_descriptors()
        for number in range(10):
            await bench.start(f"l{number}", f"l{number}")
        return await until(lambda: (threading.active_count(), open_descriptors()) <= before, 3)


def _told(bench: Bench) -> list[str]:
    return [path for path, _ in bench.stub.told]


def _no_new_container(bench: Bench) -> Any:
    """Let upstream's runtime have its container, and do nothing."""

    async def create(self: Any, sid: str, *rest: Any) -> Any:
        names = {"container_name": f"openhands-runtime-{sid}", "runtime_container_image": "image", "api_url": ""}
        return SimpleNamespace(maybe_build_runtime_container_image=lambda: None, init_container=lambda: None, **names)

    return mock.patch.object(type(bench.upstream), "_create_runtime", create)


@contextlib.contextmanager
def _runtimes(bench: Bench, run: list[Any]) -> Any:
    """Let upstream make its real runtimes over an engine whose ``run`` answers so, one after the other."""
    bench.config.sandbox.runtime_container_image = "image"
    client = mock.Mock()
    client.version.return_value = {"Version": "20.10", "Components": []}
    client.containers.list.return_value = []
    client.containers.run.side_effect = run
    with (
        mock.patch.object(docker_runtime.DockerRuntime, "_init_docker_client", return_value=client),
        mock.patch.object(docker_runtime, "add_shutdown_listener"),
    ):
        yield client


async def _asked_of_engine(bench: Bench, sid: str, user: str | None = None) -> dict[str, Any]:
    """The arguments by which upstream makes a container."""
    with _runtimes(bench, run=[SimpleNamespace()]) as client:
        runtime = await bench.upstream._create_runtime(sid, user, init())
        runtime.init_container()
    arguments: dict[str, Any] = client.containers.run.call_args.kwargs
    return arguments
