"""Keeps the pool filled in the background, and clean."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from loopnest import LoopFailed, LoopnestError, NestedError, Reason
from loopnest.aio import limited
from loopnest_docker import naming, pool
from loopnest_docker.boot import ContainerUnit
from loopnest_docker.container import ContainerSpec
from loopnest_docker.engine import NotOnEngine, complete
from loopnest_docker.facts import Facts, Slot
from loopnest_docker.parts import Parts
from loopnest_docker.secret_file import secret_archive
from loopnest_nested import session_keys

_log = logging.getLogger(__name__)
#: Seconds between looks at the pool while nothing happens.
_INTERVAL: Final = 15.0
#: Seconds beyond the start timeout after which a slot without a token was abandoned.
_GRACE: Final = 10
#: Seconds that warming up may take; a slot that is slower is given away as it is.
_WARM_UP: Final = 5.0


class Filler:
    """Makes slots one at a time while no start goes on here, so as not to starve it; removes what is of no use.

    Args:
        busy: whether a start goes on here.
    """

    def __init__(self, parts: Parts, busy: Callable[[], bool]) -> None:
        self._parts, self._busy = parts, busy
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def size(self) -> int:
        """How many slots are to wait, within the memory they may use."""
        chosen, each = self._parts.settings.pool, int(self._parts.settings.memory)
        return chosen.size if chosen.memory is None else min(chosen.size, int(chosen.memory) // each)

    def open(self) -> None:
        """Begin to fill; a pool that was turned off is emptied."""
        self._task = asyncio.create_task(self._run(), name="loopnest-pool")

    async def aclose(self) -> None:
        """Stop filling; what waits goes on waiting, for the next host."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def poke(self) -> None:
        """Look at the pool now: a slot was taken, or a start ended."""
        self._wake.set()

    async def _run(self) -> None:
        while self.size or await self._leftovers():
            try:
                await self._tend()
            except LoopnestError as error:
                if isinstance(error, NotOnEngine):  # as where the network was removed
                    self._parts.network.forget()
                _log.warning("The pool could not be filled (%s): %s", error.reason, error.message)
            with contextlib.suppress(asyncio.TimeoutError):
                await limited(self._wake.wait(), _INTERVAL)
            self._wake.clear()

    async def _leftovers(self) -> bool:
        try:
            return bool(await self._parts.inventory.slots("slot"))
        except LoopnestError:
            return False

    async def _tend(self) -> None:
        spec = await pool.specify(self._parts, pool.NOBODY_YET, "pool")
        await self._sweep(spec)
        while not self._busy() and len(await self._waiting(spec)) < self.size:
            await self._make(spec)

    async def _waiting(self, spec: ContainerSpec) -> list[Slot]:
        slots = await self._parts.inventory.slots("slot")
        return [slot for slot in slots if pool.fits(slot, spec) and not slot.container.down]

    async def _sweep(self, spec: ContainerSpec) -> None:
        tokens = {token.nonce: token for token in await self._parts.inventory.slots("token")}
        slots = await self._parts.inventory.slots("slot")
        surplus = [slot.nonce for slot in slots if pool.fits(slot, spec)][self.size :]
        for slot in slots:
            token = tokens.pop(slot.nonce, None)
            if token is None:  # booting, or being claimed right now: abandoned only after a while
                useless = slot.container.down or self._age(slot) > self._parts.settings.start_timeout + _GRACE
            else:
                useless = slot.nonce in surplus or self._is_useless(slot, spec)
                useless = useless and await pool.take_token(self._parts, token)
            if useless:  # by its name, as one that was claimed meanwhile has another
                await pool.remove(self._parts, slot.container.name)
        orphans = [token for token in tokens.values() if self._age(token) > _GRACE]  # their slots are gone
        for token in [*orphans, *await self._parts.inventory.slots("taken")]:
            await pool.remove(self._parts, token.container.id)

    def _is_useless(self, slot: Slot, spec: ContainerSpec) -> bool:
        if slot.container.down:
            return True
        return not pool.fits(slot, spec) and self._age(slot) > self._parts.settings.pool.drain_after

    async def _make(self, spec: ContainerSpec) -> None:
        """Boot one slot; nothing is left of it where that fails."""
        parts, nonce, made = self._parts, session_keys.new_nonce(), list[dict[str, str]]()
        body = spec.body()
        body["Labels"] |= {naming.NONCE: nonce, naming.ROLE: "slot", naming.ORIGIN: "warm", naming.IMAGE: spec.image}
        name = naming.slot_name(parts.context.namespace, nonce)
        try:
            await complete(parts.engine.call("create_container_from_config", body, name), made.append)
            slot = await self._boot(made[0]["Id"], spec, nonce)
            await complete(pool.give_token(parts, slot), made.append)
        except BaseException:
            for container in made:
                await asyncio.shield(pool.remove(parts, container["Id"]))
            raise

    async def _boot(self, container_id: str, spec: ContainerSpec, nonce: str) -> Slot:
        parts, keys = self._parts, session_keys.derive(self._parts.context.secret, nonce)
        variables = {**parts.dialect.secret_environment(keys), **spec.secret_environment}
        await parts.engine.call("put_archive", container_id, "/", secret_archive(variables))
        await parts.engine.call("start", container_id)
        await parts.network.ensure_closed(spec.image)
        await self._until_warm((await self._slot(container_id)).container)
        if parts.settings.pool.pause:
            await parts.engine.call("pause", container_id)
        return await self._slot(container_id)

    async def _until_warm(self, container: Facts) -> None:
        """Wait for the server, then have it load what it left out of its start, a tenth of a second and more."""
        unit = ContainerUnit(self._parts, container)
        server = await unit.server()
        await unit.boot().until_alive()
        with contextlib.suppress(NestedError, asyncio.TimeoutError):
            await limited(self._parts.dialect.agent_status(server, pool.NOBODY_YET.conversation_id), _WARM_UP)

    async def _slot(self, container_id: str) -> Slot:
        self._parts.inventory.touch(container_id)
        for slot in await self._parts.inventory.slots("slot"):
            if slot.container.id == container_id:
                return slot
        raise LoopFailed("A container of the pool was removed by another process.", reason=Reason.KILLED)

    def _age(self, slot: Slot) -> float:
        """Seconds since it was created, both by the engine's clock."""
        return (self._parts.engine.now() - slot.container.created_at).total_seconds()
