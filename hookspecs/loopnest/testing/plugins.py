"""Overrides that the suite puts in front of a strategy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from loopnest._markers import hookimpl
from loopnest.manager import LoopManager
from loopnest.models import Closed, Delivery, Loop, LoopQuery, LoopStatus
from loopnest.requests import Event, StartLoop
from loopnest.selection import register


class OverrideFailure(RuntimeError):
    """What overrides of the suite raise, as a mistake of their author would."""


class OneHook:
    """An override of one hook."""

    def __init__(self, hook: str, function: Callable[..., Any], *, wrapper: bool) -> None:
        setattr(self, hook, hookimpl(wrapper=wrapper)(function))


def observing(hook: str, seen: list[str]) -> OneHook:
    """Look at the result, and pass it on as it is."""

    def observe() -> Generator[None, Any, Any]:
        result = yield
        if hook == "list_loops":
            list(result)
        seen.append(hook)
        return result

    return OneHook(hook, observe, wrapper=True)


def changing(hook: str, wrapper: Callable[..., Generator[Any, Any, Any]]) -> OneHook:
    """Surround the hook with a generator that changes its arguments or its result."""
    return OneHook(hook, wrapper, wrapper=True)


def replacing(hook: str, replace: Callable[[Any], Any]) -> OneHook:
    """Replace the result."""

    def wrapper() -> Generator[None, Any, Any]:
        return replace((yield))

    return OneHook(hook, wrapper, wrapper=True)


def answering(hook: str, answer: Callable[..., Any]) -> OneHook:
    """Answer instead of the strategy."""
    return OneHook(hook, answer, wrapper=False)


def raising(hook: str) -> OneHook:
    """Raise `OverrideFailure` before any other plugin is called."""

    def fail() -> None:
        raise OverrideFailure(hook)

    return OneHook(hook, fail, wrapper=False)


class OwnLoops:
    """Runs the loops whose conversation ids end in ``-own`` itself, and has no lookup of its own."""

    def __init__(self) -> None:
        self.loops: dict[str, Loop] = {}
        self.events: list[Event] = []

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop | None:
        """Start one of its own."""
        if not request.conversation_id.endswith("-own"):
            return None
        running = LoopStatus.RUNNING
        loop = Loop(conversation_id=request.conversation_id, owner=request.owner, status=running, strategy="own")
        self.loops[request.conversation_id] = loop
        return loop

    @hookimpl(wrapper=True)
    def list_loops(self, query: LoopQuery) -> Generator[None, Sequence[Loop], Sequence[Loop]]:
        """Add its own."""
        loops = yield
        return [*loops, *query.select(self.loops.values())]

    @hookimpl
    def send_event(self, loop: Loop, event: Event) -> Delivery | None:
        """Keep what is sent to its own."""
        if loop.strategy != "own":
            return None
        self.events.append(event)
        return Delivery(conversation_id=loop.conversation_id)

    @hookimpl
    def close_session(self, loop: Loop, remove: bool) -> Closed | None:
        """Close one of its own."""
        if loop.strategy != "own":
            return None
        stopped = self.loops.pop(loop.conversation_id).model_copy(update={"status": LoopStatus.STOPPED})
        if not remove:
            self.loops[loop.conversation_id] = stopped
        return Closed(conversation_id=loop.conversation_id, graceful=True, removed=remove)


@contextlib.contextmanager
def overridden(loops: LoopManager, *overrides: object) -> Iterator[None]:
    """Put overrides in front of all plugins of an open manager, the first one first, as long as the block runs."""
    for override in reversed(overrides):
        register(loops.plugins, override, f"{type(override).__name__}-{id(override)}", "the conformance suite")
    try:
        yield
    finally:
        for override in overrides:
            loops.plugins.unregister(override)
