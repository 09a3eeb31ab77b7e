"""The loops that one user may see, with the app server's errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from openhands.app_server.errors import SandboxError

from loopnest import (
    EVERYONE,
    Everyone,
    InvalidRequest,
    Loop,
    LoopManager,
    LoopnestError,
    LoopNotFound,
    LoopQuery,
    StartLoop,
    owner_of,
)
from loopnest.validation import made


class Scope:
    """The loops of ``user_id``; None stands for all users, as everywhere in the app server: for the request of an
    administrator, or an app server without users.

    Every method raises `SandboxError` where loopnest can't do what is asked.
    """

    def __init__(self, manager: LoopManager, user_id: str | None) -> None:
        self._manager = manager
        self._user: str | Everyone = user_id or EVERYONE

    def has(self, loop: Loop) -> bool:
        """Whether the user may see ``loop``."""
        return isinstance(self._user, Everyone) or loop.owner == owner_of(self._user)

    async def list(self, sandbox_ids: frozenset[str] | None = None) -> list[Loop]:
        """List them, or those of ``sandbox_ids`` that there are."""
        with _explained():
            return await self._manager.list_loops(LoopQuery(user_id=self._user, conversation_ids=sandbox_ids))

    async def find(self, sandbox_id: str) -> Loop | None:
        """Return one of them."""
        with _explained():
            try:
                return await self._manager.get_loop(sandbox_id, self._user)
            except (LoopNotFound, InvalidRequest):
                return None

    async def start(self, user_id: str | None, **request: Any) -> Loop:
        """Begin to start one for a user, as a `StartLoop` of these values says."""
        with _explained():
            return await self._manager.start_loop(made(StartLoop, **request), user_id, wait=False)

    async def close(self, sandbox_id: str, *, remove: bool) -> bool:
        """Stop or remove one; return whether it was there."""
        with _explained():
            try:
                await self._manager.close_session(sandbox_id, self._user, remove=remove)
            except (LoopNotFound, InvalidRequest):
                return False
            return True


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except LoopnestError as error:
        raise SandboxError(f"{error.message} ({error.reason})") from error
