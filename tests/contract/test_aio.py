"""A plugin is waited for, but not for ever."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from loopnest.aio import Overdue, within


async def test_an_answer_in_time_is_given():
    async def answer():
        await asyncio.sleep(0)
        return 42

    assert await within(1, answer()) == 42


async def test_an_error_in_time_is_raised():
    async def fail():
        raise asyncio.TimeoutError

    with pytest.raises(asyncio.TimeoutError):
        await within(1, fail())


async def test_what_is_late_is_cancelled_and_may_clean_up():
    cleaned = []

    async def hang():
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(True)

    with pytest.raises(Overdue):
        await within(0.01, hang())
    assert cleaned == [True]


@pytest.mark.usefixtures("impatient")
async def test_what_ignores_its_cancellation_is_left_behind():
    released = asyncio.Event()

    async def stubborn():
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await released.wait()
        raise LookupError  # nobody is left to hear it

    with pytest.raises(Overdue):
        await within(0.01, stubborn())
    released.set()
    await asyncio.sleep(0.01)


async def test_who_gives_up_cancels_what_he_waits_for():
    entered, cleaned = asyncio.Event(), []

    async def hang():
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    waiting = asyncio.ensure_future(within(60, hang()))
    await entered.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert cleaned == [True]
