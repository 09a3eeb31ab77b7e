"""The class that the host asks to delete a conversation's runtime, as it asks no conversation manager for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from openhands.runtime.base import Runtime

_delete: list[Callable[[str], Awaitable[None]]] = []


def use(config: Any, delete: Callable[[str], Awaitable[None]]) -> None:
    """Make the host delete runtimes by ``delete``."""
    _delete[:] = [delete]
    config.runtime = f"{NestedRuntimes.__module__}.{NestedRuntimes.__qualname__}"


class NestedRuntimes(Runtime):
    """Never an instance: nested servers have their own runtimes."""

    @classmethod
    async def delete(cls, conversation_id: str) -> None:
        """Remove the conversation's loop with its workspace."""
        await _delete[0](conversation_id)
