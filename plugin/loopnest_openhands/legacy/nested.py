"""What the host's clients do with a conversation whose loop runs in a nested server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from openhands.llm.llm_registry import LLMRegistry
from openhands.server.constants import ROOM_KEY

from loopnest import Loop, LoopChange, LoopManager, LoopNotFound, LoopStatus
from loopnest_openhands.legacy import files, info, proxies, runtime
from loopnest_openhands.legacy.forward import Forward
from loopnest_openhands.legacy.history import NothingStored
from loopnest_openhands.legacy.host import Host
from loopnest_openhands.legacy.proxies import NestedConversation, NestedFacts
from loopnest_openhands.legacy.relay import Relays
from loopnest_openhands.legacy.settings import HostSettings
from loopnest_openhands.legacy.side import Uploaded
from loopnest_openhands.legacy.users import scope


class NestedSide:
    """See `Side`."""

    starts_at_once = False

    def __init__(self, host: Host, loops: LoopManager, settings: HostSettings) -> None:
        self.file_store = NothingStored(host.file_store)
        self._host, self._loops, self._limit = host, loops, settings.probe_timeout
        self._forward = Forward(loops.get_loop)
        self._relays = Relays(host, lambda sid: loops.get_loop(sid, self.user_of(sid)))
        self._facts: dict[str, tuple[str | None, NestedFacts]] = {}
        self._users: dict[str, str | None] = {}

    async def open(self) -> None:
        """Let the host delete runtimes through this."""
        runtime.use(self._host.config, self._delete)

    async def aclose(self) -> None:
        """Disconnect from all nested servers."""
        await self._relays.aclose()
        await self._forward.aclose()

    def remember(self, conversation_id: str, user_id: str | None) -> None:
        """Note who uses a conversation."""
        self._users[conversation_id] = user_id

    def user_of(self, conversation_id: str) -> str | None:
        """Who used a conversation last."""
        return self._users.get(conversation_id)

    async def describe(self, loops: Sequence[Loop], user_id: str | None) -> list[Any]:
        """Describe each loop with the status of its runtime; all nested servers are asked at once."""
        statuses = await asyncio.gather(*(self._forward.runtime_status(loop, self._limit) for loop in loops))
        return [info.describe(loop, user_id, status) for loop, status in zip(loops, statuses, strict=True)]

    async def _delete(self, conversation_id: str) -> None:
        with contextlib.suppress(LoopNotFound):
            await self._loops.close_session(conversation_id, scope(), remove=True)

    # --- socket.io --------------------------------------------------------------------------------------------------

    async def join(
        self,
        conversation_id: str,
        connection_id: str,
        settings: Any,  # noqa: ARG002 - the loop was started with them
        user_id: str | None,
    ) -> None:
        """Show a client all that happened and happens in a conversation."""
        await self._host.sio.enter_room(connection_id, ROOM_KEY.format(sid=conversation_id))
        self._relays.join(connection_id, conversation_id, user_id, self._latest_event_id(connection_id))

    async def leave(self, connection_id: str) -> None:
        """The client left."""
        await self._relays.leave(connection_id)

    def connections(self) -> dict[str, str]:
        """The conversation of each client."""
        return self._relays.connections()

    def changed(self, change: LoopChange) -> None:
        """Send the change to the clients."""
        self._relays.changed(change)

    async def expel(self, conversation_id: str) -> None:
        """Disconnect the clients of a conversation that is closed."""
        for connection_id in self._relays.members(conversation_id):
            await self._relays.leave(connection_id)
            await self._host.sio.disconnect(connection_id)

    def _latest_event_id(self, connection_id: str) -> int:
        """The last event that the client reports to have, as the host reads it."""
        environ = self._host.sio.get_environ(connection_id) or {}
        values = parse_qs(environ.get("QUERY_STRING", "")).get("latest_event_id", ["-1"])
        with contextlib.suppress(ValueError):
            return max(int(values[0]), -1)
        return -1

    # --- routes -----------------------------------------------------------------------------------------------------

    async def attach(self, conversation_id: str, user_id: str | None) -> NestedConversation | None:
        """Return what the host's routes work with; None where the user has no such conversation."""
        asking = scope(user_id)
        loop = None
        with contextlib.suppress(LoopNotFound):
            loop = await self._loops.get_loop(conversation_id, asking)
        if loop is None and not await self._host.knows(conversation_id, user_id):
            return None
        if loop:
            self.remember(conversation_id, user_id)
        nested = self._forward.to(conversation_id, asking)
        facts = await self._facts_of(loop, nested) if loop else NestedFacts()
        return NestedConversation(self._host, nested, user_id, facts)

    async def detach(self, conversation: Any) -> None:
        """Nothing is held."""

    def agent_session(self, conversation_id: str) -> Any:
        """What the host reads of an agent, having attached to its conversation before; None where it has not."""
        known = self._facts.get(conversation_id)
        return proxies.agent_session(known[1]) if known else None

    async def complete(self, conversation_id: str, service_id: str, llm_config: Any, messages: list[Any]) -> str:
        """Ask a language model something beside the conversation, with the user's own access to it."""
        loop = await self._either(conversation_id, service_id)
        service = service_id if loop.conversation_id == conversation_id else conversation_id
        registry = LLMRegistry(self._host.config)
        return str(await asyncio.to_thread(registry.request_extraneous_completion, service, llm_config, messages))

    async def list_files(self, conversation_id: str, path: str | None) -> list[str]:
        """See `files.list_files`."""
        return await files.list_files(self._forward.to(conversation_id, scope()), path)

    async def select_file(self, conversation_id: str, file: str) -> tuple[str | None, str | None]:
        """See `files.select_file`."""
        return await files.select_file(self._forward.to(conversation_id, scope()), file)

    async def upload_files(self, conversation_id: str, uploads: list[tuple[str, bytes]]) -> Uploaded:
        """See `files.upload_files`."""
        return await files.upload_files(self._forward.to(conversation_id, scope()), uploads)

    async def _facts_of(self, loop: Loop, nested: Any) -> NestedFacts:
        """The facts that do not change while a nested server runs; asked for once, as soon as it answers."""
        if loop.status is not LoopStatus.RUNNING:
            self._facts.pop(loop.conversation_id, None)
            return NestedFacts()
        url, facts = self._facts.get(loop.conversation_id, (None, NestedFacts()))
        if url != loop.url or not facts.complete:
            facts = await NestedFacts.ask(nested)
            self._facts[loop.conversation_id] = loop.url, facts
        return facts

    async def _either(self, first: str, second: str) -> Loop:
        """The loop that one of two ids names: the host's own route swaps the two arguments."""
        try:
            return await self._loops.get_loop(first, scope())
        except LoopNotFound:
            return await self._loops.get_loop(second, scope())
