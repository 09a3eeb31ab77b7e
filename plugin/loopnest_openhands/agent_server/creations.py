"""How conversations are created, and what is left where that fails."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

import httpx

from loopnest import Loop, LoopNotFound, LoopStatus, NestedError
from loopnest_nested.client import NestedServer
from loopnest_openhands.agent_server import looks
from loopnest_openhands.agent_server.claims import is_info, uuid_of
from loopnest_openhands.agent_server.launch import Start

if TYPE_CHECKING:
    from loopnest_openhands.agent_server.conversations import Conversations

#: Seconds for a nested server to create a conversation, which may fetch plugins.
_LIMIT: Final = 120.0
#: The note on a loop that names the request that made it.
_REQUEST: Final = "request"
#: Beside the directory of all conversations, where the nested server does not look for any.
_SET_ASIDE: Final = (
    'left={left}; place="$(dirname "$(dirname "$left")")/lost-conversations"; '
    'mkdir -p "$place" && mv -T "$left" "$place/$(basename "$left").$(date +%s)"'
)
_Params = Mapping[str, str]


class Creations:
    """Creates conversations, one request at a time for each."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations
        self._locks: WeakValueDictionary[UUID, asyncio.Lock] = WeakValueDictionary()

    async def create(self, conversation_id: UUID, start: Start, params: _Params) -> httpx.Response:
        """Start a loop and have its nested server create the conversation, or return the one there is.

        A conversation that lives in the loop of another, as forks do, is only asked for: what the request has may be
        meant for a loop of its own.

        Returns:
            The nested server's answer; where that is a refusal, a loop made for it is removed again.

        Raises:
            LoopnestError: the loop could not be started, or did not answer.
        """
        known = await self._conversations.find(conversation_id)
        if known and known.conversation_id != str(conversation_id):
            return await self._existing(conversation_id, params)
        lock = self._locks.setdefault(conversation_id, asyncio.Lock())
        async with lock, self._conversations.idle.using(str(conversation_id)):
            return await self._create(conversation_id, start, params)

    async def _existing(self, conversation_id: UUID, params: _Params) -> httpx.Response:
        async with self._conversations.open(conversation_id) as server:
            answer = await server.respond("GET", f"/api/conversations/{conversation_id}", params=params)
            if answer.status_code == 404:
                await self._conversations.check(conversation_id, server)
            return answer

    async def _create(self, conversation_id: UUID, start: Start, params: _Params) -> httpx.Response:
        loop, is_new = await self._loop(conversation_id, start.variables)
        server = self._conversations.server(loop)
        try:
            workspace = await _workspace(server, start.body)
            await self._set_aside(server, conversation_id)
        except NestedError:
            if is_new:
                await self._discard(loop)
            raise
        body = {**start.body, "conversation_id": str(conversation_id), "workspace": workspace}
        answer = await self._post(loop, conversation_id, body, params)
        if is_new and not answer.is_success:
            await self._discard(loop)
        return answer

    async def _set_aside(self, server: NestedServer, conversation_id: UUID) -> None:
        """Move what is left of a lost history away, as its nested server would fail on it; an operator may need it."""
        entry = self._conversations.catalog.get(conversation_id)
        left = entry.info.get("persistence_dir") if entry else None
        if isinstance(left, str):
            answer = await server.respond("GET", f"/api/conversations/{conversation_id}", timeout=looks.GLANCE)
            if answer.status_code == 404:
                await _run(server, _SET_ASIDE.format(left=shlex.quote(left)))

    async def _loop(self, conversation_id: UUID, variables: Mapping[str, str]) -> tuple[Loop, bool]:
        """Start the loop, and return whether this request made it: another replica may have, since it was looked up."""
        known, request_id = await self._conversations.find(conversation_id), uuid4().hex
        loop = await self._conversations.start(str(conversation_id), variables, {_REQUEST: request_id})
        return loop, (known is None or left_nothing(known)) and loop.notes.get(_REQUEST) == request_id

    async def _post(
        self, loop: Loop, conversation_id: UUID, body: Mapping[str, Any], params: _Params
    ) -> httpx.Response:
        """Have a conversation created, and keep it. Where that raises, it may have been created nevertheless."""
        server = self._conversations.server(loop)
        try:
            answer = await server.respond("POST", "/api/conversations", json=body, params=params, timeout=_LIMIT)
            if answer.is_success:
                self._keep(loop, conversation_id, _content(answer))
            return answer
        except NestedError as error:
            advice = f"Conversation {conversation_id} may have been created nevertheless: get it, or delete it."
            raise NestedError(f"{error.message} {advice}", reason=error.reason) from error

    def _keep(self, loop: Loop, conversation_id: UUID, info: Any) -> None:
        if uuid_of(info) != conversation_id:
            raise NestedError("The nested server answered with another conversation than it was asked to create.")
        if is_info(info):
            self._conversations.claims.keep_own(loop, info)

    async def _discard(self, loop: Loop) -> None:
        """Remove a loop that was made for a conversation that was then refused, unless it has any other.

        Where its nested server does not say so, it is only stopped.
        """
        conversations = self._conversations
        if conversations.catalog.of(loop.conversation_id):
            return
        page = await looks.conversations(conversations.server(loop), loop.conversation_id)
        if page is None or page.is_empty:
            with contextlib.suppress(LoopNotFound):
                closing = conversations.loops.close_session(loop.conversation_id, remove=page is not None)
                await asyncio.shield(closing)


def left_nothing(loop: Loop) -> bool:
    """Whether the start of a loop failed, and left nothing on the engine."""
    return loop.status is LoopStatus.FAILED and loop.created_at is None


def _content(answer: httpx.Response) -> Any:
    """The JSON of an answer; None where it is none."""
    try:
        return answer.json()
    except (ValueError, RecursionError):
        return None


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
    return str((await _run(server, 'echo "${OH_WORKSPACE_PATH:-$PWD}"'))["stdout"]).strip()


async def _run(server: NestedServer, command: str) -> Any:
    asked = {"command": command, "timeout": 10}
    return await server.request("POST", "/api/bash/execute_bash_command", json=asked, timeout=15)
