"""What lives as long as the app server's process, while its services live for one request."""

from __future__ import annotations

import asyncio
import logging

from loopnest import EVERYONE, LoopChange, LoopManager, LoopnestError, Phase
from loopnest.secret import host_secret
from loopnest_openhands.app_server.owners import Owners
from loopnest_openhands.app_server.session_keys import SessionKeys
from loopnest_openhands.app_server.versions import Versions
from loopnest_openhands.findings import log_findings

_log = logging.getLogger(__name__)


class Loops:
    """The one `LoopManager`, open from the first request until the event loop ends.

    It is held open by a task of its own, as the app server has no hook for the end of a sandbox service: servers cancel
    the tasks that are left, and so it is closed.
    """

    def __init__(self, manager: LoopManager) -> None:
        self.manager = manager
        self.owners = Owners(host_secret(manager.settings))
        self.keys = SessionKeys(manager)
        self._opening: asyncio.Future[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def ready(self) -> None:
        """Open the manager unless it is open."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()
            self._spawn(self._hold(self._opening))
        await asyncio.shield(self._opening)

    async def _hold(self, opening: asyncio.Future[None]) -> None:
        versions = Versions()
        try:
            async with self.manager, self.manager.watch() as changes:
                opening.set_result(None)
                self._spawn(log_findings(self.manager))
                async for change in changes:
                    await self._follow(change, versions)
        except Exception as error:  # noqa: BLE001 - raised in the callers that wait, or logged
            if opening.done():
                _log.exception("Sandboxes are not looked after any more; restart the app server.")
            else:
                opening.set_exception(error)
        finally:
            await versions.aclose()

    async def _follow(self, change: LoopChange, versions: Versions) -> None:
        """Handle a change; an error is logged, as the manager of all sandboxes would end with it."""
        try:
            await self._notice(change, versions)
        except Exception:  # noqa: BLE001 - one sandbox must not end the manager of all
            _log.exception("A change of sandbox %s could not be handled.", change.conversation_id)

    async def _notice(self, change: LoopChange, versions: Versions) -> None:
        loop = change.loop
        if change.phase is Phase.FAILED:
            tail = "".join(f"\n    {line}" for line in loop.log_tail)
            _log.error("Sandbox %s failed (%s): %s%s", loop.conversation_id, loop.reason, loop.message, tail)
        elif change.phase is Phase.READY:
            try:
                await versions.look(await self.manager.get_loop(change.conversation_id, EVERYONE))
            except LoopnestError as error:
                _log.debug("Sandbox %s is gone already: %s", change.conversation_id, error)

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
