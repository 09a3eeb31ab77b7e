"""A whole strategy, as small as they get: loops that only remember what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from loopnest import (
    Closed,
    Delivery,
    Event,
    HostContext,
    Loop,
    LoopFailed,
    LoopNotFound,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
)


@dataclass
class Nest:
    """Where a loop lives, and what it was told."""

    loop: Loop
    events: list[Event]


#: What an engine is to other strategies: it outlives hosts, and hosts with the same state directory share it.
NESTS: dict[Path, dict[str, Nest]] = {}


class InMemoryStrategy:
    """Runs loops in memory. Nothing is awaited, so nothing needs a lock."""

    CAPABILITIES = frozenset({"shared", "survives-host", "image"})

    class Settings(BaseModel, extra="forbid"):
        """The table ``[loopnest.in-memory]``. A start with one of ``missing_images`` fails."""

        missing_images: frozenset[str] = frozenset()

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @hookimpl
    def open_strategy(self, context: HostContext) -> None:
        self.strategy = context.strategy
        self.nests = NESTS.setdefault(context.state_dir, {})

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        if request.image in self.settings.missing_images:
            raise LoopFailed(f"There is no image {request.image!r}.", reason=Reason.IMAGE_MISSING)
        new = Loop(
            conversation_id=request.conversation_id,
            owner=request.owner,
            strategy=self.strategy,
            notes=request.notes,
            status=LoopStatus.RUNNING,
        )
        first = request.conversation and request.conversation.initial_message
        nest = self.nests.setdefault(request.conversation_id, Nest(new, [first] if first else []))
        if nest.loop.owner != new.owner:
            raise LoopNotFound(request.conversation_id)
        nest.loop = nest.loop.model_copy(update={"status": LoopStatus.RUNNING})
        return nest.loop

    @hookimpl
    def close_session(self, conversation_id: str, remove: bool) -> Closed:
        nest = self._nest(conversation_id)
        running = nest.loop.status is LoopStatus.RUNNING
        nest.loop = nest.loop.model_copy(update={"status": LoopStatus.STOPPED})
        if remove:
            del self.nests[conversation_id]
        return Closed(conversation_id=conversation_id, graceful=running, already=not running, removed=remove)

    @hookimpl
    def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        return [nest.loop for nest in self.nests.values() if query.matches(nest.loop)]

    @hookimpl
    def send_event(self, conversation_id: str, event: Event) -> Delivery:
        nest = self._nest(conversation_id)
        if nest.loop.status is not LoopStatus.RUNNING:
            raise LoopFailed("The loop is not running. Start it again.", reason=Reason.NOT_RUNNING)
        nest.events.append(event)
        return Delivery(conversation_id=conversation_id)

    def _nest(self, conversation_id: str) -> Nest:
        if conversation_id not in self.nests:
            raise LoopNotFound(conversation_id)
        return self.nests[conversation_id]
