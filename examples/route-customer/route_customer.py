"""Runs the loops of one customer in a strategy of their own; all others are left to the strategy of the host."""

from __future__ import annotations

from pydantic import BaseModel

from loopnest import Closed, Delivery, Event, Loop, LoopQuery, LoopStatus, StartLoop, hookimpl


class RouteCustomer:
    """Keeps its loops in memory; a real one would ask a cluster. It needs no lookup of its own: see `list_loops`."""

    class Settings(BaseModel, extra="forbid"):
        """The table ``[loopnest.route-customer]``."""

        customer: str

    def __init__(self, settings: Settings) -> None:
        self._customer, self._loops = settings.customer, dict[str, Loop]()

    @hookimpl
    def start_loop(self, request: StartLoop, loop: Loop | None) -> Loop | None:
        """Decide by a tag of the first start; a loop that is there already stays where it is."""
        mine = self._has(loop) if loop else request.tags.get("customer") == self._customer
        if not mine:
            return None
        name, owner = request.conversation_id, request.owner
        self._loops[name] = Loop(conversation_id=name, owner=owner, status=LoopStatus.RUNNING, strategy=self._customer)
        return self._loops[name]

    @hookimpl(wrapper=True)
    def list_loops(self, query: LoopQuery):
        """Add the loops, which are then found by every other operation too."""
        loops = yield
        return [*loops, *query.select(self._loops.values())]

    @hookimpl
    def send_event(self, loop: Loop, event: Event) -> Delivery | None:
        if not self._has(loop):
            return None
        return Delivery(conversation_id=loop.conversation_id, response=f"{self._customer} has it")

    @hookimpl
    def close_session(self, loop: Loop, remove: bool) -> Closed | None:
        if not self._has(loop):
            return None
        stopped = self._loops.pop(loop.conversation_id).model_copy(update={"status": LoopStatus.STOPPED})
        if not remove:
            self._loops[loop.conversation_id] = stopped
        return Closed(conversation_id=loop.conversation_id, graceful=True, removed=remove)

    def _has(self, loop: Loop) -> bool:
        return loop.conversation_id in self._loops
