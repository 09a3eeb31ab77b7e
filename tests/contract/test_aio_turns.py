from __future__ import annotations

import asyncio
import itertools

from loopnest.aio import Turns


async def test_one_goes_on_at_each_turn_of_the_event_loop_in_the_order_of_coming():
    turns, went = Turns(), []

    async def go(name: int) -> None:
        await turns.mine()
        went.append(name)

    tasks = [asyncio.create_task(go(name)) for name in range(3)]
    seen = [len(went)]
    while len(went) < 3:
        await asyncio.sleep(0)
        seen.append(len(went))
    assert went == [0, 1, 2]
    assert {after - before for before, after in itertools.pairwise(seen[seen.index(1) :])} == {1}
    await asyncio.gather(*tasks)


async def test_one_who_gives_up_keeps_nobody_waiting():
    turns = Turns()
    first, second, third = (asyncio.create_task(turns.mine()) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait_for(asyncio.gather(first, third), 1)
