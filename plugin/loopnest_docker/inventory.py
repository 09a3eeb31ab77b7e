"""All containers of a namespace, in one engine call, kept fresh by the engine's event stream.

The engine is the only source of truth; this is a cache of it that may be dropped at any time. While the event stream
is alive, a container is looked at again when an event names it, or when one of our own operations touched it (so that
we read our writes); otherwise the cache answers. After any gap in the stream everything is listed again, stream first,
listing second, so that nothing falls in between. Streams are known to end quietly, and to go silent: that is why the
cache is also listed anew when it is older than a bound, and not used at all while there is no stream.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from loopnest import EngineError
from loopnest.aio import limited
from loopnest_docker import facts as container_facts
from loopnest_docker import naming
from loopnest_docker.engine import Engine
from loopnest_docker.events import EngineEvent, EventStream
from loopnest_docker.facts import Facts, Slot

_log = logging.getLogger(__name__)
#: Events after which a container looks different in the engine's listing, or how it ended is judged differently: files
#: are extracted into it when a request to stop it is noted.
_RELEVANT: Final = frozenset(
    {"create", "start", "die", "stop", "kill", "destroy", "rename", "pause", "unpause", "restart", "oom", "update"}
    | {"extract-to-dir"}
)
_NOTHING: Final[Mapping[str, Facts]] = {}


class Inventory:
    """The containers of ``namespace``, by id.

    Args:
        on_exit: called with the facts from before and the exit code when a container's process ends.
        max_age: seconds after which everything is listed again, stream or not.
    """

    def __init__(
        self, engine: Engine, namespace: str, on_exit: Callable[[Facts, int | None], None], max_age: float = 30
    ) -> None:
        self._engine, self._on_exit, self._max_age = engine, on_exit, max_age
        self._label = f"{naming.NAMESPACE}={namespace}"
        self._containers: dict[str, Facts] = {}
        self._slots: dict[str, Slot] = {}
        self._by_conversation: dict[str, list[Facts]] = {}
        self._dirty: dict[str, int] = {}  # containers to look at again, by the number of the last touch of each
        self._touches = self._looked = 0  # the number of the last touch, and of the last one before an answered look
        self._gaps = 0
        self._listed_at = float("-inf")
        self._began = float("-inf")  # of the last full listing that succeeded, even if a gap made it worthless since
        self._failure: tuple[float, EngineError] | None = None  # of the last look that failed, and when it did
        self._lock = asyncio.Lock()
        self._deaths: dict[str, asyncio.Event] = {}
        self._stream = EventStream(engine, self._label, self._on_event, self._on_gap)

    async def open(self) -> None:
        """Begin to follow the engine's events."""
        self._stream.open()

    async def aclose(self) -> None:
        """Stop following."""
        await self._stream.aclose()

    @property
    def age(self) -> float:
        """Seconds since everything was listed; infinite where a gap made the cache worthless."""
        return time.monotonic() - self._listed_at

    async def all(self) -> Mapping[str, Facts]:
        """The containers by id, as fresh as the engine's last event.

        Callers that wait at the same time share the next listing, or its failure. Otherwise, where there is no stream,
        each would wait for the listings of all callers before it.

        Raises:
            EngineError: the cache can't be used, and the engine does not answer.
        """
        asked, touches = time.monotonic(), self._touches
        if self._needs_listing() or self._looked < touches:
            async with self._lock:
                await self._look(asked, touches)
        return self._containers

    async def _look(self, asked: float, touches: int) -> None:
        """Ask the engine for what a caller that came at ``asked``, after so many touches, must see."""
        if self._failure and self._failure[0] >= asked:  # it failed while this caller waited
            error = self._failure[1]
            raise EngineError(error.message, reason=error.reason) from error
        try:
            if self._needs_listing() and self._began < asked:
                await self._list_all()
            elif self._looked < touches:
                await self._list_some()
        except EngineError as error:
            self._failure = time.monotonic(), error
            raise

    async def of(self, conversation_id: str) -> list[Facts]:
        """The containers of a conversation of any owner, oldest first: at most one, except in races."""
        await self.all()
        return self._by_conversation.get(conversation_id, [])

    async def select(self, conversation_ids: Iterable[str] | None) -> list[Facts]:
        """One container for each of these conversations, or for all: the older one while two users race for an id."""
        await self.all()
        wanted = self._by_conversation if conversation_ids is None else conversation_ids
        return [found[0] for key in wanted if (found := self._by_conversation.get(key))]

    async def slots(self, role: str) -> list[Slot]:
        """The containers of the pool (``slot``) or their tokens (``token``, ``taken``), oldest first."""
        await self.all()
        found = (slot for slot in self._slots.values() if slot.role == role)
        return sorted(found, key=lambda it: (it.container.created_at, it.container.id))

    async def look(self, name: naming.LoopName) -> list[Facts]:
        """Ask the engine, not the cache, for the containers of this conversation."""
        pattern = f"^/loopnest\\.{name.namespace}\\.{name.conversation_id}\\."
        entries = await self._query({"label": [self._label], "name": pattern})
        return [found for entry in entries if (found := container_facts.read(entry))]

    def touch(self, container_id: str) -> None:
        """Look at this container again before the next answer: we just changed it."""
        self._touches += 1
        self._dirty[container_id] = self._touches

    async def until_dead(self, container_id: str) -> None:
        """Return when the container's process has ended, or the container is gone."""
        event = self._deaths.setdefault(container_id, asyncio.Event())
        try:
            while not await self._is_dead(container_id):
                # The event is the fast way; looking now and then is for streams that are down.
                await _wait(event, 2.0 if self._stream.alive else 0.25)
        finally:
            self._deaths.pop(container_id, None)

    async def _is_dead(self, container_id: str) -> bool:
        self.touch(container_id)
        found = (await self.all()).get(container_id)
        slot = self._slots.get(container_id)
        found = found or (slot.container if slot else None)
        return found is None or found.down

    def _needs_listing(self) -> bool:
        return not self._stream.alive or self.age > self._max_age

    async def _list_all(self) -> None:
        touches, gaps, listed_at = self._touches, self._gaps, time.monotonic()
        before, trusted = self._states(), self._stream.alive and self._listed_at != float("-inf")
        known = {key: value for key, value in self._containers.items() if trusted and key not in self._dirty}
        self._replace({}, {}, await self._query({"label": [self._label]}), known)
        unheard = {key for key, _ in before.items() ^ self._states().items()} - self._dirty.keys()
        self._settle(touches)
        self._began = listed_at
        if gaps != self._gaps:  # what happened in the gap may have come after the engine's answer
            return
        self._listed_at = listed_at
        if trusted and unheard:
            _log.warning("The engine's event stream missed changes of %d containers; opening it again.", len(unheard))
            await self._stream.reopen()

    def _states(self) -> dict[str, str]:
        slots = {key: slot.container.state for key, slot in self._slots.items()}
        return slots | {key: container.state for key, container in self._containers.items()}

    async def _list_some(self) -> None:
        touches, seen = self._touches, set(self._dirty)
        entries = await self._query({"label": [self._label], "id": sorted(seen)})
        containers = {key: value for key, value in self._containers.items() if key not in seen}
        self._replace(containers, {key: value for key, value in self._slots.items() if key not in seen}, entries)
        self._settle(touches)

    def _settle(self, touches: int) -> None:
        """A look that began after so many touches was answered; not before, as a look may be cancelled."""
        self._looked = touches
        self._dirty = {key: touch for key, touch in self._dirty.items() if touch > touches}

    def _replace(
        self,
        containers: dict[str, Facts],
        slots: dict[str, Slot],
        entries: list[dict[str, Any]],
        known: Mapping[str, Facts] = _NOTHING,
    ) -> None:
        """Take ``entries`` over.

        Args:
            known: containers of which no event came since they were read: where the new entry is equal, the known
                object is kept, so that caches by object stay valid.
        """
        for entry in entries:
            if loop := container_facts.read(entry):
                containers[loop.id] = known[loop.id] if known.get(loop.id) == loop else loop
            elif slot := container_facts.read_slot(entry):
                slots[slot.container.id] = slot
        self._containers, self._slots, self._by_conversation = containers, slots, {}
        for found in sorted(containers.values(), key=lambda it: (it.created_at, it.id)):
            self._by_conversation.setdefault(found.loop.conversation_id, []).append(found)

    async def _query(self, filters: dict[str, Any]) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = await self._engine.call("containers", all=True, filters=filters)
        return entries

    def _on_event(self, event: EngineEvent) -> None:
        if event.action not in _RELEVANT:
            return
        self.touch(event.container_id)
        if event.action in {"die", "destroy"}:
            if waiting := self._deaths.get(event.container_id):
                waiting.set()
            if event.action == "die" and (known := self._containers.get(event.container_id)):
                self._on_exit(known, event.exit_code)

    def _on_gap(self) -> None:
        self._gaps += 1
        self._listed_at = float("-inf")
        for waiting in self._deaths.values():
            waiting.set()


async def _wait(event: asyncio.Event, limit: float) -> None:
    try:
        await limited(event.wait(), limit)
    except asyncio.TimeoutError:
        return
    event.clear()
