"""A container seen as a loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

import httpx

from loopnest import EngineError, Loop, LoopStatus, NestedError, Reason
from loopnest.aio import limited
from loopnest.specs import HostContext
from loopnest_docker import naming
from loopnest_docker.engine import Engine, NotOnEngine
from loopnest_docker.facts import Facts
from loopnest_docker.failure import read_ending
from loopnest_docker.settings import DockerSettings
from loopnest_nested import session_keys
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Dialect
from loopnest_nested.ending import Ending, ending, is_clean
from loopnest_nested.session_keys import Keys

_log = logging.getLogger(__name__)


class View:
    """Turns containers into loops.

    It remembers which nested servers were seen to have their conversation, and how containers ended. That memory is a
    cache: what is not in it is asked for.
    """

    def __init__(
        self, settings: DockerSettings, context: HostContext, dialect: Dialect, http: httpx.AsyncClient, engine: Engine
    ) -> None:
        self._settings, self._context, self._dialect, self._http = settings, context, dialect, http
        self._engine = engine
        self._fingerprint = session_keys.fingerprint(context.secret)
        self._ready: set[tuple[str, tuple[int, ...]]] = set()
        self._keys: dict[str, Keys] = {}
        self._seen: dict[str, tuple[Facts, bool, Loop]] = {}

    def keys(self, container: Facts) -> Keys:
        """The keys of the nested server, derived from the container's nonce."""
        nonce = container.labels[naming.NONCE]
        if nonce not in self._keys:
            self._keys[nonce] = session_keys.derive(self._context.secret, nonce)
        return self._keys[nonce]

    def server(self, container: Facts) -> NestedServer | None:
        """The nested server; None while it can't be reached."""
        url = self._url(container)
        return NestedServer(url, self.keys(container).session, self._http) if url and container.up else None

    def is_ready(self, container: Facts) -> bool:
        """Whether this life of the container was seen to have its conversation."""
        return container.up and container.generation in self._ready

    def mark_ready(self, container: Facts) -> None:
        """Note that the nested server has its conversation."""
        self._ready.add(container.generation)

    def forget(self, container: Facts) -> None:
        """Drop what is remembered of a container that is no more."""
        self._ready.discard(container.generation)
        self._seen.pop(container.id, None)
        self._keys.pop(container.labels.get(naming.NONCE, ""), None)

    def foreign(self, container: Facts) -> bool:
        """Whether it was started by a host with another secret, so that its key can't be derived here."""
        return container.labels.get(naming.KEY) != self._fingerprint

    async def loops(self, containers: Sequence[Facts], *, probe: bool) -> list[Loop]:
        """See all of them at once.

        Nested servers are asked together, under one short limit. A container that ended, and whose exit code does not
        show how, costs up to three calls of the engine, once for each of its runs.
        """
        loops = [self._plain(container, probe=probe) for container in containers]
        asked = [container for container, loop in zip(containers, loops, strict=True) if loop is None]
        answers = iter(await asyncio.gather(*map(self._asked, asked)) if asked else ())
        return [loop or next(answers) for loop in loops]

    async def loop(self, container: Facts, *, probe: bool = False) -> Loop:
        """See one container as a loop."""
        return self._plain(container, probe=probe) or await self._asked(container)

    def _plain(self, container: Facts, *, probe: bool) -> Loop | None:
        """The loop, where nothing need be asked; made once for each answer of the engine."""
        ready = self.is_ready(container)
        if container.up and (probe or not ready) and not self.foreign(container):
            return None
        facts, was_ready, loop = self._seen.get(container.id, (None, None, None))
        if loop is None or facts is not container or was_ready is not ready:
            if container.down and not is_clean(container.exit_code):
                return None
            loop = self._remembered(container, self._without_asking(container))
        return loop

    def _remembered(self, container: Facts, loop: Loop) -> Loop:
        self._seen[container.id] = (container, self.is_ready(container), loop)
        return loop

    def _without_asking(self, container: Facts) -> Loop:
        status = _plain_status(container)
        if self.foreign(container):
            return self._loop(container, status, reason=Reason.FOREIGN_SECRET, message=_FOREIGN)
        return self._loop(container, status)

    async def _asked(self, container: Facts) -> Loop:
        return await (self._ended(container) if container.down else self._probed(container))

    async def _ended(self, container: Facts) -> Loop:
        """The loop of a container that ended with an exit code that does not show how."""
        try:
            end = await read_ending(self._engine, container.id)
        except NotOnEngine:  # the next listing is without it
            return self._loop(container, LoopStatus.STOPPED)
        except EngineError as error:  # one container must not break the listing of the others
            _log.debug("How %s ended can't be read now: %s", container.name, error.message)
            end = None
        if end is None:
            return self._with_ending(container, ending(container.exit_code))
        return self._remembered(container, self._with_ending(container, end))

    def _with_ending(self, container: Facts, end: Ending) -> Loop:
        if end.status is LoopStatus.STOPPED and self.foreign(container):
            return self._loop(container, end.status, reason=Reason.FOREIGN_SECRET, message=_FOREIGN)
        return self._loop(container, end.status, reason=end.reason, message=end.message, exit_code=end.exit_code)

    async def _probed(self, container: Facts) -> Loop:
        server = self.server(container)
        if server is None:
            return self._loop(container, LoopStatus.STARTING)
        try:
            asked = self._dialect.agent_status(server, container.conversation)
            agent_status = await limited(asked, self._settings.probe_timeout)
        except (NestedError, asyncio.TimeoutError) as error:
            status = LoopStatus.RUNNING if self.is_ready(container) else LoopStatus.STARTING
            reason = error.reason if isinstance(error, NestedError) else Reason.NESTED_TIMEOUT
            return self._loop(container, status, reason=reason, message="The nested server does not answer.")
        if agent_status is None:
            return self._loop(container, LoopStatus.STARTING)
        self.mark_ready(container)
        return self._loop(container, LoopStatus.RUNNING, agent_status=agent_status)

    def _loop(self, container: Facts, status: LoopStatus, **details: Any) -> Loop:
        reachable = container.up and not self.foreign(container)
        return Loop.model_construct(  # trusted facts: validating a thousand of them costs more than all else
            conversation_id=container.loop.conversation_id,
            owner=container.loop.owner,
            status=status,
            strategy=self._context.strategy,
            dialect=container.labels.get(naming.DIALECT),
            url=self._url(container) if reachable else None,
            urls=self._urls(container) if reachable else {},
            session_key=self.keys(container).session if reachable else None,
            nested_id=self._dialect.nested_id(container.loop.conversation_id),
            notes=container.notes,
            origin=container.labels.get(naming.ORIGIN),
            created_at=container.created_at,
            **{"exit_code": container.exit_code, **details},
        )

    def _urls(self, container: Facts) -> dict[int, str]:
        urls = {port: self._url(container, port) for port in self._settings.extra_ports}
        return {port: url for port, url in urls.items() if url}

    def _url(self, container: Facts, inside: int | None = None) -> str | None:
        inside = inside or self._settings.port
        port = container.ports.get(inside)
        if port is None and "{port}" in self._settings.url_template:
            return None
        return self._settings.url_template.format(
            host=_host(self._settings.publish_address),
            port=port,
            container_ip=container.address,
            container_port=inside,
            container_name=container.name,
        )


def _host(address: str) -> str:
    """The host of a URL; of servers that are published at all addresses, the loopback one."""
    address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
    return f"[{address}]" if ":" in address else address


_FOREIGN: Final = (
    "This container was started by a host with another secret, so its session key is unknown here. Hosts of one "
    "namespace must share 'loopnest.secret'."
)


def _plain_status(container: Facts) -> LoopStatus:
    """The status that the listing alone tells; of a container that ended, its exit code is clean."""
    if container.state == "paused":
        return LoopStatus.PAUSED
    if container.up:
        return LoopStatus.RUNNING
    if container.down:
        return ending(container.exit_code).status
    return LoopStatus.STOPPED if container.state == "removing" else LoopStatus.STARTING
