"""Takes containers of the pool and gives them back, in a process of its own, in a race with others.

Whoever holds a container has a file of its name in DIRECTORY, which only one can make: two that hold one container at a
time are found out.

Usage: claimant.py NAMESPACE STATE_DIR IMAGE DIRECTORY COUNT
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from loopnest import EngineError, LoopManager, LoopnestSettings
from loopnest_docker import naming, pool
from loopnest_docker.facts import Facts, Slot
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.parts import Parts
from loopnest_docker.settings import DockerSettings


async def main(namespace: str, state_dir: str, image: str, directory: str, count: str) -> None:
    settings = LoopnestSettings(namespace=namespace, state_dir=Path(state_dir))
    strategy = DockerStrategy(DockerSettings(image=image))
    async with LoopManager.from_plugins(strategy, settings=settings, one_shot=True):
        parts = strategy._parts
        spec = await pool.specify(parts, pool.NOBODY_YET, "pool")
        for number in range(int(count)):
            name = naming.LoopName(namespace, f"claim-{os.getpid()}-{number}", "nobody")
            while (slot := await pool.claim(parts, name, spec)) is None:
                await asyncio.sleep(0.005)  # the others hold them all
            held = Path(directory) / slot.id
            held.touch(exist_ok=False)
            held.unlink()
            await give_back(parts, slot)


async def give_back(parts: Parts, slot: Facts) -> None:
    await parts.engine.call("rename", slot.id, naming.slot_name(parts.context.namespace, slot.labels[naming.NONCE]))
    parts.inventory.touch(slot.id)
    await pool.give_token(parts, Slot("slot", slot))


try:
    asyncio.run(main(*sys.argv[1:]))
except (EngineError, FileExistsError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
