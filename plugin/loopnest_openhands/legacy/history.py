"""The stored events of a conversation, as the host replays them to clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, Final

from openhands.events.action import NullAction
from openhands.events.action.agent import RecallAction
from openhands.events.event_store import EventStore
from openhands.events.observation import NullObservation
from openhands.events.observation.agent import AgentStateChangedObservation
from openhands.events.serialization import event_to_dict

from loopnest_openhands.legacy.host import Host

_BATCH: Final = 50
#: How many ids beyond the first unknown one are remembered.
_WINDOW: Final = 1000
#: Never sent to clients.
_HIDDEN: Final = (NullAction, NullObservation, RecallAction)


class Progress:
    """Which events a client has been sent."""

    def __init__(self, latest: int) -> None:
        self.floor = latest
        self._above: set[int] = set()

    def first(self, event_id: int) -> bool:
        """Note an event; return whether it is new."""
        if event_id <= self.floor or event_id in self._above:
            return False
        self._above.add(event_id)
        if len(self._above) > _WINDOW:
            self.floor = max(self._above) - _WINDOW // 2
            self._above = {known for known in self._above if known > self.floor}
        while self.floor + 1 in self._above:
            self.floor += 1
            self._above.remove(self.floor)
        return True


async def unsent(
    host: Host, conversation_id: str, user_id: str | None, progress: Progress
) -> AsyncIterator[dict[str, Any]]:
    """Read what a client may see and was not sent, oldest first; of the agent's states only the last, at the end.

    A ``latest_event_id`` above the last stored id means that the client asks for new events only.
    The files are read in threads, some at a time.
    """
    store = EventStore(conversation_id, host.file_store, user_id)
    progress.floor = min(progress.floor, await asyncio.to_thread(store.get_latest_event_id))
    events = iter(store.search_events(progress.floor + 1))
    state: dict[str, Any] | None = None
    while batch := await asyncio.to_thread(_next, events):
        for event in batch:
            if not progress.first(event.id) or isinstance(event, _HIDDEN):
                continue
            if isinstance(event, AgentStateChangedObservation):
                state = event_to_dict(event)
            else:
                yield event_to_dict(event)
    if state:
        yield state


def _next(events: Iterator[Any]) -> list[Any]:
    return list(islice(events, _BATCH))


class NothingStored:
    """The host's file store, as if it were empty.

    The host shows its clients what is in the manager's file store before they join, and what happens between the two
    is lost to them. It is given this one, and the relay shows them everything.
    """

    def __init__(self, file_store: Any) -> None:
        self._file_store = file_store

    def list(self, path: str) -> list[str]:
        """There are no files."""
        raise FileNotFoundError(path)

    def read(self, path: str) -> str:
        """There are no files."""
        raise FileNotFoundError(path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file_store, name)
