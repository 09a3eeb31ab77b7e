"""Strategies that are slow, never answer, or misbehave, on purpose."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from in_memory_loops import InMemoryStrategy

from loopnest import (
    Capability,
    Closed,
    Delivery,
    Event,
    HostContext,
    Loop,
    LoopChange,
    LoopFailed,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
)


class Healthy(InMemoryStrategy):
    """Does everything at once."""

    def __init__(self) -> None:
        super().__init__(self.Settings(missing_images=frozenset({"missing"})))


class Alone(Healthy):
    """Has loops of its own in each host, which end with it."""

    CAPABILITIES = frozenset()

    @hookimpl
    def open_strategy(self, context: HostContext) -> None:
        super().open_strategy(context)
        self.nests = {}

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        if "broken" in request.tags:
            raise LoopFailed("It is broken.", reason=Reason.EXITED_EARLY)
        return super().start_loop(request)


class Pausable(Healthy):
    """Pauses loops too, and keeps a log of each."""

    CAPABILITIES = frozenset(Capability)

    @hookimpl
    def pause_loop(self, conversation_id: str) -> Loop:
        return self._turned(conversation_id, LoopStatus.PAUSED)

    @hookimpl
    def resume_loop(self, conversation_id: str) -> Loop:
        return self._turned(conversation_id, LoopStatus.RUNNING)

    @hookimpl
    def loop_logs(self, conversation_id: str, tail: int) -> AsyncIterator[str]:
        return _iterate(["started", "ready"][-tail:] if conversation_id in self.nests else [])

    def _turned(self, conversation_id: str, status: LoopStatus) -> Loop:
        nest = self._nest(conversation_id)
        nest.loop = nest.loop.model_copy(update={"status": status})
        return nest.loop


async def _iterate(lines: Sequence[str]) -> AsyncIterator[str]:
    for line in lines:
        yield line


class Slow(Healthy):
    """Starts only when ``gate`` is set, and tells by ``entered`` that it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.entered, self.cleaned_up, self.calls = asyncio.Event(), asyncio.Event(), False, 0

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        self.calls += 1
        self.entered.set()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cleaned_up = True
            raise
        return self.finish(request)

    def finish(self, request: StartLoop) -> Loop:
        return super().start_loop(request)


class Never(Slow):
    """Never starts anything."""

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        await asyncio.Event().wait()
        raise AssertionError


class Bad(Healthy):
    """Raises what no strategy should, with a secret in it."""

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        raise LookupError("sk-secret")


class SlowAndBad(Slow):
    """Takes its time, and then raises what no strategy should."""

    def finish(self, request: StartLoop) -> Loop:
        raise LookupError("sk-secret")


class Stubborn(Healthy):
    """Never starts anything, and goes on where it should end, until ``released``."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    @hookimpl
    async def start_loop(self, request: StartLoop) -> Loop:
        while not self.released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.released.wait()
        raise asyncio.CancelledError


class Speechless(Healthy):
    """Answers None to everything."""

    @hookimpl
    def start_loop(self, request: StartLoop) -> None: ...

    @hookimpl
    def close_session(self, conversation_id: str) -> None: ...

    @hookimpl
    def send_event(self, conversation_id: str) -> None: ...

    @hookimpl
    def list_loops(self, query: LoopQuery) -> None: ...


class Hesitant(Healthy):
    """Delivers the first event last, if it can."""

    @hookimpl
    async def send_event(self, conversation_id: str, event: Event) -> Delivery:
        for _ in range(10 - len(self.nests[conversation_id].events)):
            await asyncio.sleep(0)
        return super().send_event(conversation_id, event)


class Indiscreet(Healthy):
    """Lists everything, whatever is asked for."""

    @hookimpl
    def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        return [nest.loop for nest in self.nests.values()]


class Forgetful(Healthy):
    """Knows nothing of what it started."""

    @hookimpl
    def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        return ()

    @hookimpl
    def close_session(self, conversation_id: str) -> Closed:
        return Closed(conversation_id=conversation_id)


class Listener:
    """Notes every change."""

    def __init__(self) -> None:
        self.heard: list[LoopChange] = []

    @hookimpl
    async def loop_changed(self, change: LoopChange) -> None:
        self.heard.append(change)
