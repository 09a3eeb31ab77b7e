"""From the session key in a request to the loop that it opens."""

from __future__ import annotations

import hashlib
import hmac

from loopnest import EVERYONE, Loop, LoopManager, LoopNotFound, LoopQuery


class SessionKeys:
    """An index of the keys of all loops, by digest: a look-up costs the same however many loops there are.

    It is a cache. A key that is not in it is looked for among the loops once more, and one that is found is compared
    with the key that the loop has now.
    """

    def __init__(self, loops: LoopManager) -> None:
        self._loops = loops
        self._ids: dict[bytes, str] = {}

    async def find(self, key: str) -> Loop | None:
        """Return the running loop that ``key`` opens."""
        if _digest(key) not in self._ids:
            await self._refresh()
        conversation_id = self._ids.get(_digest(key))
        if conversation_id is None:
            return None
        try:
            loop = await self._loops.get_loop(conversation_id, EVERYONE)
        except LoopNotFound:
            return None
        return loop if _opens(key, loop) else None

    async def _refresh(self) -> None:
        loops = await self._loops.list_loops(LoopQuery(user_id=EVERYONE))
        keys = {loop.conversation_id: loop.session_key for loop in loops}
        self._ids = {_digest(key.get_secret_value()): it for it, key in keys.items() if key}


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _opens(key: str, loop: Loop) -> bool:
    if loop.session_key is None:
        return False
    return hmac.compare_digest(loop.session_key.get_secret_value().encode(), key.encode())
