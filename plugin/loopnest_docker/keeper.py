"""Look after loops that nobody is looking after: retention, interrupted starts, unexpected deaths."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from datetime import datetime, timedelta
from typing import Final

from loopnest import EngineError, LoopChange, LoopFailed, LoopStatus, Reason
from loopnest.models import utcnow
from loopnest_docker.engine import NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.failure import explain_death
from loopnest_docker.lifecycle import Lifecycle
from loopnest_docker.parts import Parts

_log = logging.getLogger(__name__)
#: Seconds beyond the start timeout after which nobody can still be starting a container.
_GRACE: Final = 5


class Keeper:
    """Sweeps now and then, and tells of deaths as they happen."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts, self._lifecycle = parts, lifecycle
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to sweep."""
        self._spawn(self._run())

    async def aclose(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def mourn(self, container: Facts, exit_code: int | None) -> None:
        """Find out why a container ended, and tell everybody."""
        self._spawn(self._mourn(container, exit_code))

    async def sweep(self) -> None:
        """Look at every container once."""
        for container in list((await self._parts.inventory.all()).values()):
            if self._lifecycle.busy(container):
                continue
            if await self._is_abandoned(container):
                await self._remove(container, Reason.INTERRUPTED, "The host that started it went away.")
            elif await self._is_expired(container):
                await self._remove(container, None, "Stopped for longer than 'loopnest.docker.retention'.")

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except EngineError as error:
                _log.warning("The sweep is put off: %s", error.message)
            await asyncio.sleep(self._parts.settings.sweep_interval)

    async def _is_abandoned(self, container: Facts) -> bool:
        """Whether a start was interrupted so long ago that nobody can still be at it.

        A nested server that does not answer, or can't be asked, or that of a bare loop, may have somebody's work in it;
        one that answers, and does not know its conversation, never had any.
        """
        limit = timedelta(seconds=self._parts.settings.start_timeout + _GRACE)
        if utcnow() - container.created_at < limit or self._parts.view.is_ready(container):
            return False
        if container.state == "created":
            return True
        if not container.up or container.conversation is None or self._parts.view.foreign(container):
            return False
        if self._parts.view.server(container) is None:  # as where its host had another 'port' or 'url_template'
            return False
        loop = await self._parts.view.loop(container)
        return loop.status is LoopStatus.STARTING and loop.reason is None

    async def _is_expired(self, container: Facts) -> bool:
        retention = self._parts.settings.retention
        if retention is None or not container.down:
            return False
        with contextlib.suppress(NotOnEngine):
            state = (await self._parts.engine.call("inspect_container", container.id))["State"]
            return utcnow() - _time(state["FinishedAt"]) > timedelta(seconds=retention)
        return False

    async def _remove(self, container: Facts, reason: str | None, message: str) -> None:
        _log.info("Removing the container of %s: %s", container.loop.conversation_id, message)
        await self._lifecycle.closer.remove(container)
        status = LoopStatus.FAILED if reason else None
        self._tell(container, "failed" if reason else "removed", status, LoopFailed(message, reason=reason))

    async def _mourn(self, container: Facts, exit_code: int | None) -> None:
        secrets = self._parts.secrets(container)
        self._parts.view.forget(container)
        try:
            why = await explain_death(self._parts.engine, container, secrets, early=False, exit_code=exit_code)
        except EngineError as error:
            why = LoopFailed(f"The nested server ended ({error.message})", reason=Reason.EXITED, exit_code=exit_code)
        if why.exit_code in (0, 143):  # as when another replica closed it
            self._tell(container, "stopped", LoopStatus.STOPPED, None)
        else:
            self._tell(container, "failed", LoopStatus.FAILED, why)

    def _tell(self, container: Facts, phase: str, status: LoopStatus | None, why: LoopFailed | None) -> None:
        self._parts.context.emit(
            LoopChange(
                conversation_id=container.loop.conversation_id,
                owner=container.loop.owner,
                phase=phase,
                status=status,
                reason=why.reason if why and status else None,
                message=why.message if why else None,
                exit_code=why.exit_code if why else None,
                log_tail=why.log_tail if why else (),
            )
        )

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _time(text: str) -> datetime:
    """Read the engine's time, which has nanoseconds."""
    return datetime.fromisoformat(f"{text[:19]}+00:00")
