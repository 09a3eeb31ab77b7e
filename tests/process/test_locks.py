"""Locks between processes, which no crash can leave behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from loopnest_process.locks import FileLocks

HOLDER = """
import asyncio, pathlib, sys
from loopnest_process.locks import FileLocks
async def main():
    async with FileLocks(pathlib.Path(sys.argv[1])).hold("c1"):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def locks(tmp_path):
    return FileLocks(tmp_path / "locks")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock ``c1``."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "locks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


async def test_a_lock_is_held_by_one_at_a_time(locks):
    inside = 0

    async def work(one):
        nonlocal inside
        async with one.hold("c1"):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0.001)
            inside -= 1

    other = FileLocks(locks._directory)  # as another process would have
    await asyncio.gather(*(work(one) for one in (locks, other) for _ in range(20)))


async def test_locks_of_other_names_are_free(locks):
    async with locks.hold("c1"), locks.hold("c2"):
        assert locks.held("c1")
        assert not locks.held("c3")


async def test_nothing_is_left_of_a_lock_that_is_free(locks):
    async with locks.hold("c1"):
        pass
    assert not locks.held("c1")
    assert list(locks._directory.iterdir()) == []


async def test_another_process_is_waited_for(locks, holder):
    assert locks.held("c1")
    waiting = asyncio.ensure_future(locks.hold("c1").__aenter__())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()


async def test_a_lock_dies_with_its_holder(locks, holder):
    holder.kill()
    holder.wait()
    assert not locks.held("c1")
    async with locks.hold("c1"):
        assert locks.held("c1")


async def test_who_looks_is_not_taken_for_a_holder(locks):
    with (locks._directory.parent / "c1.lock").open("w"):  # left by a holder that died
        left = FileLocks(locks._directory.parent)
        with ThreadPoolExecutor(8) as threads:
            assert not any(threads.map(left.held, ["c1"] * 20_000))


async def test_who_waits_can_give_up(locks):
    async with locks.hold("c1"):
        waiting = asyncio.ensure_future(FileLocks(locks._directory).hold("c1").__aenter__())
        await asyncio.sleep(0.02)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not locks.held("c1")
