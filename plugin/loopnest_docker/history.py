"""Whether a container ever had its conversation, and whether its nested server still has it.

"The nested server does not know it" never means "it was never created": a server whose store was truncated by a full
disk does not know its conversations either.
"""

from __future__ import annotations

import asyncio
from typing import Final

from loopnest import LoopFailed, NestedError, Reason
from loopnest.aio import limited
from loopnest_docker.container import place_of
from loopnest_docker.contents import has_entries
from loopnest_docker.facts import Facts
from loopnest_docker.parts import Parts
from loopnest_nested.client import NestedServer

#: How the engine's times begin where something has not happened.
_NEVER: Final = "0001-"


class History:
    """Looks at the conversation of a container."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def is_there(self, container: Facts) -> bool:
        """Whether the container has a conversation, as far as the nested server or else its files can say."""
        known = await self.known(container)
        return await self.left(container) if known is None else known

    async def known(self, container: Facts) -> bool | None:
        """Whether the nested server has the conversation; None where it can't be asked, or the host creates them."""
        server = self._parts.view.server(container)
        if server is None or container.conversation is None or self._parts.view.foreign(container):
            return None
        try:
            asked = self._parts.dialect.has_conversation(server, container.conversation)
            return await limited(asked, self._parts.settings.probe_timeout)
        except (NestedError, asyncio.TimeoutError):
            return None

    async def left(self, container: Facts) -> bool:
        """Whether the nested server's store has files of a conversation."""
        return await has_entries(self._parts.engine, container.id, self._store(container))

    async def was_restarted(self, container: Facts) -> bool:
        """Whether the container ended before, and runs for the second time or more.

        Raises:
            NotOnEngine: it is gone.
        """
        state = (await self._parts.engine.call("inspect_container", container.id))["State"]
        return not str(state["FinishedAt"]).startswith(_NEVER)

    async def is_empty(self, container: Facts) -> bool:
        """Whether neither the store nor the workspace has anything in it."""
        workspace = self._parts.settings.workspace
        return not (await self.left(container) or await has_entries(self._parts.engine, container.id, workspace))

    async def check(self, container: Facts, server: NestedServer) -> None:
        """Refuse to create the conversation anew over what is left of it.

        Raises:
            LoopFailed: ``history-lost``.
            NestedError: the nested server could not be asked.
        """
        has = self._parts.dialect.has_conversation
        conversation_id = container.loop.conversation_id
        if await has(server, conversation_id):
            return
        lost = await self.was_restarted(container) and await self.left(container)
        if lost and not await has(server, conversation_id):  # asked again, as another replica may just have created it
            raise LoopFailed(self.lost(container), reason=Reason.HISTORY_LOST)

    def lost(self, container: Facts) -> str:
        """The message of ``history-lost``."""
        return (
            f"The nested server no longer has the conversation, although files of it are left in "
            f"{self._store(container)}: they are damaged, as after a full disk. Nothing was removed. Copy what you "
            f"need out of the container ('docker cp {container.name}:{self._parts.settings.workspace} .'), then close "
            f"the loop with 'remove' and start it again."
        )

    def _store(self, container: Facts) -> str:
        return self._parts.dialect.store(place_of(self._parts.settings), container.loop.conversation_id)
