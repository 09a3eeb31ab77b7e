"""One start of one loop: the state machine of its container.

Every step reads what the engine has and does what is missing, so that a start can be taken up by anybody at any line:
by another process that wants the same loop, or by the next host after this one died.
"""

from __future__ import annotations

import asyncio
from typing import Final

from pydantic import SecretStr

from loopnest import LoopChange, LoopFailed, LoopNotFound, LoopStatus, Reason, StartLoop
from loopnest_docker import naming
from loopnest_docker.boot import Boot
from loopnest_docker.closing import Closer
from loopnest_docker.container import ContainerSpec, new_spec, secret_archive
from loopnest_docker.engine import EngineConflict, NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.parts import Parts
from loopnest_nested import session_keys

#: How often a start looks again when others change the container under its hands.
_ATTEMPTS: Final = 10


class Start:
    """Brings one loop up from whatever state it is in; what it made goes again if it fails.

    Args:
        gate: bounds how many containers are being created and started at once.
    """

    def __init__(self, parts: Parts, closer: Closer, gate: asyncio.Semaphore, request: StartLoop, owner: str) -> None:
        self._parts, self._closer, self._gate, self._request = parts, closer, gate, request
        self._name = naming.LoopName(parts.context.namespace, request.conversation_id, owner)
        self._made: str | None = None
        self._launched: str | None = None

    async def run(self, container: Facts | None) -> Facts:
        """Return the container once its nested server has the conversation.

        Args:
            container: that of the conversation as it was last seen, None for none.

        Raises:
            LoopNotFound: the conversation is somebody else's.
            LoopFailed, EngineError, NestedError: it could not be started.
        """
        try:
            container = await self._up(container)
            await Boot(self._parts, container, self._request).finish()
            return container
        except BaseException:
            await asyncio.shield(self._undo())
            raise

    async def _up(self, container: Facts | None) -> Facts:
        """Do what is missing until the container runs, or has ended since we started it."""
        for _ in range(_ATTEMPTS):
            if container and (container.up or (container.down and container.id == self._launched)):
                return container
            try:
                await self._step(container)
            except EngineConflict:
                pass  # somebody else was faster: look again
            except NotOnEngine as error:
                self._diagnose_missing(error)
            container = await self._look()
        raise LoopFailed("The container keeps changing; is somebody else managing it?", reason=Reason.INTERRUPTED)

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
        spec = await self._spec()
        self._tell("creating")
        async with self._gate:
            created = await self._parts.engine.call("create_container_from_config", spec.body(), str(self._name))
        self._made = created["Id"]
        container = await self._look()
        if container and container.id == self._made:
            await self._launch(container, spec.secret_environment)

    async def _spec(self) -> ContainerSpec:
        parts = self._parts
        image = await parts.images.ensure(self._request.image or parts.images.default, self._tell)
        network = await parts.network.ensure()
        spec = new_spec(
            parts.settings, parts.dialect, self._request, image=image, network=network, owner=self._name.owner
        )
        await parts.context.hooks.configure_container(request=self._request, spec=spec)
        spec.labels |= {
            naming.SCHEMA: "1",
            naming.NAMESPACE: self._name.namespace,
            naming.DIALECT: parts.dialect.name,
            naming.NONCE: session_keys.new_nonce(),
            naming.KEY: session_keys.fingerprint(parts.context.secret),
        }
        return spec

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
        self._tell("booting")
        async with self._gate:
            await parts.engine.call("put_archive", container.id, "/", secret_archive(variables))
            await parts.engine.call("start", container.id)
        self._launched = container.id

    async def _look(self) -> Facts | None:
        """Find our container in what the engine has now, and settle whose the conversation is.

        Of two users who race for one id the older container wins; the engine's clock is the judge.
        """
        rivals = await self._parts.inventory.look(self._name)
        mine = next((it for it in rivals if it.loop == self._name), None)
        if mine is None and rivals:
            raise LoopNotFound(self._name.conversation_id)
        if mine and len(rivals) > 1:
            ages = {it.id: await self._created_at(it) for it in rivals}
            if min(ages, key=lambda it: (ages[it], it)) != mine.id:
                raise LoopNotFound(self._name.conversation_id)
        return mine

    async def _created_at(self, container: Facts) -> str:
        """When the engine made it, to the nanosecond; listings give seconds."""
        return str((await self._parts.engine.call("inspect_container", container.id))["Created"])

    def _diagnose_missing(self, error: NotOnEngine) -> None:
        """Tell a container that went away, which is looked for again, from something it needs and that is not there."""
        text = error.message.lower()
        if "no such image" in text:
            raise LoopFailed(error.message, reason=Reason.IMAGE_MISSING) from error
        if "network" in text:
            if not self._parts.network.ours:
                raise LoopFailed(error.message, reason=Reason.ENGINE_REFUSED) from error
            self._parts.network.forget()

    async def _undo(self) -> None:
        """Leave nothing of a start that failed: what it made is removed, what it started is stopped again.

        A container that somebody else made is theirs, as they may still be starting it.
        """
        for container in await self._parts.inventory.look(self._name):
            if container.id == self._made and not self._parts.settings.keep_failed:
                await self._closer.remove(container)
            elif container.id in (self._made, self._launched):
                await self._closer.stop(container, seconds=1)

    def _tell(self, phase: str, message: str | None = None, progress: float | None = None) -> None:
        self._parts.context.emit(
            LoopChange(
                conversation_id=self._name.conversation_id,
                owner=self._name.owner,
                phase=phase,
                status=LoopStatus.STARTING,
                message=message,
                progress=progress,
            )
        )
