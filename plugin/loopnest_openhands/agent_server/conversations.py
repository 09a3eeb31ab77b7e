"""The conversations that run as loops, found by the ids that clients use."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Mapping, Set
from pathlib import PurePosixPath
from typing import Any, Final
from uuid import UUID

import httpx
from pydantic import SecretStr

from loopnest import (
    Loop,
    LoopFailed,
    LoopManager,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    NestedError,
    Reason,
    StartLoop,
)
from loopnest.idle import IdleKeeper
from loopnest_nested.client import NestedServer
from loopnest_openhands.agent_server.catalog import Catalog
from loopnest_openhands.agent_server.launch import Start

_log = logging.getLogger(__name__)
_DIALECT: Final = "agent-server"
#: Tells the loops that this host made from others in its namespace.
_NOTES: Final = {"host": "agent-server"}
#: Seconds for a nested server to say what it has; one that hangs must not hold up the others.
_GLANCE: Final = 3.0
#: Seconds for a nested server to create a conversation, which may fetch plugins.
_CREATION: Final = 120.0


class Conversations:
    """Finds, starts, asks and removes them. The agent server knows no users, so every loop is nobody's.

    Args:
        idle_after: stop unused loops after so many seconds.
        environment: variables for nested servers.
    """

    def __init__(
        self,
        loops: LoopManager,
        catalog: Catalog,
        http: httpx.AsyncClient,
        *,
        idle_after: float | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.loops, self.catalog, self._http = loops, catalog, http
        self.idle = IdleKeeper(loops, idle_after, self._is_busy)
        self._environment = {key: SecretStr(value) for key, value in (environment or {}).items()}

    async def find(self, conversation_id: UUID) -> Loop | None:
        """The loop whose nested server has the conversation; None where there is none."""
        try:
            return await self.loops.get_loop(self.catalog.home(conversation_id))
        except LoopNotFound:
            return None

    @contextlib.asynccontextmanager
    async def open(self, conversation_id: UUID) -> AsyncIterator[NestedServer]:
        """Give the nested server of a conversation, started again if need be; it is not stopped while inside.

        Raises:
            LoopNotFound: there is no such conversation.
            LoopnestError: it could not be started.
        """
        async with self.open_loop(self.catalog.home(conversation_id)) as server:
            yield server

    @contextlib.asynccontextmanager
    async def open_loop(self, loop_id: str) -> AsyncIterator[NestedServer]:
        """As `open`, for a loop."""
        async with self.idle.using(loop_id):
            loop = await self.loops.get_loop(loop_id)
            yield self._server(loop if _answers(loop) else await self._wake(loop))

    async def create(self, conversation_id: UUID, start: Start, params: Mapping[str, str]) -> httpx.Response:
        """Start a loop and have its nested server create the conversation, or tell of the one it has.

        Returns:
            The nested server's answer; where that is a refusal, a loop made for it is removed again.

        Raises:
            LoopnestError: the loop could not be started, or did not answer.
        """
        known = await self.find(conversation_id)
        loop_id = known.conversation_id if known else str(conversation_id)
        async with self.idle.using(loop_id):
            server = self._server(await self._start(loop_id, start.variables))
            try:
                answer = await self._post(server, conversation_id, start.body, params)
            except NestedError:
                await self._undo(known, loop_id)
                raise
            if answer.is_success:
                self.catalog.keep(loop_id, answer.json())
            else:
                await self._undo(known, loop_id)
            return answer

    async def remove(self, conversation_id: UUID) -> None:
        """Remove a conversation, and its loop once no other conversation lives in it."""
        loop_id = self.catalog.home(conversation_id)
        await self.loops.get_loop(loop_id)  # a loop that is removed already is closed again without error
        others = self.catalog.of(loop_id) - {conversation_id}
        if others:
            async with self.open(conversation_id) as server:
                await server.request("DELETE", f"/api/conversations/{conversation_id}")
        else:
            await self.loops.close_session(loop_id, remove=True)
        self.catalog.forget({conversation_id})

    async def release(self, conversation_id: UUID) -> None:
        """Stop the loop of a conversation, which stays."""
        loop = await self.loops.get_loop(self.catalog.home(conversation_id))
        if _answers(loop):
            await self.look(loop)
        await self.loops.close_session(loop.conversation_id)

    async def every_loop(self) -> dict[str, Loop]:
        """All loops that a client of this host may know, by id."""
        return {it.conversation_id: it for it in await self.loops.list_loops() if it.dialect in (_DIALECT, None)}

    async def look(self, loop: Loop, known: Set[UUID] | None = None) -> list[dict[str, Any]] | None:
        """Ask a running loop for its conversations, and note what it says; None where it does not answer.

        Args:
            known: what the catalog has of it, where the caller has looked already.
        """
        try:
            page: Any = await self._server(loop).request(
                "GET", "/api/conversations/search", params={"limit": 100}, timeout=_GLANCE
            )
        except NestedError as error:
            _log.info("Loop %s does not tell its conversations: %s", loop.conversation_id, error.message)
            return None
        infos: list[dict[str, Any]] = page["items"]
        for info in infos:
            self.catalog.keep(loop.conversation_id, info)
        known = self.catalog.of(loop.conversation_id) if known is None else known
        self.catalog.forget(known - {UUID(info["id"]) for info in infos})
        return infos

    async def _is_busy(self, loop: Loop) -> bool:
        """Whether an agent works in a loop; notes what is there, as it may be stopped next."""
        query = LoopQuery(user_id=None, conversation_ids=frozenset({loop.conversation_id}))
        if not await self.loops.list_loops(query) or not _answers(loop):
            return True  # somebody else's
        infos = await self.look(loop)
        if infos == [] and loop.notes.get("host") == _NOTES["host"]:
            _log.info("Removing loop %s, whose conversation was never created", loop.conversation_id)
            await self.loops.close_session(loop.conversation_id, remove=True)
            return True
        return infos is None or any(info["execution_status"] == "running" for info in infos)

    async def _wake(self, loop: Loop) -> Loop:
        if loop.status is LoopStatus.FAILED and loop.created_at is None:  # its start failed, and left nothing
            raise LoopFailed(loop.message or "The loop failed.", reason=loop.reason, log_tail=loop.log_tail)
        if loop.reason == Reason.FOREIGN_SECRET:
            raise LoopFailed(loop.message or "", reason=loop.reason)
        return await self._start(loop.conversation_id)

    async def _start(self, loop_id: str, variables: Mapping[str, str] | None = None) -> Loop:
        environment = self._environment | {key: SecretStr(value) for key, value in (variables or {}).items()}
        request = StartLoop(conversation_id=loop_id, bare=True, notes=_NOTES, environment=environment)
        return await self.loops.start_loop(request)

    async def _post(
        self, server: NestedServer, conversation_id: UUID, body: Mapping[str, Any], params: Mapping[str, str]
    ) -> httpx.Response:
        placed = {**body, "conversation_id": str(conversation_id), "workspace": await _workspace(server, body)}
        return await server.respond("POST", "/api/conversations", json=placed, params=params, timeout=_CREATION)

    async def _undo(self, known: Loop | None, loop_id: str) -> None:
        if known is None:
            with contextlib.suppress(LoopNotFound):
                await asyncio.shield(self.loops.close_session(loop_id, remove=True))

    def _server(self, loop: Loop) -> NestedServer:
        if loop.url is None or loop.session_key is None:
            raise LoopFailed(loop.message or "The loop can't be reached.", reason=loop.reason or Reason.NOT_RUNNING)
        return NestedServer(loop.url, loop.session_key, self._http)


def _answers(loop: Loop) -> bool:
    return loop.status is LoopStatus.RUNNING and loop.url is not None


async def _workspace(server: NestedServer, body: Mapping[str, Any]) -> dict[str, Any]:
    """The directory that the client names, if it is one of the loop's own; else the loop's default.

    A path of the client's or the host's means nothing inside a container.
    """
    wanted = dict(body.get("workspace") or {})
    own = PurePosixPath(await _directory(server))
    named = PurePosixPath(str(wanted.get("working_dir", "")))
    inside = own.parent in (named, *named.parents) and ".." not in named.parts
    return {"kind": "LocalWorkspace", **wanted, "working_dir": str(named if inside else own)}


async def _directory(server: NestedServer) -> str:
    """Where the loop's agents work, as its strategy set it; not where its server runs."""
    command = {"command": 'echo "${OH_WORKSPACE_PATH:-$PWD}"', "timeout": 10}
    answer: Any = await server.request("POST", "/api/bash/execute_bash_command", json=command, timeout=15)
    return str(answer["stdout"]).strip()
