"""The conversations that run as loops, found by the ids that clients use."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping, Set
from typing import Final
from uuid import UUID

import httpx
from pydantic import SecretStr

from loopnest import (
    EVERYONE,
    NOBODY,
    Loop,
    LoopFailed,
    LoopManager,
    LoopnestError,
    LoopNotFound,
    LoopStatus,
    NestedError,
    Reason,
    StartLoop,
)
from loopnest.idle import IdleKeeper
from loopnest_nested.client import NestedServer
from loopnest_openhands.agent_server import history, looks
from loopnest_openhands.agent_server.catalog import Catalog, Entry
from loopnest_openhands.agent_server.claims import Claims
from loopnest_openhands.agent_server.creations import Creations, left_nothing

_DIALECT: Final = "agent-server"
#: Tells the loops that this host made from others in its namespace.
_NOTES: Final = {"host": "agent-server"}
#: Exit codes of nested servers that were stopped from outside: by themselves, or by SIGTERM.
_ASKED_TO_END: Final = frozenset({0, 143})


class Conversations:
    """Finds, starts, asks and removes them. The agent server has no users, so no user owns a loop.

    A conversation is removed, and forgotten, only where a client asks for that. What its nested server lists decides
    neither, as an agent controls that, and it may have lost its store.

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
        self.claims = Claims(loops, catalog)
        self.creations = Creations(self)
        self.idle = IdleKeeper(loops, idle_after, self._is_busy, idle_time=self._idle_time, stop=self._stop)
        self._environment = {key: SecretStr(value) for key, value in (environment or {}).items()}

    async def find(self, conversation_id: UUID) -> Loop | None:
        """The loop whose nested server has the conversation; None where there is none."""
        try:
            return await self.loops.get_loop(await self._home(conversation_id))
        except LoopNotFound:
            return None

    def entry(self, conversation_id: UUID, loop: Loop) -> Entry | None:
        """What was last seen of a conversation in its loop."""
        entry = self.catalog.get(conversation_id)
        return entry if entry and entry.loop_id == loop.conversation_id else None

    @contextlib.asynccontextmanager
    async def open(self, conversation_id: UUID) -> AsyncIterator[NestedServer]:
        """Give the nested server of a conversation, started again if need be; it is not stopped while inside.

        Raises:
            LoopNotFound: there is no such conversation.
            LoopnestError: it could not be started.
        """
        async with self.open_loop(await self._home(conversation_id)) as server:
            yield server

    @contextlib.asynccontextmanager
    async def open_loop(self, loop_id: str) -> AsyncIterator[NestedServer]:
        """As `open`, for a loop."""
        async with self.idle.using(loop_id):
            loop = await self.loops.get_loop(loop_id)
            yield self.server(loop if _answers(loop) else await self._wake(loop))

    async def start(
        self, loop_id: str, variables: Mapping[str, str] | None = None, notes: Mapping[str, str] | None = None
    ) -> Loop:
        """Start a loop without any conversation, or again; ``notes`` are those of the start that makes it."""
        environment = self._environment | {key: SecretStr(value) for key, value in (variables or {}).items()}
        request = StartLoop(
            conversation_id=loop_id, conversation=None, notes={**_NOTES, **(notes or {})}, environment=environment
        )
        return await self.loops.start_loop(request)

    def server(self, loop: Loop) -> NestedServer:
        """The nested server of a running loop.

        Raises:
            LoopFailed: it can't be reached.
        """
        if loop.url is None or loop.session_key is None:
            raise LoopFailed(loop.message or "The loop can't be reached.", reason=loop.reason or Reason.NOT_RUNNING)
        return NestedServer(loop.url, loop.session_key, self._http)

    async def remove(self, conversation_id: UUID) -> None:
        """Remove a conversation, and its loop once no other conversation lives in it."""
        # A loop that is removed already is closed again without error.
        loop = await self.loops.get_loop(await self._home(conversation_id))
        if _answers(loop):
            await self.look(loop)
        if self.catalog.of(loop.conversation_id) - {conversation_id}:
            await self._remove_inside(conversation_id)
        else:
            await self.loops.close_session(loop.conversation_id, remove=True)
        self.catalog.forget({conversation_id})

    async def release(self, conversation_id: UUID) -> None:
        """Stop the loop of a conversation, which stays."""
        await self._stop(await self.loops.get_loop(await self._home(conversation_id)))

    async def every_loop(self) -> dict[str, Loop]:
        """All loops that a client of this host may know, by id."""
        return {it.conversation_id: it for it in await self.loops.list_loops() if it.dialect in (_DIALECT, None)}

    async def look(self, loop: Loop, known: Set[UUID] | None = None) -> None:
        """Ask a running loop for its conversations, and keep what it says, where it answers.

        Args:
            known: what the catalog has of it, where the caller has looked already.
        """
        known = self.catalog.of(loop.conversation_id) if known is None else known
        if page := await looks.conversations(self.server(loop), loop.conversation_id):
            await self.claims.keep(loop, page, known)

    async def check(self, conversation_id: UUID, server: NestedServer) -> None:
        """Ask a nested server whether it has a conversation that was seen in it before.

        Raises:
            LoopFailed: ``history-lost``: it says that it has not.
        """
        entry = self.catalog.get(conversation_id)
        if entry is None or entry.loop_id != await self._home(conversation_id):
            return
        try:
            answer = await server.respond("GET", f"/api/conversations/{conversation_id}", timeout=looks.GLANCE)
        except NestedError:
            return
        entry = self.catalog.get(conversation_id)
        if entry and answer.status_code == 404:
            self.catalog.lose(conversation_id)
            raise history.lost(entry)

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _home(self, conversation_id: UUID) -> str:
        """The loop that a conversation lives in, as far as is known: first of all the one that is named like it."""
        own, entry = str(conversation_id), self.catalog.get(conversation_id)
        if entry is None or entry.loop_id == own or await self._exists(own):
            return own
        return entry.loop_id

    async def _exists(self, loop_id: str) -> bool:
        try:
            return bool(await self.loops.get_loop(loop_id, EVERYONE))
        except LoopNotFound:
            return False

    async def _is_busy(self, loop: Loop) -> bool:
        """Whether an agent of a loop works; nothing is changed by asking."""
        if loop.owner != NOBODY or not _answers(loop):
            return True
        page = await looks.conversations(self.server(loop), loop.conversation_id)
        return page is None or any(info["execution_status"] == "running" for info in page.infos)

    async def _idle_time(self, loop: Loop) -> float:
        return await looks.idle_time(self.server(loop))

    async def _stop(self, loop: Loop) -> None:
        """Stop a loop, after a last look at its conversations; one that lost them all is listed as failed."""
        if _answers(loop):
            await self.look(loop)
        entries = [entry for entry in self.catalog.all().values() if entry.loop_id == loop.conversation_id]
        await self.loops.close_session(loop.conversation_id, failure=history.lost_by(entries))

    async def _remove_inside(self, conversation_id: UUID) -> None:
        """Have the nested server remove a conversation, unless it does not have it any more."""
        entry = self.catalog.get(conversation_id)
        try:
            async with self.open(conversation_id) as server:
                answer = await server.respond("DELETE", f"/api/conversations/{conversation_id}")
                if not answer.is_success and answer.status_code != 404:
                    raise server.refusal(answer)
        except LoopnestError:
            if entry is None or not entry.lost:
                raise

    async def _wake(self, loop: Loop) -> Loop:
        if left_nothing(loop):
            raise LoopFailed(loop.message or "The loop failed.", reason=loop.reason, log_tail=loop.log_tail)
        if loop.reason == Reason.FOREIGN_SECRET:
            raise LoopFailed(loop.message or "", reason=loop.reason)
        try:
            return await self.start(loop.conversation_id)
        except LoopFailed as error:
            if error.exit_code not in _ASKED_TO_END:
                raise
            return await self.start(loop.conversation_id)  # another replica was just stopping it


def _answers(loop: Loop) -> bool:
    return loop.status is LoopStatus.RUNNING and loop.url is not None
