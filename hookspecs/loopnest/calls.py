"""The hooks as `LoopManager` calls them: with a limit of time, and an answer where one is due."""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from loopnest.asyncpluggy import AsyncPluginManager
from loopnest.changes import Listener
from loopnest.deadline import Overdue, within
from loopnest.errors import HookTimeout, LoopnestError, Reason
from loopnest.models import Closed, Delivery, Event, Finding, Loop, LoopChange, LoopQuery, StartLoop
from loopnest.owners import Everyone
from loopnest.settings import LoopnestSettings
from loopnest.specs import HostContext

_log = logging.getLogger(__name__)
_Caller = Callable[..., Awaitable[Any]]


class Calls:
    """Calls hooks; each method raises HookTimeout, and LoopnestError (``no-answer``) where nobody answers."""

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

    async def start_loop(self, request: StartLoop) -> Loop:
        """Call ``start_loop``."""
        answer = await self._limited("start_loop", self._hook.start_loop(request=request), self._timeouts.start)
        loop: Loop = self._due("start_loop", answer, request.conversation_id)
        return loop

    async def close_session(self, conversation_id: str, user_id: str | Everyone | None, remove: bool) -> Closed:
        """Call ``close_session``."""
        call = self._hook.close_session(conversation_id=conversation_id, user_id=user_id, remove=remove)
        answer = await self._limited("close_session", call, self._timeouts.close)
        closed: Closed = self._due("close_session", answer, conversation_id)
        return closed

    async def list_loops(self, query: LoopQuery) -> Sequence[Loop]:
        """Call ``list_loops``; no answer means no loops."""
        return await self._limited("list_loops", self._hook.list_loops(query=query), self._timeouts.list) or ()

    async def send_event(self, conversation_id: str, event: Event, user_id: str | Everyone | None) -> Delivery:
        """Call ``send_event``."""
        call = self._hook.send_event(conversation_id=conversation_id, event=event, user_id=user_id)
        answer = await self._limited("send_event", call, self._timeouts.send)
        delivery: Delivery = self._due("send_event", answer, conversation_id)
        return delivery

    async def loop_logs(
        self, conversation_id: str, user_id: str | Everyone | None, tail: int, follow: bool
    ) -> AsyncIterator[str] | None:
        """Call ``loop_logs``; None where nobody keeps a log."""
        call = self._hook.loop_logs(conversation_id=conversation_id, user_id=user_id, tail=tail, follow=follow)
        lines: AsyncIterator[str] | None = await self._limited("loop_logs", call)
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

    async def _limited(self, hook: str, answer: Awaitable[Any], limit: float | None = None) -> Any:
        limit = limit or self._timeouts.other
        try:
            return await within(limit, answer)
        except Overdue as error:
            raise HookTimeout(
                f"The plugins did not answer {hook} within {limit:g} s; 'loopnest.timeouts' sets the limit."
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
