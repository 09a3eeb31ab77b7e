"""What nested servers say of conversations, checked before it is believed: agents control them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from loopnest import EVERYONE, Loop, LoopManager, LoopQuery
from loopnest_openhands.agent_server.catalog import Catalog

_log = logging.getLogger(__name__)
Info = dict[str, Any]
#: Conversations that are asked of a nested server at once, and read of its answer.
PAGE: Final = 100
#: Conversations of one loop, at the most.
_MOST: Final = 1000
#: What every conversation's ``ConversationInfo`` has, as text.
_REQUIRED: Final = ("id", "execution_status", "created_at", "updated_at")
#: Warnings that are remembered, so that each is logged once.
_WARNINGS: Final = 1000


@dataclass(frozen=True)
class Page:
    """The conversations that a nested server lists.

    Attributes:
        infos: those that are well-formed.
        ids: of all whose ids are.
        malformed: whether any has an id that can't be read.
        complete: there are no others.
    """

    infos: tuple[Info, ...]
    ids: frozenset[UUID]
    malformed: bool
    complete: bool

    @property
    def is_empty(self) -> bool:
        """Whether it lists nothing at all."""
        return self.complete and not self.ids


def read_page(answer: Any) -> Page | None:
    """Read what a nested server answered to a search; None where that is no page."""
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        return None
    first = items[:PAGE]
    ids = [uuid_of(item) for item in first]
    return Page(
        infos=tuple(item for item in first if is_info(item)),
        ids=frozenset(found for found in ids if found),
        malformed=None in ids,
        complete=None not in ids and len(items) <= PAGE and answer.get("next_page_id") is None,
    )


def is_info(item: Any) -> bool:
    """Whether it has all that is read of a ``ConversationInfo`` here."""
    return (
        isinstance(item, dict)
        and all(isinstance(item.get(key), str) for key in _REQUIRED)
        and uuid_of(item) is not None
    )


def uuid_of(item: Any) -> UUID | None:
    """The id of the conversation that an answer is about, where it has one."""
    return _uuid(item.get("id")) if isinstance(item, dict) else None


def names_of(loop: Loop) -> frozenset[UUID]:
    """The ids of conversations that are the loop's own because it is named so."""
    found = map(_uuid, (loop.conversation_id, loop.nested_id))
    return frozenset(name for name in found if name)


class Claims:
    """Decides which of the conversations that a nested server lists are its own, and keeps those in the catalog.

    A conversation that is named like a loop belongs to that loop, even where another one lists it. Any other belongs to
    the loop that had it first, as long as the catalog knows.

    Attributes:
        local: gives the ids of the conversations that run in no loop.
    """

    def __init__(self, loops: LoopManager, catalog: Catalog) -> None:
        self._loops, self._catalog = loops, catalog
        self._warned: set[tuple[str, str]] = set()
        self.local: Callable[[], Awaitable[Set[UUID]]] = _none

    async def elsewhere(self, conversation_ids: Set[UUID], loop: Loop) -> Set[UUID]:
        """Those of ``conversation_ids`` that live in another loop, or in none."""
        loops = await self._loops.list_loops(LoopQuery(user_id=EVERYONE))
        others = (names_of(other) for other in loops if other.conversation_id != loop.conversation_id)
        taken = frozenset[UUID]().union(*others) | await self.local()
        return {key for key in conversation_ids if key in taken or self._is_of_another(key, loop)}

    async def keep(self, loop: Loop, page: Page, known: Set[UUID]) -> None:
        """Keep what a nested server lists, and note which conversations it does not have any more.

        Args:
            known: what the catalog had of the loop before the nested server was asked.
        """
        new = page.ids - known - names_of(loop)
        refused = await self.elsewhere(new, loop) if new else frozenset[UUID]()
        if page.malformed:
            self._warn(loop, "conversations with malformed ids")
        for info in page.infos:
            self._consider(loop, info, known, refused)
        for key in known - page.ids if page.complete else ():
            if not self._is_of_another(key, loop):
                self._catalog.lose(key)

    def _consider(self, loop: Loop, info: Info, known: Set[UUID], refused: Set[UUID]) -> None:
        key = UUID(info["id"])
        if key in known and self._catalog.get(key) is None:
            return  # deleted while the nested server was asked
        if key in refused or (key not in names_of(loop) and self._is_of_another(key, loop)):
            self._warn(loop, f"conversation {key}, which lives elsewhere")
        elif key not in known and len(known) >= _MOST:
            self._warn(loop, f"conversations beyond the first {_MOST}")
        else:
            self.keep_own(loop, info)

    def keep_own(self, loop: Loop, info: Info) -> None:
        """Keep what a nested server says of a conversation that is its own."""
        try:
            self._catalog.keep(loop.conversation_id, info)
        except (ValueError, RecursionError):
            self._warn(loop, "conversations with malformed summaries")

    def _is_of_another(self, conversation_id: UUID, loop: Loop) -> bool:
        entry = self._catalog.get(conversation_id)
        return entry is not None and entry.loop_id != loop.conversation_id

    def _warn(self, loop: Loop, what: str) -> None:
        """Log, once, what is ignored."""
        if (loop.conversation_id, what) not in self._warned:
            if len(self._warned) >= _WARNINGS:
                self._warned.clear()
            self._warned.add((loop.conversation_id, what))
            _log.warning("Ignored of what the nested server of loop %s lists: %s", loop.conversation_id, what)


def _uuid(text: object) -> UUID | None:
    """An id as agent servers write it, with or without hyphens."""
    if not isinstance(text, str):
        return None
    try:
        found = UUID(text)
    except ValueError:
        return None
    return found if found.hex == text.replace("-", "").lower() else None


async def _none() -> Set[UUID]:
    return frozenset()
