"""The event stream over each way to reach an engine, and its end at every moment.

The engine is one of the test's own that speaks just as much HTTP; tests/e2e/test_docker_leaks.py has the real one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from loopnest_docker.engine import Engine
from loopnest_docker.events import EngineEvent, EventStream
from loopnest_docker.settings import Engine as EngineSettings

#: Of 127.0.0.1, signed by itself, valid from 2020 to 2120.
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgSqQS1kTkSDDmH2/L
FeQzY86AV82PW51etxtHC6B1H3qhRANCAATu9eJoTPb2yNv00I8Fu3UpppQcyfF6
4u/CtJe6YLmWRCxJBgAkLvP8tR7f4BjGNWp2TGG9/HvCaE7IYquva4fq
-----END PRIVATE KEY-----
"""
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBhjCCAS2gAwIBAgIBATAKBggqhkjOPQQDAjARMQ8wDQYDVQQDDAZlbmdpbmUw
IBcNMjAwMTAxMDAwMDAwWhgPMjEyMDAxMDEwMDAwMDBaMBExDzANBgNVBAMMBmVu
Z2luZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABO714mhM9vbI2/TQjwW7dSmm
lBzJ8Xri78K0l7pguZZELEkGACQu8/y1Ht/gGMY1anZMYb38e8JoTshiq69rh+qj
dDByMA8GA1UdEQQIMAaHBH8AAAEwDwYDVR0TAQH/BAUwAwEB/zAdBgNVHQ4EFgQU
7RThYjBnCJeUp3hT19j69+VTaKQwHwYDVR0jBBgwFoAU7RThYjBnCJeUp3hT19j6
9+VTaKQwDgYDVR0PAQH/BAQDAgGGMAoGCCqGSM49BAMCA0cAMEQCIEmJMAwkM3WU
DrUVHsZJF5V77u6Q8E4SkwlQ8D0WbiG6AiBtsiKB1Ki8rEuPIgE3cXjkwK9ekfdu
MSoIOhuViHrrWA==
-----END CERTIFICATE-----
"""


def event(action: str, **attributes: str) -> bytes:
    body = {"Type": "container", "Action": action, "Actor": {"ID": "id", "Attributes": attributes}}
    return json.dumps(body, ensure_ascii=False).encode() + b"\n"


class FakeEngine:
    """Answers ``/version``, and streams what is put into ``events``; None ends the stream.

    Attributes:
        hang_at: the path that is never answered.
        requests: the paths and the filters that were asked for.
        connected: how many connections are open.
    """

    def __init__(self) -> None:
        self.events: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.hang_at: str | None = None
        self.requests: list[str] = []
        self.connected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        answering = None
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split()[1].decode()
                self.requests.append(path)
                if self.hang_at is None or self.hang_at not in path:
                    answering = asyncio.ensure_future(self.answer(path, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.connected -= 1
            if answering:
                answering.cancel()
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> None:
        if path.startswith("/version"):
            body = b'{"ApiVersion": "1.41"}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            return
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (data := await self.events.get()) is not None:
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        writer.write(b"0\r\n\r\n")


Serve = Callable[[str], Any]


@pytest.fixture
def fake() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def serve(fake, tmp_path, monkeypatch) -> Serve:
    """Serve the fake engine over ``unix``, ``tcp`` or ``tls``, and give its URL."""
    for name in ("DOCKER_HOST", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
        monkeypatch.delenv(name, raising=False)

    @contextlib.asynccontextmanager
    async def serving(kind: str) -> AsyncIterator[str]:
        if kind == "unix":
            server = await asyncio.start_unix_server(fake.serve, tmp_path / "engine.sock")
            url = f"unix://{tmp_path}/engine.sock"
        else:
            server = await asyncio.start_server(
                fake.serve, "127.0.0.1", 0, ssl=tls(tmp_path) if kind == "tls" else None
            )
            url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        if kind == "tls":
            monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
            monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
        try:
            yield url
        finally:
            server.close()

    return serving


def tls(directory: Path) -> ssl.SSLContext:
    """The server side, and the files of a client that trusts it and is trusted."""
    for name, text in {"key.pem": KEY, "cert.pem": CERTIFICATE, "ca.pem": CERTIFICATE}.items():
        (directory / name).write_text(text)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    context.load_verify_locations(directory / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


class Heard:
    """A stream, and what it called."""

    def __init__(self, url: str) -> None:
        self.events: asyncio.Queue[EngineEvent] = asyncio.Queue()
        self.gaps = 0
        self.engine = Engine(EngineSettings(url=url, timeout=5))
        self.stream = EventStream(self.engine, "a=b", self.events.put_nowait, self.gap)

    def gap(self) -> None:
        self.gaps += 1

    async def until_alive(self) -> None:
        await until(lambda: self.stream.alive)

    async def next(self) -> EngineEvent:
        return await asyncio.wait_for(self.events.get(), 10)


async def until(true: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not true():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 10)


@contextlib.asynccontextmanager
async def listening(url: str) -> AsyncIterator[Heard]:
    heard = Heard(url)
    heard.stream.open()
    try:
        yield heard
    finally:
        await heard.stream.aclose()
        await heard.engine.aclose()


@pytest.mark.parametrize("kind", ["unix", "tcp", "tls"])
async def test_events_come_over_each_kind_of_connection(serve, fake, kind):
    async with serve(kind) as url, listening(url) as heard:
        await heard.until_alive()
        fake.events.put_nowait(event("die", exitCode="137"))
        received = await heard.next()
        assert (received.container_id, received.action, received.exit_code) == ("id", "die", 137)
        assert fake.requests[0] == "/version"
        assert fake.requests[1].startswith("/v1.41/events?filters=")


async def test_proxies_are_not_for_the_engine(serve, fake, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serve("tcp") as url, listening(url) as heard:
        await heard.until_alive()
        assert (await heard.engine.call("version", api_version=False))["ApiVersion"] == "1.41"


async def test_a_certificate_that_is_not_trusted_is_refused(serve, fake, monkeypatch, caplog):
    caplog.set_level("DEBUG", "loopnest_docker")
    async with serve("tls") as url:
        for name in ("DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"):
            monkeypatch.setenv(name, "")
        async with listening(url.replace("tcp://", "https://")) as heard:
            await until(lambda: "ConnectError" in caplog.text)
            assert (heard.stream.alive, fake.requests) == (False, [])


async def test_events_may_be_cut_anywhere_and_contain_any_character(serve, fake):
    data = event("start", note="\u0085\u2028\x0c") + event("stop")
    async with serve("unix") as url, listening(url) as heard:
        await heard.until_alive()
        for part in (data[:10], data[10:75], data[75:]):
            fake.events.put_nowait(part)
        assert (await heard.next()).attributes == {"note": "\u0085\u2028\x0c"}
        assert (await heard.next()).action == "stop"


async def test_a_stream_that_ends_is_opened_again_after_a_gap(serve, fake):
    async with serve("unix") as url, listening(url) as heard:
        await heard.until_alive()
        assert heard.gaps == 1
        fake.events.put_nowait(None)
        fake.events.put_nowait(event("start"))
        await heard.next()
        assert (heard.gaps, heard.stream.alive) == (3, True)


async def test_an_outage_is_reported_once(serve, fake, tmp_path, caplog):
    def reports() -> list[str]:
        return [one.message for one in caplog.records if one.levelname == "WARNING"]

    caplog.set_level("DEBUG", "loopnest_docker")
    async with listening(f"unix://{tmp_path}/engine.sock") as heard:
        await until(lambda: heard.gaps >= 3)
        assert len(reports()) == 1
        assert "each listing asks the engine" in reports()[0]
        async with serve("unix"):
            await heard.until_alive()
        (tmp_path / "engine.sock").unlink(missing_ok=True)
        fake.events.put_nowait(None)
        await until(lambda: heard.gaps >= 7)
        assert len(reports()) == 2


async def test_a_stream_is_opened_again_though_its_replacement_was_cancelled(serve):
    async with serve("unix") as url, listening(url) as heard:
        await heard.until_alive()
        replacing = asyncio.ensure_future(heard.stream.reopen())
        await asyncio.sleep(0)
        replacing.cancel()
        await asyncio.wait({replacing})
        await heard.until_alive()


async def test_what_is_no_event_ends_the_stream_and_is_logged(serve, fake, caplog):
    async with serve("unix") as url, listening(url) as heard:
        await heard.until_alive()
        fake.events.put_nowait(b"nonsense\n")
        await until(lambda: "could not be read" in caplog.text)
        await heard.until_alive()


async def test_a_stream_is_replaced_on_demand(serve, fake):
    async with serve("unix") as url, listening(url) as heard:
        await heard.until_alive()
        await heard.stream.reopen()
        assert not heard.stream.alive
        await heard.until_alive()
        await until(lambda: fake.connected == 1)
        fake.events.put_nowait(event("start"))
        assert (await heard.next()).action == "start"


@pytest.mark.parametrize("hang_at", ["/version", "/events", None])
async def test_closing_ends_the_connection_wherever_it_waits(serve, fake, hang_at):
    fake.hang_at = hang_at
    async with serve("unix") as url:
        async with listening(url):
            await until(lambda: any((hang_at or "/events") in path for path in fake.requests))
        await until(lambda: not fake.connected)
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "loopnest-events"]


async def test_an_engine_over_ssh_has_no_stream():
    async with listening("ssh://nowhere") as heard:
        await asyncio.sleep(0.05)
        assert not heard.stream.alive
