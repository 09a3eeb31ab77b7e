"""One start of one loop: the state machine of its container.

Every step reads what the engine has and does what is missing, so that any process can take a start up at any line:
another one that starts the same loop, or the next host after this one died.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Final

from pydantic import SecretStr

from loopnest import EngineError, Loop, LoopChange, LoopFailed, LoopNotFound, LoopStatus, Phase, Reason, StartLoop
from loopnest_docker import naming, pool
from loopnest_docker.boot import ContainerBoot
from loopnest_docker.closing import Closer
from loopnest_docker.container import ContainerSpec
from loopnest_docker.engine import EngineConflict, NotOnEngine, complete
from loopnest_docker.facts import Facts
from loopnest_docker.history import History
from loopnest_docker.mounts import check_mounts
from loopnest_docker.parts import Parts
from loopnest_docker.secret_file import secret_archive
from loopnest_nested import session_keys

_log = logging.getLogger(__name__)
#: How often a start looks again when others change the container under its hands.
_ATTEMPTS: Final = 10
#: Seconds, at the most, until a start tries again that gave up for a rival.
_BACK_OFF: Final = 0.5


class _Contended(LoopNotFound):
    """Another user claims the conversation at the same moment."""


class Start:
    """Brings one loop up from any state; removes what it made if it fails.

    Args:
        gate: bounds how many containers are being created and started at once.
    """

    def __init__(self, parts: Parts, closer: Closer, gate: asyncio.Semaphore, request: StartLoop, owner: str) -> None:
        self._parts, self._closer, self._gate, self._request = parts, closer, gate, request
        self._name = naming.LoopName(parts.context.namespace, request.conversation_id, owner)
        self._history = History(parts)
        self._made: str | None = None
        self._launched: str | None = None
        self._warm = False

    async def run(self, container: Facts | None) -> Facts:
        """Return the container once its nested server has the conversation.

        Args:
            container: that of the conversation as it was last seen, None for none.

        Raises:
            LoopNotFound: the conversation is another user's.
            LoopFailed, EngineError, NestedError: it could not be started.
        """
        attempts = 0
        while True:
            attempts += 1
            self._made = self._launched = None
            try:
                container = await self._up(container)
                is_new = container.id == self._made
                await ContainerBoot(self._parts, container, self._request, is_new=is_new).finish()
                return container
            except BaseException as error:
                await asyncio.shield(self._undo())
                if attempts > _ATTEMPTS or not self._may_try_again(error):
                    raise
                if isinstance(error, _Contended):
                    await asyncio.sleep(random.uniform(0, _BACK_OFF))  # noqa: S311 - jitter
            container = await self._look()

    def _may_try_again(self, error: BaseException) -> bool:
        """Whether two users claimed one id at once, or a claimed container of the pool turned out to be dead."""
        warm, self._warm = self._warm, False
        return isinstance(error, _Contended) or (warm and isinstance(error, LoopFailed) and error.exit_code is not None)

    async def _up(self, container: Facts | None) -> Facts:
        """Do what is missing until the container runs, or has ended since we started it."""
        for _ in range(_ATTEMPTS):
            if container and (container.up or (container.down and container.id == self._launched)):
                return container
            try:
                await self._step(container)
            except EngineConflict:
                pass  # another process was faster: look again
            except NotOnEngine as error:
                await self._repair(container, error)
            container = await self._look()
            if container is None and self._made:
                raise LoopFailed("The loop was closed while it was starting.", reason=Reason.INTERRUPTED)
        raise LoopFailed("The container keeps changing. Does another program manage it?", reason=Reason.INTERRUPTED)

    async def _step(self, container: Facts | None) -> None:
        engine = self._parts.engine
        if container is None:
            await self._create()
        elif container.state == "paused":
            await engine.call("unpause", container.id)
        elif container.state == "removing":
            await engine.call("wait", container.id, condition="removed")
        else:
            await self._launch(container, {**self._parts.settings.secret_environment, **self._request.environment})

    async def _create(self) -> None:
        """Take a container of the pool, or create one."""
        spec = await pool.specify(self._parts, self._request, self._name.owner, self._publish)
        cold = pool.why_not_pooled(self._parts, self._request)
        if cold is None:
            slot = await pool.claim(self._parts, self._name, spec)
            if slot:
                self._made = self._launched = slot.id
                self._warm = True
                self._publish(Phase.CLAIMED, "warm: the container was booted ahead")
                return
            cold = "none waits that is alike"
        await self._create_cold(spec, cold)

    async def _create_cold(self, spec: ContainerSpec, why: str) -> None:
        self._publish(Phase.CREATING, f"cold: {why}")
        spec.labels |= {
            naming.NONCE: session_keys.new_nonce(),
            naming.ORIGIN: f"cold: {why}",
            **({naming.BARE: "1"} if self._request.conversation is None else {}),
            **{naming.NOTE + key: value for key, value in self._request.notes.items()},
        }
        async with self._gate:
            create = self._parts.engine.call("create_container_from_config", spec.body(), str(self._name))
            await complete(create, self._note_made)
        container = await self._look()
        if container and container.id == self._made:
            await self._launch(container, spec.secret_environment)

    def _note_made(self, created: dict[str, str]) -> None:
        self._made = created["Id"]

    async def _launch(self, container: Facts, secret_environment: dict[str, SecretStr]) -> None:
        """Give the container its secret variables, and start it."""
        parts = self._parts
        if parts.view.foreign(container):
            raise LoopFailed(
                "The container was made by a host with another secret; hosts of one namespace must share "
                "'loopnest.secret'.",
                reason=Reason.FOREIGN_SECRET,
            )
        variables = {**parts.dialect.secret_environment(parts.view.keys(container)), **secret_environment}
        self._publish(Phase.BOOTING)
        if container.id != self._made:
            await check_mounts(parts, container)
        async with self._gate:
            await parts.engine.call("put_archive", container.id, "/", secret_archive(variables))
            await parts.engine.call("start", container.id)
        self._closer.started(container.id)
        self._launched = container.id

    async def _look(self) -> Facts | None:
        """Find our container in what the engine has now, and settle whose the conversation is.

        Raises:
            LoopNotFound: the conversation is another user's.
            _Contended: that can't be settled now.
        """
        rivals = await self._parts.inventory.look(self._name)
        mine = next((it for it in rivals if it.loop == self._name), None)
        if mine is None and rivals:
            raise LoopNotFound(self._name.conversation_id)
        if mine and len(rivals) > 1:
            await self._settle(mine, rivals)
        return mine

    async def _settle(self, mine: Facts, rivals: list[Facts]) -> None:
        """Decide a race of two users for one id.

        The older container wins; the engine's clock is the judge. A claimed container is older than its claim, and the
        engine does not say when it was renamed: there all give up and try again, as a rival that did not see this
        container may have won already.
        """
        if any(it.labels.get(naming.ROLE) == "slot" for it in rivals) and mine.id == self._made:
            raise _Contended(self._name.conversation_id)
        ages = {it.id: age for it in rivals if (age := await self._created_at(it))}
        if mine.id not in ages:  # a close, or another replica, removed it since it was listed
            raise LoopFailed("The loop was closed while it was starting.", reason=Reason.INTERRUPTED)
        if min(ages, key=lambda it: (ages[it], it)) != mine.id:
            raise LoopNotFound(self._name.conversation_id)

    async def _created_at(self, container: Facts) -> str | None:
        """When the engine made it, to the nanosecond (listings give seconds); None where it is gone."""
        try:
            return str((await self._parts.engine.call("inspect_container", container.id))["Created"])
        except NotOnEngine:
            return None

    async def _repair(self, container: Facts | None, error: NotOnEngine) -> None:
        """Bring back what a container needs and the engine no longer has.

        A container that itself is gone is looked for again.

        Raises:
            LoopFailed: what is missing can't be brought back.
        """
        text = error.message.lower()
        if "no such image" in text:
            raise LoopFailed(error.message, reason=Reason.IMAGE_MISSING) from error
        if "network" not in text:
            return
        if not self._parts.network.ours:
            raise LoopFailed(error.message, reason=Reason.ENGINE_REFUSED) from error
        if container:
            await self._parts.network.reattach(container.id)
        else:
            self._parts.network.forget()

    async def _undo(self) -> None:
        """Leave nothing of a start that failed: what it made is removed, what it started is stopped again.

        A container with a conversation is never removed: another replica may have created it meanwhile, or this start
        may have failed only after the nested server had it. A container that another start made is stopped only where
        this start launched it. What the engine refuses here is logged, as the start's own error is to be raised.
        """
        try:
            for container in await self._parts.inventory.look(self._name):
                if await self._is_disposable(container):
                    await self._closer.remove(container)
                elif container.id in (self._made, self._launched):
                    await self._closer.stop(container, seconds=1)
        except EngineError as error:
            _log.warning("What a failed start left of %s could not be removed: %s", self._name, error.message)

    async def _is_disposable(self, container: Facts) -> bool:
        """Whether this start made the container, and it has no conversation; one that can't be looked into may have."""
        if container.id != self._made or self._parts.settings.keep_failed:
            return False
        try:
            return not await self._history.is_there(container)
        except EngineError:
            return False

    def _publish(self, phase: Phase, message: str | None = None, progress: float | None = None) -> None:
        name, status = self._name, LoopStatus.STARTING
        loop = Loop(conversation_id=name.conversation_id, owner=name.owner, status=status, message=message)
        self._parts.context.emit(LoopChange(loop=loop, phase=phase, progress=progress))
