"""Logs are read from their end, and followed to it."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from pydantic import SecretStr

from loopnest_process.child import Run
from loopnest_process.logs import last_lines, read

from ..processes import kill_processes_of


@pytest.fixture
def run(tmp_path):
    yield Run(tmp_path, "run-1")
    kill_processes_of(tmp_path)


async def lines(run, **options):
    return [line async for line in read(run, **{"tail": 100, "follow": False} | options)]


@pytest.mark.parametrize(
    ("tail", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (3, ["a", "b", "c"]), (9, ["a", "b", "c"])]
)
@pytest.mark.parametrize("end", ["", "\n"])
async def test_the_last_lines_are_given(run, tail, expected, end):
    run.log.write_text("a\nb\nc" + end)
    assert await lines(run, tail=tail) == expected
    assert last_lines(run.log, tail) == expected


async def test_long_logs_are_read_from_their_end(run):
    run.log.write_text("".join(f"line {number} {'x' * 100}\n" for number in range(10_000)))
    given = await lines(run, tail=2000)
    assert len(given) == 2000
    assert (given[0].split()[1], given[-1].split()[1]) == ("8000", "9999")


async def test_what_is_no_text_is_given_as_well_as_it_can_be(run):
    run.log.write_bytes(b"\xff\xfe\r\n")
    assert await lines(run) == ["\ufffd\ufffd"]


async def test_there_may_be_no_log(run):
    assert await lines(run) == []
    assert last_lines(run.log, 5) == []


def test_secrets_are_masked_and_lines_are_cut(run):
    run.log.write_text("the key is sk-12345\n" + "x" * 1000)
    masked, long = last_lines(run.log, 5, [SecretStr("sk-12345")])
    assert masked == "the key is **********"
    assert len(long) == 500


async def test_a_log_is_followed_until_the_run_ends(run, tmp_path):
    source = "import sys\nfor line in open(0): print(line, end='', flush=True)"
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    run.spawn(["sh", "-c", f'"{sys.executable}" -c "{source}" < fifo'], {"PATH": os.environ["PATH"]}, str(tmp_path))
    reading = read(run, tail=10, follow=True)
    with fifo.open("w", buffering=1) as pipe:
        pipe.write("one\n")
        assert await asyncio.wait_for(anext(reading), 10) == "one"
        pipe.write("two\nlast without an end")
        assert await asyncio.wait_for(anext(reading), 10) == "two"
    assert [line async for line in reading] == ["last without an end"]


async def test_a_line_without_an_end_is_read_in_bounded_memory(run):
    with run.log.open("wb") as file:
        file.write(b"first\n")
        file.seek(500 * 1024 * 1024)  # a hole, which takes no disk
        file.write(b"\nlast\n")
    given = await lines(run, tail=1)
    assert given == ["last"]
    [hole, last] = await lines(run, tail=2)
    assert (len(hole), last) == (64 * 1024, "last")
