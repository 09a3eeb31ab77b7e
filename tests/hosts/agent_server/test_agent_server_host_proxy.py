"""Requests go to nested servers as streams, with the nested key, and nobody else's."""

from __future__ import annotations

import asyncio
import gzip
import json
import resource
from collections.abc import AsyncIterator

import httpx
import pytest

from .conftest import CHUNK, KEY

ONE = "8f1d6c1e-5a0b-4c55-9d0e-3c8f2f1a7b10"
PATH = f"/api/conversations/{ONE}"
#: 128 MB in pieces of 64 kB.
MANY = 2048


@pytest.fixture
async def host(host):
    await host.create(ONE)
    return host


def peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def test_method_query_body_and_headers_arrive_as_they_were_sent(host):
    answer = await host.client.patch(f"{PATH}/a%2Fb/c?x=1&y=%20", content=b"{}", headers={"x-mine": "yes"})
    told = answer.json()
    assert (told["method"], told["query"], told["body"]) == ("PATCH", "x=1&y=%20", "{}")
    assert told["headers"]["x-mine"] == "yes"
    assert answer.headers.get_list("x-archive-twice") == ["1", "2"]


async def test_no_key_of_the_outer_server_reaches_a_nested_one(host):
    headers = {"authorization": "Bearer outer-key", "cookie": "oh_workspace_session_key=outer-key"}
    answer = await host.client.get(f"{PATH}/echo?session_api_key=outer-key&x=1", headers=headers)
    assert answer.json()["headers"]["x-session-api-key"] == f"nested-{ONE}"
    assert answer.json()["query"] == "x=1"
    assert "outer-key" not in answer.text


@pytest.mark.parametrize("header", ["x-api-key", "referer", "x-custom", "authorization"])
async def test_no_header_carries_the_outer_key_to_a_nested_server(host, header):
    value = f"https://host/?session_api_key={KEY}" if header == "referer" else f"Bearer {KEY}"
    answer = await host.client.get(f"{PATH}/echo?token={KEY}&x=1", headers={header: value})
    assert answer.json()["query"] == "x=1"
    assert KEY not in answer.text


HOSTILE = {
    "set-cookie": "a=b",
    "access-control-allow-origin": "https://evil.example",
    "clear-site-data": '"*"',
    "refresh": "0; url=https://evil.example",
    "link": "<https://evil.example>; rel=preload",
    "strict-transport-security": "max-age=1",
    "www-authenticate": "Basic",
}


async def test_a_nested_server_decides_nothing_for_the_hosts_origin(host):
    with_these = {"x-answer-with": json.dumps([*HOSTILE.items(), ["content-disposition", "attachment"]])}
    answer = await host.client.get(f"{PATH}/echo", headers=with_these)
    assert answer.is_success
    assert HOSTILE.keys().isdisjoint(answer.headers)
    assert answer.headers["content-disposition"] == "attachment"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_a_nested_server_is_refused(host, status):
    headers = {"x-status": str(status), "x-answer-with": json.dumps([["location", "https://evil.example/"]])}
    answer = await host.client.get(f"{PATH}/echo", headers=headers)
    assert (answer.status_code, "location" in answer.headers) == (502, False)
    assert "redirect" in answer.json()["detail"]


async def test_an_answer_that_nothing_changed_is_passed_on(host):
    assert (await host.client.get(f"{PATH}/echo", headers={"x-status": "304"})).status_code == 304


@pytest.mark.parametrize("dots", ["..", "%2e%2e", "%2E.", "."])
async def test_paths_with_dot_segments_reach_no_route(host, dots):
    """As behind the cookie of a workspace, which opens nothing else."""
    url = httpx.URL(host.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)  # as clients resolve dot segments themselves
    head = (
        f"GET {PATH}/workspace/{dots}/{dots}/echo HTTP/1.1\r\nHost: x\r\nCookie: oh_workspace_session_key={KEY}\r\n\r\n"
    )
    writer.write(head.encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()


async def test_a_site_can_not_create_a_conversation_from_a_visitors_browser(open_host):
    """Browsers send such bodies across sites without asking first."""
    host = await open_host(session_api_keys=[])
    body = json.dumps({"conversation_id": ONE})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers = {"content-type": kind} if kind else {}
        answer = await host.client.post("/api/conversations", content=body, headers=headers)
        assert answer.status_code == 422, kind
        assert "application/json" in answer.json()["detail"]
    assert (await host.client.get("/api/conversations/count")).json() == 0


@pytest.mark.parametrize(
    "body",
    [b'{"a": ' * 100_000, b"[" * 200_000, b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"a": "\xff"}', b"[]", b"null", b""],
    ids=["deep object", "deep list", "NaN", "surrogate", "no UTF-8", "list", "null", "empty"],
)
async def test_a_body_that_is_no_json_object_is_refused(host, body):
    answer = await host.client.post("/api/conversations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["reason"] == "invalid-request"


@pytest.mark.parametrize("limit", ["²", "0", "101", "-1", "\u0661", "9" * 5000])
async def test_a_limit_that_is_none_is_refused(host, limit):
    answer = await host.client.get("/api/conversations/search", params={"limit": limit})
    assert answer.status_code == 422


async def test_a_body_without_a_length_is_passed_on_in_chunks(host):
    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        yield b"b"

    assert (await host.client.post(f"{PATH}/echo", content=body())).json()["body"] == "ab"


async def test_large_bodies_take_constant_memory_in_both_directions(host):
    async def body() -> AsyncIterator[bytes]:
        for _ in range(MANY):
            yield CHUNK

    await host.client.get(f"{PATH}/download", params={"chunks": 64})
    before = peak_kilobytes()
    sent = await host.client.post(f"{PATH}/upload", content=body())
    assert sent.json() == {"size": MANY * len(CHUNK)}
    received = 0
    async with host.client.stream("GET", f"{PATH}/download", params={"chunks": MANY}) as answer:
        async for chunk in answer.aiter_raw():
            received += len(chunk)
    assert received == MANY * len(CHUNK)
    assert peak_kilobytes() - before < 32 * 1024


async def test_a_slow_reader_holds_the_nested_server_back_instead_of_filling_memory(host):
    async with host.client.stream("GET", f"{PATH}/download", params={"chunks": MANY}) as answer:
        chunks = answer.aiter_raw()
        await anext(chunks)
        seen = -1
        while seen != host.nested.sent_chunks:  # until nothing moves any more
            seen = host.nested.sent_chunks
            await asyncio.sleep(0.2)
        assert seen < MANY / 2
        await chunks.aclose()


async def test_a_client_that_goes_away_ends_the_nested_servers_work(host):
    async with host.client.stream("GET", f"{PATH}/download", params={"chunks": 10 * MANY}) as answer:
        chunks = answer.aiter_raw()
        await anext(chunks)
        await chunks.aclose()
    seen = -1
    while seen != host.nested.sent_chunks:
        seen = host.nested.sent_chunks
        await asyncio.sleep(0.2)
    assert seen < 10 * MANY


async def test_an_encoding_that_the_client_did_not_ask_for_is_not_asked_for(host):
    host.client.headers.pop("accept-encoding")
    assert (await host.client.get(f"{PATH}/echo")).json()["headers"]["accept-encoding"] == "identity"
    told = await host.client.get(f"{PATH}/echo", headers={"accept-encoding": "gzip"})
    assert told.json()["headers"]["accept-encoding"] == "gzip"
    assert gzip.compress(b"")  # what the nested server answers is passed on undecoded


async def test_a_hundred_requests_cost_one_listing_each_and_nothing_of_the_engine(host):
    started = len(host.strategy.starts)
    answers = await asyncio.gather(*(host.client.get(f"{PATH}/echo") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(host.strategy.starts) == started


async def test_a_nested_server_that_is_gone_is_told_as_such(host):
    host.strategy.loops[ONE] = host.strategy.loops[ONE].model_copy(update={"url": "http://127.0.0.1:1"})
    answer = await host.client.post(f"{PATH}/run")
    assert (answer.status_code, answer.json()["reason"]) == (502, "nested-unreachable")


async def test_a_request_meets_a_loop_that_is_just_being_replaced(host):
    good = host.strategy.loops[ONE]
    host.strategy.loops[ONE] = good.model_copy(update={"url": "http://127.0.0.1:1"})
    asking = asyncio.ensure_future(host.client.post(f"{PATH}/echo", content=b"once"))
    await asyncio.sleep(0.1)
    host.strategy.loops[ONE] = good
    assert (await asking).json()["body"] == "once"


@pytest.mark.parametrize(
    "headers", [{}, {"x-session-api-key": "wrong"}, {"cookie": "oh_workspace_session_key=outer-key"}]
)
@pytest.mark.parametrize("path", ["/api/conversations/search", PATH, f"{PATH}/events/count"])
async def test_without_the_outer_key_nothing_is_answered(host, headers, path):
    async with httpx.AsyncClient(base_url=host.url, headers=headers) as stranger:
        answer = await stranger.get(path)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Unauthorized"})


async def test_the_workspace_cookie_opens_files_of_the_workspace_only(host):
    cookie = {"cookie": "oh_workspace_session_key=outer-key"}
    async with httpx.AsyncClient(base_url=host.url, headers=cookie) as browser:
        assert (await browser.get(f"{PATH}/workspace/index.html")).status_code == 200
        assert (await browser.post(f"{PATH}/workspace/index.html")).status_code == 401


async def test_a_server_without_keys_asks_for_none(open_host):
    open_to_all = await open_host(session_api_keys=[])
    async with httpx.AsyncClient(base_url=open_to_all.url) as anybody:
        assert (await anybody.get("/api/conversations/count")).json() == 0
