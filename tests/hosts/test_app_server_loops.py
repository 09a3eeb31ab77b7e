"""The manager of all sandboxes outlives what one of them says."""

from __future__ import annotations

import asyncio
from typing import Any

from loopnest import EVERYONE, LoopChange, LoopManager, LoopnestSettings, LoopQuery, Phase, hookimpl
from loopnest_openhands.app_server import loops as module
from loopnest_openhands.app_server.loops import Loops
from loopnest_openhands.app_server.versions import Versions

from .test_app_server_session_keys import Many


class Broken(Versions):
    """Looks at versions, and fails at each."""

    def __init__(self) -> None:  # without the agent server, whose version it would ask for
        self.looked = asyncio.Event()

    async def look(self, loop: Any) -> None:
        self.looked.set()
        raise TypeError("no version is like this")

    async def aclose(self) -> None:
        pass


class Emitting(Many):
    """Lets the test emit what a strategy would."""

    @hookimpl
    def open_strategy(self, context):
        self.emit = context.emit


async def test_a_sandbox_that_can_not_be_understood_closes_nobody_else_s(tmp_path, monkeypatch, caplog):
    broken, many = Broken(), Emitting()
    monkeypatch.setattr(module, "Versions", lambda: broken)
    manager = LoopManager.from_plugins(many, settings=LoopnestSettings(state_dir=tmp_path))
    loops = Loops(manager)
    await loops.ready()
    for name in ("c1", "c2"):
        broken.looked.clear()
        many.emit(LoopChange(loop=many.loops[name], phase=Phase.READY))
        await asyncio.wait_for(broken.looked.wait(), 5)
    assert len(await manager.list_loops(LoopQuery(user_id=EVERYONE))) == 1000
    for task in list(loops._tasks):
        task.cancel()
    assert "A change of sandbox c1 could not be handled." in caplog.text
