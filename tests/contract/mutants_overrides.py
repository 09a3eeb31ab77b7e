"""Strategies and managers that break with overrides in front; the conformance suite must fail every one of them."""

from __future__ import annotations

from loopnest import (
    EVERYONE,
    Closed,
    LoopFailed,
    LoopManager,
    LoopQuery,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
)
from loopnest.models import Phase
from loopnest.testing.plugins import OverrideFailure

from .doubles import Healthy, Pausable
from .mutants import caught_by

TEST_OF = "test_overrides_of_{}_leave_other_hooks_alone"
FIND = "test_overrides_of_find_loop_never_hide_a_loop"


# --- managers -------------------------------------------------------------------------------------------------------


class Relay:
    """The hooks as the manager sees them, but for one, which is called by ``call``."""

    def __init__(self, hooks, name, call):
        self._hooks, self._name, self._call = hooks, name, call

    def __getattr__(self, name):
        return Caller(getattr(self._hooks, name), self._call) if name == self._name else getattr(self._hooks, name)


class Caller:
    def __init__(self, caller, call):
        self._caller, self._call = caller, call

    def __call__(self, **arguments):
        return self._call(self._caller, arguments)

    def get_hookimpls(self):
        return self._caller.get_hookimpls()


def manager_that(name, hook, call):
    """A class of managers that call one hook another way; ``call`` gets the manager too."""

    class Changed(LoopManager):
        def __init__(self, plugins, settings):
            super().__init__(plugins, settings)
            self._calls._hook = Relay(plugins.hook, hook, lambda *arguments: call(self, *arguments))

    Changed.__name__ = f"{name}_{hook}"
    return Changed


def alone(manager, caller, arguments):
    """Ask the strategy alone."""
    strategy = manager.plugins.get_plugin(manager.settings.strategy)
    return manager.plugins.caller_of(caller.name, strategy, wrapped=False)(**arguments)


async def swallowing(manager, caller, arguments):
    """Ask the strategy alone where an override raises."""
    try:
        return await caller(**arguments)
    except OverrideFailure:
        return await alone(manager, caller, arguments)


class LooksUpWhatIsListed(LoopManager):
    """The strategy is asked together with the overrides around it, so that these can hide loops."""

    def __init__(self, plugins, settings):
        super().__init__(plugins, settings)
        self._calls._listings = lambda: iter([plugins.hook.list_loops])


class AsksTheStrategyOnly(LoopManager):
    """Loops that an override adds are listed, but not found."""

    def __init__(self, plugins, settings):
        super().__init__(plugins, settings)
        strategy = plugins.get_plugin(settings.strategy)
        self._calls._listings = lambda: iter([plugins.caller_of("list_loops", strategy, wrapped=False)])


class BelievesTheCaller(LoopManager):
    """Publishes that a loop was removed where an override had it kept."""

    def __init__(self, plugins, settings):
        super().__init__(plugins, settings)
        answered = self._calls.close_session

        async def close_session(loop, remove):
            closed = await answered(loop, remove)
            return closed.model_copy(update={"removed": remove})

        self._calls.close_session = close_session


for _hook in ("start_loop", "close_session", "list_loops", "send_event", "pause_loop", "resume_loop", "loop_logs"):
    caught_by(TEST_OF.format(_hook))(manager_that("IgnoresOverridesOf", _hook, alone))
    caught_by(TEST_OF.format(_hook))(manager_that("SwallowsErrorsOf", _hook, swallowing))
caught_by(FIND)(manager_that("IgnoresOverridesOf", "find_loop", alone))
caught_by(FIND)(manager_that("SwallowsErrorsOf", "find_loop", swallowing))
caught_by(TEST_OF.format("list_loops"))(LooksUpWhatIsListed)
caught_by("test_an_override_runs_loops_of_its_own")(AsksTheStrategyOnly)
caught_by(TEST_OF.format("close_session"))(BelievesTheCaller)


# --- strategies -----------------------------------------------------------------------------------------------------


@caught_by("test_overrides_that_observe_change_nothing")
class ListsOnlyOnce(Healthy):
    """A wrapper that looks at the loops leaves none to others."""

    @hookimpl
    def list_loops(self, query):
        return iter(super().list_loops(query))


@caught_by(TEST_OF.format("start_loop"))
class StartsBeforeOverrides(Healthy):
    @hookimpl(tryfirst=True)
    def start_loop(self, request):
        return super().start_loop(request)


@caught_by(TEST_OF.format("start_loop"))
class ForgetsTheNotesOfOverrides(Healthy):
    @hookimpl
    def start_loop(self, request):
        notes = {key: value for key, value in request.notes.items() if key == "color"}
        return super().start_loop(request.model_copy(update={"notes": notes}))


@caught_by(TEST_OF.format("close_session"))
class ClosesBeforeOverrides(Healthy):
    @hookimpl(tryfirst=True)
    def close_session(self, conversation_id, remove):
        return super().close_session(conversation_id, remove)


@caught_by(TEST_OF.format("close_session"))
class StopsWhenAClosePublishesIt(Healthy):
    """Acts on the change that precedes a close, whether an override lets the close through or not."""

    @hookimpl
    def loop_changed(self, change):
        if change.phase == Phase.STOPPING and change.conversation_id in self.nests:
            super().close_session(change.conversation_id, False)

    @hookimpl
    def close_session(self, conversation_id, remove):
        running = self._nest(conversation_id).loop.status is LoopStatus.RUNNING
        return super().close_session(conversation_id, remove).model_copy(update={"already": not running})


class AsksItsOwnHook(Healthy):
    """Looks loops up through the hook, with all overrides."""

    @hookimpl
    def open_strategy(self, context):
        super().open_strategy(context)
        self.hooks = context.hooks

    async def lists(self, conversation_id):
        query = LoopQuery(user_id=EVERYONE, conversation_ids=frozenset({conversation_id}))
        return bool(await self.hooks.list_loops(query=query))


@caught_by(TEST_OF.format("list_loops"))
class SendsToListedLoopsOnly(AsksItsOwnHook):
    @hookimpl
    async def send_event(self, conversation_id, event):
        if not await self.lists(conversation_id):
            raise LoopFailed("There is no loop.", reason=Reason.NOT_RUNNING)
        return super().send_event(conversation_id, event)


@caught_by(TEST_OF.format("list_loops"))
class ClosesListedLoopsOnly(AsksItsOwnHook):
    @hookimpl
    async def close_session(self, conversation_id, remove):
        if not await self.lists(conversation_id):
            return Closed(conversation_id=conversation_id, already=True)
        return super().close_session(conversation_id, remove)


@caught_by(TEST_OF.format("send_event"))
class SendsBeforeOverrides(Healthy):
    @hookimpl(tryfirst=True)
    def send_event(self, conversation_id, event):
        return super().send_event(conversation_id, event)


@caught_by(FIND)
class FindsBeforeOverrides(Healthy):
    @hookimpl(tryfirst=True)
    def find_loop(self, conversation_id):
        nest = self.nests.get(conversation_id)
        return nest and nest.loop


@caught_by(TEST_OF.format("pause_loop"))
class PausesBeforeOverrides(Pausable):
    @hookimpl(tryfirst=True)
    def pause_loop(self, conversation_id):
        return super().pause_loop(conversation_id)


@caught_by(TEST_OF.format("resume_loop"))
class ResumesOnSendThroughTheHook(Pausable):
    """An override of `resume_loop` that raises breaks events too."""

    @hookimpl
    def open_strategy(self, context):
        super().open_strategy(context)
        self.hooks = context.hooks

    @hookimpl
    async def start_loop(self, request: StartLoop, loop):
        if loop and loop.status is LoopStatus.PAUSED:
            return await self.hooks.resume_loop(conversation_id=request.conversation_id, loop=loop)
        return super().start_loop(request)


@caught_by(TEST_OF.format("loop_logs"))
class ReadsLogsBeforeOverrides(Pausable):
    @hookimpl(tryfirst=True)
    def loop_logs(self, conversation_id, tail):
        return super().loop_logs(conversation_id, tail)
