from __future__ import annotations

import asyncio
import contextlib
import gzip
import json

import httpx
import pytest
from pydantic import SecretStr

from loopnest import NestedError, Reason
from loopnest_nested.client import NestedServer, new_http_client


async def test_requests_carry_the_session_key_and_give_json(fake, answer):
    fake.on("POST /api/x", answer(200, {"a": 1}))
    assert await fake.server.request("POST", "/api/x", json={"b": 2}) == {"a": 1}
    assert fake.requests[0].headers["X-Session-API-Key"] == "session-key"
    assert json.loads(fake.requests[0].content) == {"b": 2}


async def test_answers_that_are_not_json_are_given_as_text(fake):
    fake.on("GET /x", httpx.Response(200, text="hello"))
    assert await fake.server.request("GET", "/x") == "hello"


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", b"{"),
        ("application/json", b"[" * 200_000),
        ("application/json", b"\xff\xfe\xfd"),
        ("text/plain; charset=idna", b"\xff..x"),
    ],
    ids=["cut", "deep", "no UTF-8", "odd charset"],
)
async def test_an_answer_that_can_not_be_decoded_is_malformed(fake, kind, content):
    fake.on("GET /x", httpx.Response(200, headers={"content-type": kind}, content=content))
    with pytest.raises(NestedError, match="answer to GET /x can't be read") as caught:
        await fake.server.request("GET", "/x")
    assert caught.value.reason == Reason.NESTED_MALFORMED


@pytest.fixture
async def listener():
    """Answers each request with the headers and the pieces that the test gives; counts the bytes that were taken."""
    answers, sent = {}, []

    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + answers["headers"] + b"Connection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for piece in answers["pieces"]:
                writer.write(piece)
                sent.append(len(piece))
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, new_http_client(1024 * 1024) as http:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield NestedServer(url, SecretStr("k"), http), answers, sent


async def test_an_answer_that_is_too_long_is_malformed_and_not_read_on(listener):
    server, answers, sent = listener
    answers |= {"headers": b"", "pieces": (b"x" * 65536 for _ in range(4000))}
    with pytest.raises(NestedError, match="longer than 1048576 bytes") as caught:
        await server.request("GET", "/x")
    assert caught.value.reason == Reason.NESTED_MALFORMED
    assert sum(sent) < 64 * 1024 * 1024


async def test_a_compressed_answer_is_malformed_and_never_unpacked(listener):
    server, answers, _ = listener
    bomb = gzip.compress(b"\0" * 100 * 1024 * 1024)
    answers |= {"headers": b"Content-Encoding: gzip\r\n", "pieces": [bomb]}
    with pytest.raises(NestedError, match="encoded as 'gzip'") as caught:
        await server.request("GET", "/x")
    assert caught.value.reason == Reason.NESTED_MALFORMED


async def test_a_long_answer_within_the_limit_is_read(listener):
    server, answers, _ = listener
    answers |= {"headers": b"", "pieces": [b"x" * 1024] * 1024}
    assert len(await server.request("GET", "/x")) == 1024 * 1024


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "Unauthorized"}, "401: Unauthorized"),
        ({"detail": "Internal Server Error", "exception": "no disk"}, "401: Internal Server Error: no disk"),
        (
            {"detail": [{"loc": ["body", "agent", "llm"], "msg": "Field required", "input": "quoted-input"}]},
            "401: agent.llm: Field required",
        ),
        ({"detail": [{"loc": ["body"], "msg": "bad"}, {"loc": ["query", "n"], "msg": "big"}]}, "bad; query.n: big"),
        ({"detail": {"code": "full"}}, 'code": "full'),
        ({"detail": ["odd"]}, "odd"),
        (["neither"], "neither"),
    ],
)  # fmt: skip
async def test_refusals_say_what_the_server_said_without_the_input_it_quotes(fake, answer, body, words):
    fake.on("GET /x", answer(401, body))
    with pytest.raises(NestedError) as caught:
        await fake.server.request("GET", "/x")
    assert words in caught.value.message
    assert "quoted-input" not in caught.value.message
    assert (caught.value.reason, caught.value.http_status) == (Reason.NESTED_REFUSED, 401)


async def test_long_refusals_are_shortened_after_their_secrets_are_out(fake):
    fake.on("GET /x", httpx.Response(500, text="x" * 490 + "my-secret-value" + "y" * 10_000))
    with pytest.raises(NestedError) as caught:
        await fake.server.hiding([SecretStr("my-secret-value")]).request("GET", "/x")
    assert len(caught.value.message) < 600
    assert "my-" not in caught.value.message


async def test_the_session_key_is_in_no_text(fake):
    fake.on("GET /x", httpx.Response(500, text="your key is session-key"))
    with pytest.raises(NestedError) as caught:
        await fake.server.request("GET", "/x")
    assert "session-key" not in caught.value.message + repr(fake.server)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (httpx.ConnectError("refused"), Reason.NESTED_UNREACHABLE),
        (httpx.RemoteProtocolError("gone"), Reason.NESTED_UNREACHABLE),
        (httpx.ReadTimeout("slow"), Reason.NESTED_TIMEOUT),
    ],
)
async def test_what_goes_wrong_on_the_way_has_a_reason(fake, failure, reason):
    fake.on("GET /x", failure)
    with pytest.raises(NestedError) as caught:
        await fake.server.request("GET", "/x")
    assert caught.value.reason == reason
    assert caught.value.http_status is None


async def test_an_answer_that_trickles_in_for_ever_ends_at_the_limit():
    ended = asyncio.Event()

    async def trickle(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        try:
            while not writer.is_closing():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        finally:
            writer.close()
            ended.set()

    async with await asyncio.start_server(trickle, "127.0.0.1", 0) as listener, new_http_client() as http:
        port = listener.sockets[0].getsockname()[1]
        server = NestedServer(f"http://127.0.0.1:{port}", SecretStr("k"), http)
        with pytest.raises(NestedError) as caught:
            await server.request("GET", "/x", timeout=0.3)
        await ended.wait()
    assert caught.value.reason == Reason.NESTED_TIMEOUT
    assert "within 0.3 s" in caught.value.message
