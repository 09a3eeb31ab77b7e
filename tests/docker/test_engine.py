"""The one door: what the SDK raises leaves as an EngineError, and what a cancelled caller made is not lost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time

import pytest
import requests
from docker.errors import APIError

from loopnest import EngineError
from loopnest_docker import engine as engine_module
from loopnest_docker.engine import Engine, EngineConflict, NotOnEngine, complete, translate
from loopnest_docker.settings import Engine as EngineSettings


def answered(status: int, text: str) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("refused", response=response, explanation=text)


@pytest.mark.parametrize(
    ("status", "text", "kind", "reason"),
    [
        (404, "No such container: x", NotOnEngine, "not-found"),
        (409, "name is already in use", EngineConflict, "engine-refused"),
        (500, "write /var/lib: no space left on device", EngineError, "engine-full"),
        (400, "invalid reference format", EngineError, "engine-refused"),
    ],
)
def test_answers_have_their_reasons(status, text, kind, reason):
    error = translate(answered(status, text))
    assert type(error) is kind
    assert error.reason == reason
    assert text in error.message


async def test_calls_do_not_run_on_the_event_loop_s_thread(monkeypatch):
    engine = Engine(EngineSettings())
    monkeypatch.setattr(engine, "connect", lambda: None)
    assert await engine.run(lambda _: threading.current_thread().name) != threading.main_thread().name
    await engine.aclose()


async def test_what_a_cancelled_caller_made_is_noted():
    made, may_end = [], asyncio.Event()

    async def make() -> str:
        await may_end.wait()
        return "container"

    task = asyncio.ensure_future(complete(make(), made.append))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made == ["container"]


@pytest.fixture
def hanging(tmp_path):
    """Sockets that take connections and never answer, by the kind of their address."""
    with socket.socket(socket.AF_UNIX) as unix, socket.socket() as tcp:
        unix.bind(str(tmp_path / "engine.sock"))
        tcp.bind(("127.0.0.1", 0))
        for listener in (unix, tcp):
            listener.listen()
        yield {"unix": f"unix://{tmp_path}/engine.sock", "tcp": f"tcp://127.0.0.1:{tcp.getsockname()[1]}"}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK leaves sockets behind
@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_closing_ends_calls_that_hang(hanging, monkeypatch, kind):
    monkeypatch.setattr(engine_module, "_QUEUE_MARGIN", 0.2)
    before = set(threading.enumerate())
    engine = Engine(EngineSettings(url=hanging[kind], timeout=60))
    calls = [asyncio.ensure_future(engine.call("version")) for _ in range(3)]
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await engine.aclose()
    assert time.monotonic() - began < 5
    assert [it.name for it in set(threading.enumerate()) - before if it.name.startswith("loopnest")] == []
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} <= {EngineError, asyncio.CancelledError}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ssh://nowhere", "paramiko"),
        ("bogus://x", "bogus"),
        ("tcp://127.0.0.1:1", "can't be reached (ConnectionError)"),
    ],
)
async def test_what_keeps_the_engine_from_being_asked_is_said(url, words):
    engine = Engine(EngineSettings(url=url))
    with pytest.raises(EngineError) as caught:
        await engine.call("version")
    await engine.aclose()
    assert words in caught.value.message
    assert caught.value.reason == "engine-unreachable"


async def test_a_bad_path_of_tls_files_is_said(monkeypatch):
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", "/nowhere")
    engine = Engine(EngineSettings(url="tcp://127.0.0.1:1"))
    with pytest.raises(EngineError, match=r"can't be used \(DOCKER_CERT_PATH=/nowhere\): .*certificate"):
        await engine.call("version")
    await engine.aclose()


@pytest.mark.parametrize("config", [{"credsStore": "desktop"}, {"credHelpers": {"registry.example": "desktop"}}])
def test_a_missing_credential_helper_blocks_nothing(tmp_path, monkeypatch, caplog, config):
    (tmp_path / "config.json").write_text(json.dumps({**config, "auths": {"other.example": {"auth": "YTpi"}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    engine_module._warn_of_missing.cache_clear()
    client = Engine(EngineSettings())._client_for("1.41")
    assert client._auth_configs.get_all_credentials().keys() == {"other.example"}
    assert client._auth_configs.resolve_authconfig("registry.example") is None
    assert "docker-credential-desktop, which is not installed" in caplog.text
    client.close()
