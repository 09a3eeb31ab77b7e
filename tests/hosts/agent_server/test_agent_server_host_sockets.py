"""Both WebSockets of a conversation, through the outer server."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from loopnest_openhands.agent_server.socket_proxy import NO_PROXY

ONE = str(uuid.uuid4())
AUTH = json.dumps({"type": "auth", "session_api_key": "outer-key"})


@pytest.fixture
async def host(host):
    await host.create(ONE)
    return host


def socket(host: Any, path: str = f"/sockets/session/{ONE}", **options: Any) -> Any:
    return connect(host.url.replace("http", "ws") + path, max_size=None, compression=None, **NO_PROXY, **options)


async def close_code(connection: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed):
        while True:
            await connection.recv()
    return connection.protocol.close_code


@pytest.mark.parametrize("kind", ["events", "session"])
async def test_frames_go_both_ways_and_the_query_arrives(host, kind):
    async with socket(host, f"/sockets/{kind}/{ONE}?after_seq=7&session_api_key=outer-key") as one:
        told = json.loads(await one.recv())
        assert told["path"].endswith(f"/sockets/{kind}/{ONE}")
        assert told["query"] == "after_seq=7"
        await one.send("hello")
        assert await one.recv() == "echo hello"


async def test_the_first_frame_may_show_the_key_and_is_not_passed_on(host):
    async with socket(host) as one:
        await one.send(AUTH)
        await one.recv()
        await one.send(AUTH)
        await one.send("hello")
        assert await one.recv() == "echo hello"
    assert host.nested.frames == ["hello"]


async def test_a_header_may_show_the_key(host):
    async with socket(host, additional_headers={"x-session-api-key": "outer-key"}) as one:
        assert await one.recv()


@pytest.mark.parametrize(
    "frame",
    [
        *("{", "[]", '{"type": "auth"}', '{"type": "auth", "session_api_key": "wrong"}'),
        *('{"type": "auth", "session_api_key": "\\ud800"}', "[" * 200_000, '{"session_api_key":' * 100_000),
    ],
    ids=["cut", "list", "no key", "wrong key", "surrogate", "deep list", "deep object"],
)
async def test_a_socket_without_the_key_is_closed_for_good(host, frame):
    async with socket(host) as one:
        await one.send(frame)
        assert await close_code(one) == 4001


async def test_a_wrong_key_in_the_handshake_is_refused(host):
    with pytest.raises(InvalidStatus):
        async with socket(host, additional_headers={"x-session-api-key": "wrong"}):
            pass


async def test_an_unknown_conversation_closes_for_good(host):
    async with socket(host, f"/sockets/events/{uuid.uuid4()}") as one:
        await one.send(AUTH)
        assert await close_code(one) == 4004


async def test_what_the_nested_server_says_at_the_end_is_passed_on(host):
    async with socket(host) as one:
        await one.send(AUTH)
        await one.send("bye")
        assert await close_code(one) == 4004
        assert one.protocol.close_reason == "Conversation not found"


async def test_a_loop_that_can_not_be_reached_is_to_be_tried_again(host):
    host.strategy.loops[ONE] = host.strategy.loops[ONE].model_copy(update={"url": "http://127.0.0.1:1"})
    async with socket(host) as one:
        await one.send(AUTH)
        assert await close_code(one) == 1013


async def test_a_client_that_reads_slowly_holds_the_nested_server_back(host):
    async with socket(host, max_queue=1) as one:
        await one.send(AUTH)
        await one.recv()
        await one.send("flood 4096")
        seen = -1
        while seen != host.nested.sent_chunks:
            seen = host.nested.sent_chunks
            await asyncio.sleep(0.3)
        assert 0 < seen < 2048, seen
        for _ in range(4096):
            await one.recv()
        assert await one.recv() == "echo flood 4096"


async def test_a_stopped_loop_is_started_by_a_socket(host):
    host.strategy.loops[ONE] = host.strategy.stopped(ONE)
    async with socket(host) as one:
        await one.send(AUTH)
        assert await one.recv()
    assert len(host.strategy.starts) == 2
