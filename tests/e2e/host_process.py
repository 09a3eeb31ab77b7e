"""A host in a process of its own, to be raced against others and killed: starts loops, and prints a line for each.

Usage: host_process.py NAMESPACE STATE_DIR IMAGE STANDIN_MODE CONVERSATION_ID...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from loopnest import LoopManager, LoopnestError, LoopnestSettings, StartLoop
from loopnest_docker.hooks import DockerStrategy
from loopnest_docker.settings import DockerSettings


async def main(namespace: str, state_dir: str, image: str, mode: str, *conversation_ids: str) -> None:
    settings = LoopnestSettings(namespace=namespace, state_dir=Path(state_dir))
    strategy = DockerStrategy(DockerSettings(image=image))
    async with LoopManager.from_plugins(strategy, settings=settings) as manager:
        print("open", flush=True)

        async def start(conversation_id: str) -> None:
            request = StartLoop(conversation_id=conversation_id, environment={"STANDIN": mode})
            try:
                print("started", (await manager.start_loop(request)).url, flush=True)
            except LoopnestError as error:
                print("failed", conversation_id, error.reason, error, flush=True)

        await asyncio.gather(*map(start, conversation_ids))


asyncio.run(main(*sys.argv[1:]))
