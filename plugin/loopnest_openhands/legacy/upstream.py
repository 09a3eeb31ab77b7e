"""Containers that upstream's nested manager started, so that they can be used after a switch to loopnest.

Its container of a conversation is called ``openhands-runtime-<id>``, listens on the host port that its variable
``port`` names, and has a session key derived from the host's ``jwt_secret``. Only the directory that it mounts
shows who owns it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from docker.errors import DockerException, NotFound
from pydantic import SecretStr

import docker
from loopnest import Closed, Loop, LoopFailed, LoopStatus, NestedError, Reason, StartLoop, owner_of
from loopnest.validation import is_conversation_id
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import Dialect, Place, get_dialect
from loopnest_nested.quiescing import quiesce
from loopnest_nested.readiness import until_alive

_log = logging.getLogger(__name__)
_PREFIX: Final = "openhands-runtime-"
_USER: Final = re.compile(r"/users/([^/]+)/conversations/")
_PLACE: Final = Place(workspace="/workspace", data="/root/.openhands")
#: Seconds, as upstream's own waits were.
_BOOT: Final = 120
_STOP: Final = 10
_ENGINE: Final = 30


@dataclass(frozen=True)
class Found:
    """One of upstream's containers."""

    id: str
    conversation_id: str
    state: str
    port: int
    owner: str


class UpstreamContainers:
    """Finds and drives them; holds nothing but a cache of what never changes.

    Args:
        strategy: what `Loop.strategy` says of them.
        url: the host part of their addresses, as the host reaches them.
    """

    def __init__(self, jwt_secret: SecretStr, strategy: str, url: str) -> None:
        self._secret, self._strategy, self._url = jwt_secret, strategy, url.rstrip("/")
        self._dialect: Dialect = get_dialect("openhands-v0")
        self._http: httpx.AsyncClient = new_http_client()
        self._engine: Any = None
        self._fixed: dict[str, tuple[int, str] | None] = {}

    async def aclose(self) -> None:
        """Let go of the connections."""
        await self._http.aclose()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    async def loops(self) -> list[Loop]:
        """All of them as loops; none while the engine can't be asked, which the strategy will say."""
        return [self._loop(found) for found in await self._all()]

    async def find(self, conversation_id: str) -> Found | None:
        """The container of a conversation; None where upstream made none."""
        return next((it for it in await self._all() if it.conversation_id == conversation_id), None)

    async def start(self, found: Found, request: StartLoop) -> Loop:
        """Bring it up, and make sure that it has its conversation.

        Raises:
            LoopFailed: it did not come up.
        """
        if found.state != "running":
            await self._call("start", found.id)
        server = self._server(found)
        try:
            await until_alive(lambda: self._dialect.alive(server), asyncio.Event().wait(), _BOOT)
            await self._dialect.ensure_conversation(server, request, _PLACE)
        except asyncio.TimeoutError as error:
            raise LoopFailed(
                f"Upstream's container {_PREFIX}{found.conversation_id} was not ready within {_BOOT} s.",
                reason=Reason.START_TIMEOUT,
            ) from error
        except NestedError as error:
            raise LoopFailed(error.message, reason=error.reason) from error
        now = await self.find(found.conversation_id)
        return self._loop(now or found)

    async def send(self, found: Found, event: Any) -> Any:
        """Deliver an event."""
        return await self._dialect.send(self._server(found), found.conversation_id, event)

    async def close(self, found: Found, *, remove: bool) -> Closed:
        """Stop it: gracefully, then by force."""
        already, trouble = found.state != "running", None
        if not already:
            trouble = await quiesce(self._dialect, self._server(found), found.conversation_id, _STOP)
            await self._call("stop", found.id, timeout=_STOP)
        if remove:
            await self._call("remove_container", found.id, force=True, v=True)
        return Closed(
            conversation_id=found.conversation_id,
            graceful=not already and trouble is None,
            already=already,
            removed=remove,
            message=trouble,
        )

    # --- the engine -------------------------------------------------------------------------------------------------

    async def _all(self) -> list[Found]:
        try:
            entries = await self._call("containers", all=True, filters={"name": f"^/{_PREFIX}"})
            return [found for entry in entries if (found := await self._found(entry))]
        except DockerException as error:
            _log.warning("Upstream's containers can't be listed: %s", type(error).__name__)
            return []

    async def _found(self, entry: Mapping[str, Any]) -> Found | None:
        conversation_id = _conversation_id(entry.get("Names") or ())
        if conversation_id is None:
            return None
        if entry["Id"] not in self._fixed:
            try:
                self._fixed[entry["Id"]] = _fixed(await self._call("inspect_container", entry["Id"]))
            except NotFound:
                return None
        fixed = self._fixed[entry["Id"]]
        return Found(entry["Id"], conversation_id, entry["State"], *fixed) if fixed else None

    async def _call(self, method: str, *args: Any, **options: Any) -> Any:
        if self._engine is None:
            self._engine = (await asyncio.to_thread(docker.from_env, version="1.41", timeout=_ENGINE)).api
        return await asyncio.to_thread(getattr(self._engine, method), *args, **options)

    # --- as loops ---------------------------------------------------------------------------------------------------

    def _loop(self, found: Found) -> Loop:
        running = found.state == "running"
        return Loop(
            conversation_id=found.conversation_id,
            owner=found.owner,
            status=LoopStatus.RUNNING if running else LoopStatus.STOPPED,
            strategy=self._strategy,
            dialect=self._dialect.name,
            message="Started by upstream's nested manager.",
            url=self._server(found).url if running else None,
            session_key=self._key(found.conversation_id) if running else None,
            nested_id=found.conversation_id,
        )

    def _server(self, found: Found) -> NestedServer:
        return NestedServer(f"{self._url}:{found.port}", self._key(found.conversation_id), self._http)

    def _key(self, conversation_id: str) -> SecretStr:
        digest = hashlib.sha256(f"{self._secret.get_secret_value()}:{conversation_id}".encode()).digest()
        return SecretStr(base64.urlsafe_b64encode(digest).decode().replace("=", ""))


def _conversation_id(names: Iterable[str]) -> str | None:
    for name in names:
        conversation_id = name.lstrip("/").removeprefix(_PREFIX)
        if name.startswith(f"/{_PREFIX}") and is_conversation_id(conversation_id):
            return conversation_id
    return None


def _fixed(container: Mapping[str, Any]) -> tuple[int, str] | None:
    """Its port and owner; None where it is not upstream's after all."""
    environment = dict(line.partition("=")[::2] for line in container["Config"].get("Env") or ())
    if not environment.get("port", "").isdigit() or "SESSION_API_KEY" not in environment:
        return None
    users = [match[1] for bind in container["HostConfig"].get("Binds") or () if (match := _USER.search(bind))]
    return int(environment["port"]), owner_of(users[0] if users else None)
