"""What the legacy OpenHands server loads by ``CONVERSATION_MANAGER_CLASS=loopnest_openhands.ConversationManager``.

It translates the host's interface to `LoopManager` and back, and decides nothing itself.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from fastapi import HTTPException
from openhands.server.conversation_manager.conversation_manager import ConversationManager as HostConversationManager
from socketio.exceptions import ConnectionRefusedError as ConnectionRefused

from loopnest import (
    EVERYONE,
    Everyone,
    InvalidRequest,
    Loop,
    LoopChange,
    LoopnestError,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    QuotaExceeded,
    StartLoop,
    owner_of,
)
from loopnest_openhands.legacy import build, limit, requests, users
from loopnest_openhands.legacy.host import Host
from loopnest_openhands.legacy.in_process import ClassStrategy, InProcessSide
from loopnest_openhands.legacy.info import ACTIVE
from loopnest_openhands.legacy.nested import NestedSide
from loopnest_openhands.legacy.side import Side
from loopnest_openhands.legacy.users import scope

_log = logging.getLogger(__name__)
_STATUS: dict[type[LoopnestError], int] = {InvalidRequest: 400, LoopNotFound: 404, QuotaExceeded: 429}


class ConversationManager(HostConversationManager):
    """Runs the host's conversations where loopnest's configuration says."""

    def __init__(self, host: Host, built: build.Built) -> None:
        self.sio, self.config = host.sio, host.config
        self._host, self._settings, self._loops = host, built.plugin.settings, built.loops
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._tasks: set[asyncio.Task[None]] = set()
        self._side: Side = (
            InProcessSide(built.strategy, host.file_store)
            if isinstance(built.strategy, ClassStrategy)
            else NestedSide(host, built.loops, built.plugin.settings)
        )
        self.file_store = self._side.file_store
        built.plugin.listeners.append(self._changed)

    @classmethod
    def get_instance(
        cls, sio: Any, config: Any, file_store: Any, server_config: Any, monitoring_listener: Any
    ) -> ConversationManager:
        """Build it from loopnest's configuration; the host does not start where that is wrong.

        Raises:
            ConfigurationError: with what is wrong, where, and what to do about it.
        """
        host = Host(sio, config, file_store, server_config, monitoring_listener)
        users.watch(server_config)
        return cls(host, build.build(host))

    async def __aenter__(self) -> ConversationManager:
        """Open the plugins."""
        await self._loops.__aenter__()
        await self._side.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close them; the loops go on running."""
        await self._side.aclose()
        await self._loops.aclose()

    # --- starting and closing ---------------------------------------------------------------------------------------

    async def maybe_start_agent_loop(
        self, sid: str, settings: Any, user_id: str | None, initial_user_msg: Any = None, replay_json: str | None = None
    ) -> Any:
        """Start the conversation's loop unless it runs, and say how it is, without waiting until it is up.

        Raises:
            HTTPException: it can't be started now; with what to do about it.
        """
        asked = requests.asked_for(settings, initial_user_msg, replay_json)
        try:
            loop = await self._start(sid, settings, user_id, asked, wait=self._side.starts_at_once)
        except LoopnestError as error:
            raise HTTPException(_STATUS.get(type(error), 503), error.message) from error
        return await self._info(loop, user_id)

    async def close_session(self, sid: str) -> None:
        """Stop the conversation's loop, and disconnect its clients."""
        try:
            await self._loops.get_loop(sid, scope())
        except LoopNotFound:
            return
        await self._side.expel(sid)
        await self._loops.close_session(sid, scope())

    async def _start(self, sid: str, settings: Any, user_id: str | None, asked: dict[str, Any], *, wait: bool) -> Loop:
        async with self._lock(f"user {user_id}"):  # two at once must not both find room for one
            known = await self._known(sid, user_id)
            if known is None or known.status not in ACTIVE:
                await self._make_room(sid, user_id)
            if asked and known is None:
                await self._host.keep_pending(sid, user_id, asked)
            request = await self._request(sid, settings, user_id, asked)
            loop = await self._loops.start_loop(request, user_id, wait=False)
        return await self._loops.start_loop(request, user_id) if wait else loop

    async def _known(self, sid: str, user_id: str | None) -> Loop | None:
        """The user's loop; None where there is none of that id.

        Raises:
            LoopNotFound: another user owns it; nothing of this request is noted.
        """
        try:
            loop = await self._loops.get_loop(sid, EVERYONE)
        except LoopNotFound:
            return None
        if loop.owner != owner_of(user_id):
            raise LoopNotFound(sid)
        return loop

    async def _request(self, sid: str, settings: Any, user_id: str | None, asked: dict[str, Any]) -> StartLoop:
        self._side.remember(sid, user_id)
        self._host.users[sid] = user_id
        pending = await self._host.pending(sid, user_id)
        environment = self.config.sandbox.runtime_startup_env_vars
        return requests.start_request(sid, settings, {**pending, **asked}, environment)

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    async def _make_room(self, sid: str, user_id: str | None) -> None:
        for other in await limit.to_close(self._host, self._loops, self._settings, sid, user_id):
            await limit.notify(self._host, other)
            await self._side.expel(other)
            await self._loops.close_session(other, user_id)

    async def _info(self, loop: Loop, user_id: str | None) -> Any:
        return (await self._side.describe([loop], user_id))[0]

    # --- listing ----------------------------------------------------------------------------------------------------

    async def get_running_agent_loops(
        self, user_id: str | None = None, filter_to_sids: set[str] | None = None
    ) -> set[str]:
        """The conversations whose loops run or start."""
        return {loop.conversation_id for loop in await self._list(user_id, filter_to_sids, ACTIVE)}

    async def get_agent_loop_info(
        self, user_id: str | None = None, filter_to_sids: set[str] | None = None
    ) -> list[Any]:
        """How the loops are, all at once."""
        loops = await self._list(user_id, filter_to_sids, None)
        return await self._side.describe(loops, user_id)

    async def get_connections(
        self, user_id: str | None = None, filter_to_sids: set[str] | None = None
    ) -> dict[str, str]:
        """The conversation of each client of this host process."""
        return {
            connection_id: sid
            for connection_id, sid in self._side.connections().items()
            if (filter_to_sids is None or sid in filter_to_sids)
            and (user_id is None or self._side.user_of(sid) == user_id)
        }

    async def _list(
        self,
        user_id: str | None,
        sids: set[str] | None,
        statuses: frozenset[LoopStatus] | None,
    ) -> list[Loop]:
        ids = None if sids is None else frozenset(sids)
        return await self._loops.list_loops(LoopQuery(user_id=scope(user_id), conversation_ids=ids, statuses=statuses))

    # --- events -----------------------------------------------------------------------------------------------------

    async def join_conversation(self, sid: str, connection_id: str, settings: Any, user_id: str | None) -> Any:
        """Start the loop unless it runs, and let the client take part.

        Raises:
            ConnectionRefusedError: (socket.io's) with the reason.
        """
        try:
            loop = await self._start(sid, settings, user_id, {}, wait=self._side.starts_at_once)
        except LoopnestError as error:
            raise ConnectionRefused(error.message) from error
        await self._side.join(sid, connection_id, settings, user_id)
        return await self._info(loop, user_id)

    async def disconnect_from_session(self, connection_id: str) -> None:
        """The client left."""
        await self._side.leave(connection_id)

    async def send_to_event_stream(self, connection_id: str, data: dict[str, Any]) -> None:
        """Deliver a client's event to its conversation; a failure is sent back to that client."""
        try:
            sid = self._side.connections().get(connection_id, "")
            await self._send(sid, data, self._side.user_of(sid))
        except LoopnestError as error:
            failure = {"status_update": True, "type": "error", "id": "STATUS$ERROR", "message": error.message}
            await self.sio.emit("oh_event", failure, to=connection_id)

    async def send_event_to_conversation(self, sid: str, data: dict[str, Any]) -> None:
        """Deliver an event to a conversation.

        Raises:
            HTTPException: it was not delivered; with the reason.
        """
        user = scope()
        try:
            await self._send(sid, data, self._side.user_of(sid) if isinstance(user, Everyone) else user)
        except LoopnestError as error:
            raise HTTPException(_STATUS.get(type(error), 502), error.message) from error

    async def _send(self, sid: str, data: dict[str, Any], user_id: str | None) -> None:
        """Events arrive in the order of the calls, so the lock comes before everything that waits."""
        async with self._lock(f"conversation {sid}"):
            loop = await self._loops.get_loop(sid, user_id)
            if loop.status is not LoopStatus.RUNNING:
                settings = await self._host.init_data(sid, user_id)
                await self._start(sid, settings, user_id, {}, wait=True)
            await self._loops.send_event(sid, requests.to_event(data), user_id)

    def _changed(self, change: LoopChange) -> None:
        self._side.changed(change)
        if change.status is LoopStatus.RUNNING:
            task = asyncio.ensure_future(self._settle(change.conversation_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle(self, sid: str) -> None:
        """The nested server has the conversation: what it was asked for need not be kept."""
        await self._host.drop_pending(sid, self._side.user_of(sid))

    # --- what routes attach to --------------------------------------------------------------------------------------

    async def attach_to_conversation(self, sid: str, user_id: str | None = None) -> Any:
        """See `Side.attach`."""
        return await self._side.attach(sid, user_id)

    async def detach_from_conversation(self, conversation: Any) -> None:
        """See `Side.detach`."""
        await self._side.detach(conversation)

    def get_agent_session(self, sid: str) -> Any:
        """See `Side.agent_session`."""
        return self._side.agent_session(sid)

    async def request_llm_completion(self, sid: str, service_id: str, llm_config: Any, messages: list[Any]) -> str:
        """See `Side.complete`."""
        return await self._side.complete(sid, service_id, llm_config, messages)

    async def list_files(self, sid: str, path: str | None = None) -> list[str]:
        """See `Side.list_files`."""
        return await self._side.list_files(sid, path)

    async def select_file(self, sid: str, file: str) -> tuple[str | None, str | None]:
        """See `Side.select_file`."""
        return await self._side.select_file(sid, file)

    async def upload_files(self, sid: str, files: list[tuple[str, bytes]]) -> tuple[list[str], list[dict[str, str]]]:
        """See `Side.upload_files`."""
        return await self._side.upload_files(sid, files)
