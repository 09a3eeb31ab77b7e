"""Look after loops that no start or close is working on: retention, interrupted starts, unexpected ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from loopnest import EngineError, Loop, LoopChange, LoopFailed, LoopStatus, Phase, Reason
from loopnest_docker.engine import NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.failure import as_failure, read_ending
from loopnest_docker.history import History
from loopnest_docker.lifecycle import Lifecycle
from loopnest_docker.parts import Parts
from loopnest_nested.ending import Ending, ending

_log = logging.getLogger(__name__)
#: Why the engine can't be asked about any container.
_NO_ENGINE: Final = frozenset({Reason.ENGINE_UNREACHABLE, Reason.ENGINE_TIMEOUT})
#: Seconds beyond the start timeout after which no replica can still be starting a container.
_GRACE: Final = 5
_INTERRUPTED: Final = "The host that started it went away. Start the loop again."


class Ages:
    """Counts, on this process's monotonic clock, for how many seconds each container has not changed.

    A claim, a start or a restart by any replica begins a new count. The container's own age is no measure, as one of
    the pool is created long before it is claimed; nor is the clock of another machine.
    """

    def __init__(self) -> None:
        self._since: dict[tuple[object, ...], float] = {}

    def look(self, containers: Sequence[Facts]) -> None:
        """Note what there is now, and forget what is not."""
        now = time.monotonic()
        self._since = {key: self._since.get(key, now) for key in map(key_of, containers)}

    def of(self, container: Facts) -> float:
        """Seconds since the container was first seen like this."""
        return time.monotonic() - self._since[key_of(container)]


def key_of(container: Facts) -> tuple[object, ...]:
    """What changes when a container is claimed, started, stopped or restarted."""
    return container.name, container.state, container.generation


class Keeper:
    """Sweeps now and then, and publishes the ends of containers as they happen."""

    def __init__(self, parts: Parts, lifecycle: Lifecycle) -> None:
        self._parts, self._lifecycle = parts, lifecycle
        self._history, self._ages = History(parts), Ages()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Begin to sweep."""
        self._spawn(self._run())

    async def aclose(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ended(self, container: Facts, exit_code: int | None) -> None:
        """Find out how a container ended, and publish it."""
        self._spawn(self._publish_end(container, exit_code))

    async def sweep(self) -> None:
        """Look at every container once."""
        containers = list((await self._parts.inventory.all()).values())
        self._ages.look(containers)
        for container in containers:
            try:
                if not self._lifecycle.busy(container):
                    await self._look_after(container)
            except NotOnEngine:  # it was removed meanwhile
                continue
            except EngineError as error:
                if error.reason in _NO_ENGINE:
                    raise
                _log.warning("The sweep leaves %s as it is: %s", container.name, error.message)

    async def _look_after(self, container: Facts) -> None:
        if await self._is_interrupted(container):
            if await self._is_unchanged(container):
                await self._end_interrupted(container)
        elif await self._is_expired(container) and await self._is_unchanged(container):
            removed = await self._lifecycle.closer.remove(container, force=False)
            if removed:
                self._publish(container, Phase.REMOVED, message="Stopped for longer than 'loopnest.docker.retention'.")

    async def _is_unchanged(self, container: Facts) -> bool:
        """Whether the container is still what was judged, as starts of this and other replicas go on meanwhile."""
        found = await self._parts.inventory.look(container.loop)
        now = next((it for it in found if it.id == container.id), None)
        return now is not None and key_of(now) == key_of(container) and not self._lifecycle.busy(container)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except EngineError as error:
                _log.warning("The sweep is put off: %s", error.message)
            except Exception:  # noqa: BLE001 - a fault of one sweep must not end all later ones
                _log.exception("The sweep failed, and is tried again in 'loopnest.docker.sweep_interval'.")
            await asyncio.sleep(self._parts.settings.sweep_interval)

    async def _is_interrupted(self, container: Facts) -> bool:
        """Whether a start of the container seems to have ended halfway: no start takes as long as it is unchanged.

        A nested server that can't be asked may have work in it, and so may one whose host creates the conversations.
        """
        if self._ages.of(container) < self._parts.settings.start_timeout + _GRACE:
            return False
        if container.state == "created":
            return True
        if not container.up or self._parts.view.is_ready(container):
            return False
        return await self._history.known(container) is False

    async def _end_interrupted(self, container: Facts) -> None:
        """Remove a container in which nothing ever happened; stop any other, and say why.

        It is stopped before it is looked into, so that nothing can change any more once the decision is made.
        """
        _log.info("Ending the interrupted start of %s", container.loop.conversation_id)
        why = LoopFailed(_INTERRUPTED, reason=Reason.INTERRUPTED)
        if container.state != "created":
            restarted = await self._history.was_restarted(container)
            await self._lifecycle.closer.stop(container, seconds=self._parts.settings.close_timeout)
            if restarted and await self._history.left(container):
                why = LoopFailed(self._history.lost(container), reason=Reason.HISTORY_LOST)
            if restarted or not await self._history.is_empty(container):
                self._publish_failed(container, why)
                return
        if await self._lifecycle.closer.remove(container, force=False):
            self._publish_failed(container, why)

    async def _is_expired(self, container: Facts) -> bool:
        retention = self._parts.settings.retention
        if retention is None or not container.down:
            return False
        state = (await self._parts.engine.call("inspect_container", container.id))["State"]
        if state["Running"]:
            return False
        return self._parts.engine.now() - _time(state["FinishedAt"]) > timedelta(seconds=retention)

    async def _publish_end(self, container: Facts, exit_code: int | None) -> None:
        self._parts.view.forget(container)
        try:
            end = await read_ending(self._parts.engine, container.id)
        except NotOnEngine:
            self._publish(container, Phase.REMOVED, message="The container was removed by another process.")
            return
        except EngineError as error:
            _log.warning("How %s ended can't be read: %s", container.name, error.message)
            end = ending(exit_code)
        if end is not None:  # else it was started again, which the process that did so publishes
            await self._publish_ending(container, end)

    async def _publish_ending(self, container: Facts, end: Ending) -> None:
        if end.status is LoopStatus.STOPPED:
            self._publish(container, Phase.STOPPED, exit_code=end.exit_code)
        else:
            why = await as_failure(self._parts.engine, container, end, self._parts.secrets(container))
            self._publish_failed(container, why)

    def _publish_failed(self, container: Facts, why: LoopFailed) -> None:
        facts = {"message": why.message, "exit_code": why.exit_code, "log_tail": why.log_tail}
        self._publish(container, Phase.FAILED, LoopStatus.FAILED, reason=why.reason, **facts)

    def _publish(self, container: Facts, phase: Phase, status: LoopStatus = LoopStatus.STOPPED, **facts: Any) -> None:
        name = container.loop
        loop = Loop(conversation_id=name.conversation_id, owner=name.owner, status=status, **facts)
        self._parts.context.emit(LoopChange(loop=loop, phase=phase))

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _time(text: str) -> datetime:
    """Read the engine's time, which has nanoseconds."""
    return datetime.fromisoformat(f"{text[:19]}+00:00")
