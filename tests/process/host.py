"""A host in a process of its own, to be raced against others and killed: starts loops, and prints a line for each.

Usage: host.py STATE_DIR SITE STANDIN_MODE CONVERSATION_ID...
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pydantic import SecretStr

from loopnest import LoopManager, LoopnestError, LoopnestSettings, StartLoop
from loopnest_process.hooks import ProcessStrategy
from loopnest_process.settings import ProcessSettings


async def main(state_dir: str, site: str, mode: str, *conversation_ids: str) -> None:
    settings = LoopnestSettings(
        strategy="process", state_dir=Path(state_dir), secret=SecretStr("a secret of the tests")
    )
    own = ProcessSettings(python=Path(sys.executable), environment={"PYTHONPATH": site})
    async with LoopManager.from_plugins(ProcessStrategy(own), settings=settings) as manager:

        async def start(conversation_id: str) -> None:
            request = StartLoop(conversation_id=conversation_id, environment={"STANDIN": SecretStr(mode)})
            try:
                print("started", conversation_id, (await manager.start_loop(request)).url, flush=True)
            except LoopnestError as error:
                print("failed", conversation_id, error.reason, error, flush=True)

        await asyncio.gather(*map(start, conversation_ids))


asyncio.run(main(*sys.argv[1:]))
