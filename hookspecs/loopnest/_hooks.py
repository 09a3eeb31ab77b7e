"""The hooks as `LoopManager` calls them: with a limit of time, and an answer where one is due."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

from loopnest._journal import Listener
from loopnest._pluggy import AsyncPluginManager
from loopnest.aio import Overdue, within
from loopnest.errors import HookTimeout, LoopnestError, Reason
from loopnest.models import Closed, Delivery, Finding, Loop, LoopChange, LoopQuery
from loopnest.owners import EVERYONE
from loopnest.requests import Event, StartLoop
from loopnest.selection import NO_LOOPS
from loopnest.settings import LoopnestSettings
from loopnest.specs import HostContext

_log = logging.getLogger(__name__)
_Caller = Callable[..., Awaitable[Any]]


class Calls:
    """Calls hooks; each method raises HookTimeout, and LoopnestError (``no-answer``) where no plugin answers."""

    def __init__(self, plugins: AsyncPluginManager, settings: LoopnestSettings) -> None:
        self._plugins, self._hook = plugins, plugins.hook
        self._strategy, self._timeouts = settings.strategy, settings.timeouts

    async def open(self, context: HostContext) -> None:
        """Call ``open_strategy`` of each plugin, the strategy first."""
        for caller in self._each("open_strategy").values():
            await self._limited("open_strategy", caller(context=context))

    async def close(self) -> None:
        """Call ``close_strategy`` of each plugin, the strategy last; the first error is raised when all are closed."""
        callers = reversed(self._each("close_strategy").items())
        errors = [error for name, caller in callers if (error := await self._close_one(name, caller))]
        if errors:
            raise errors[0]

    async def _close_one(self, name: str, caller: _Caller) -> Exception | None:
        try:
            await self._limited("close_strategy", caller())
        except Exception as error:  # noqa: BLE001 - raised by close(), after the others had their turn
            _log.warning("close_strategy of %r failed: %r", name, error)
            return error
        return None

    async def find_loop(self, conversation_id: str, *, probe: bool = False) -> Loop | None:
        """Look up one loop of any owner: with ``find_loop``, then the strategy alone, then all plugins together.

        The strategy is asked without the wrappers around it, so that no override can hide a loop from other hooks.
        """
        if self._hook.find_loop.get_hookimpls():
            call = self._hook.find_loop(conversation_id=conversation_id, probe=probe)
            found: Loop | None = await self._limited("find_loop", call)
            if found is not None:
                return found
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({conversation_id}), probe=probe)
        for listing in self._listings():
            loops = await self._limited("list_loops", listing(query=query), "list") or ()
            if found := next(iter(query.select(loops)), None):
                return found
        return None

    def _listings(self) -> Iterator[_Caller]:
        yield self._plugins.caller_of("list_loops", self._plugins.get_plugin(self._strategy), wrapped=False)
        names = {one.plugin_name for one in self._hook.list_loops.get_hookimpls()}
        if names - {self._strategy, NO_LOOPS}:
            yield self._hook.list_loops

    async def start_loop(self, request: StartLoop, loop: Loop | None) -> Loop:
        """Call ``start_loop``."""
        call = self._hook.start_loop(request=request, loop=loop)
        answer = await self._limited("start_loop", call, "start")
        started: Loop = self._due("start_loop", answer, request.conversation_id)
        return started

    async def close_session(self, loop: Loop, remove: bool) -> Closed:
        """Call ``close_session``."""
        call = self._hook.close_session(conversation_id=loop.conversation_id, loop=loop, remove=remove)
        answer = await self._limited("close_session", call, "close")
        closed: Closed = self._due("close_session", answer, loop.conversation_id)
        return closed

    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """Call ``list_loops``."""
        return await self._limited("list_loops", self._hook.list_loops(query=query), "list") or ()

    async def send_event(self, loop: Loop, event: Event) -> Delivery:
        """Call ``send_event``."""
        call = self._hook.send_event(conversation_id=loop.conversation_id, loop=loop, event=event)
        answer = await self._limited("send_event", call, "send")
        delivery: Delivery = self._due("send_event", answer, loop.conversation_id)
        return delivery

    async def pause_loop(self, loop: Loop) -> Loop:
        """Call ``pause_loop``."""
        return await self._optional("pause_loop", self._hook.pause_loop, loop)

    async def resume_loop(self, loop: Loop) -> Loop:
        """Call ``resume_loop``."""
        return await self._optional("resume_loop", self._hook.resume_loop, loop)

    async def _optional(self, hook: str, caller: _Caller, loop: Loop) -> Loop:
        changed: Loop | None = await self._limited(hook, caller(conversation_id=loop.conversation_id, loop=loop))
        if changed is None:
            raise self._unsupported(hook, loop, "can't pause or resume loops")
        return changed

    async def loop_logs(self, loop: Loop, tail: int, follow: bool, kept: Sequence[str]) -> AsyncIterator[str] | None:
        """Call ``loop_logs``; None where no plugin has lines of this loop, so that only those ``kept`` are left.

        Raises:
            LoopnestError: ``unsupported``.
        """
        call = self._hook.loop_logs(conversation_id=loop.conversation_id, loop=loop, tail=tail, follow=follow)
        lines: AsyncIterator[str] | None = await self._limited("loop_logs", call)
        if lines is None and not kept and all(one.wrapper for one in self._hook.loop_logs.get_hookimpls()):
            raise self._unsupported("loop_logs", loop, "keeps no logs")
        return lines

    async def diagnose(self) -> list[Finding]:
        """Call ``diagnose``."""
        answers = await self._limited("diagnose", self._hook.diagnose())
        return [finding for findings in answers for finding in findings]

    def listeners(self) -> dict[str, Listener]:
        """What calls ``loop_changed`` of each plugin, by name."""
        return {name: functools.partial(_tell, caller) for name, caller in self._each("loop_changed").items()}

    def _each(self, hook: str) -> dict[str, _Caller]:
        """What calls ``hook`` of one plugin only, with the wrappers around it, by name, the strategy first."""
        implementations = getattr(self._hook, hook).get_hookimpls()
        plugins = {one.plugin_name: one.plugin for one in implementations if not one.wrapper}
        order = sorted(plugins, key=lambda name: name != self._strategy)
        return {name: self._plugins.caller_of(hook, plugins[name]) for name in order}

    def _unsupported(self, hook: str, loop: Loop, what: str) -> LoopnestError:
        return LoopnestError(
            f"The strategy {self._strategy!r} {what}: it has no hook {hook!r}.",
            reason=Reason.UNSUPPORTED,
            conversation_id=loop.conversation_id,
        )

    async def _limited(self, hook: str, answer: Awaitable[Any], limited_by: str = "other") -> Any:
        """Await the answer for as long as the setting ``limited_by`` of ``loopnest.timeouts`` allows."""
        limit: float = getattr(self._timeouts, limited_by)
        try:
            return await within(limit, answer)
        except Overdue as error:
            raise HookTimeout(
                f"The plugins did not answer {hook} within {limit:g} s ('loopnest.timeouts.{limited_by}')."
            ) from error

    def _due(self, hook: str, answer: Any, conversation_id: str) -> Any:
        if answer is None:
            raise LoopnestError(
                f"No plugin answered {hook}; the strategy {self._strategy!r} must.",
                reason=Reason.NO_ANSWER,
                conversation_id=conversation_id,
            )
        return answer


async def _tell(caller: _Caller, change: LoopChange) -> None:
    await caller(change=change)
