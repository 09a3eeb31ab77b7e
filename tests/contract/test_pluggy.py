"""Async hooks behave as pluggy's do, with awaits.

``PAIRS`` and ``EACH`` run a scenario on a sync and on an async specification, so that pluggy itself is the oracle for
order, results and errors.
"""

from __future__ import annotations

import asyncio
import inspect

import pluggy
import pytest

from loopnest import AsyncPluginManager, async_wrapper

spec, impl = pluggy.HookspecMarker("demo"), pluggy.HookimplMarker("demo")


class Specs:
    @spec
    def each(self, arg): ...

    @spec(firstresult=True)
    def first(self, arg): ...

    @spec
    async def aeach(self, arg): ...

    @spec(firstresult=True)
    async def afirst(self, arg, other): ...

    @spec(historic=True)
    def remembered(self, arg): ...


PAIRS = pytest.mark.parametrize("hook", ["first", "afirst"])
EACH = pytest.mark.parametrize("hook", ["each", "aeach"])


@pytest.fixture
def pm():
    manager = AsyncPluginManager("demo")
    manager.add_hookspecs(Specs)
    return manager


async def call(pm, hook, **kwargs):
    result = getattr(pm.hook, hook)(**({"other": None} if hook == "afirst" else {}), **kwargs)
    return await result if inspect.isawaitable(result) else result


def plugin(hook, function, **opts):
    """A plugin object with one implementation of ``hook``."""

    class Plugin:
        __slots__ = ("run",)

        def __init__(self):
            self.run = impl(specname=hook, **opts)(function)

    return Plugin()


def register(pm, hook, *functions):
    for function, opts in functions:
        pm.register(plugin(hook, function, **opts))


WRAPPER = {"wrapper": True}


# --- order and results --------------------------------------------------------------------------------------------


@EACH
async def test_order_is_lifo_with_tryfirst_and_trylast(pm, hook):
    register(
        pm,
        hook,
        (lambda arg: "first", {"tryfirst": True}),
        (lambda arg: "old", {}),
        (lambda arg: "new", {}),
        (lambda arg: "last", {"trylast": True}),
    )
    assert await call(pm, hook, arg=1) == ["first", "new", "old", "last"]


@EACH
async def test_none_is_left_out_of_the_results(pm, hook):
    register(pm, hook, (lambda arg: 1, {}), (lambda arg: None, {}), (lambda arg: 2, {}))
    assert await call(pm, hook, arg=1) == [2, 1]


@PAIRS
async def test_firstresult_skips_none(pm, hook):
    register(pm, hook, (lambda arg: "answer", {}), (lambda arg: None, {}))
    assert await call(pm, hook, arg=1) == "answer"


@PAIRS
async def test_firstresult_calls_nobody_after_the_answer(pm, hook):
    called = []
    register(pm, hook, (lambda arg: called.append(1), {}), (lambda arg: False, {}))
    assert await call(pm, hook, arg=1) is False
    assert called == []


@PAIRS
async def test_no_implementation_answers_none(pm, hook):
    assert await call(pm, hook, arg=1) is None


async def test_an_async_implementation_can_await_and_then_defer(pm):
    seen = []

    async def looks_then_defers(arg):
        await asyncio.sleep(0)
        seen.append(arg)

    async def answers(arg):
        await asyncio.sleep(0)
        return f"answer {arg}"

    register(pm, "afirst", (answers, {}), (looks_then_defers, {}))
    assert await call(pm, "afirst", arg=7) == "answer 7"
    assert seen == [7]


async def test_sync_and_async_implementations_mix(pm):
    async def coloured(arg):
        return "async"

    register(pm, "aeach", (lambda arg: "sync", {}), (coloured, {}))
    assert await call(pm, "aeach", arg=1) == ["async", "sync"]


@PAIRS
async def test_an_implementation_takes_only_the_arguments_it_wants(pm, hook):
    register(pm, hook, (lambda: "none at all", {}))
    assert await call(pm, hook, arg=1) == "none at all"


@PAIRS
@pytest.mark.filterwarnings("ignore:Argument.s")
async def test_a_missing_argument_is_reported(pm, hook):
    register(pm, hook, (lambda arg: arg, {}))
    with pytest.raises(pluggy.HookCallError, match="must provide argument 'arg'"):
        await call(pm, hook)


# --- wrappers -----------------------------------------------------------------------------------------------------


@PAIRS
async def test_sync_wrappers_nest_around_the_result(pm, hook):
    def wrap(letter):
        def wrapper(arg):
            return f"{letter}({(yield)})"

        return wrapper

    register(
        pm,
        hook,
        (wrap("inner"), WRAPPER | {"trylast": True}),
        (wrap("outer"), WRAPPER | {"tryfirst": True}),
        (lambda arg: arg, {}),
    )
    assert await call(pm, hook, arg="x") == "outer(inner(x))"


async def test_an_async_wrapper_awaits_on_both_sides_and_replaces_the_result(pm):
    log = []

    @async_wrapper
    async def timed(arg):
        await asyncio.sleep(0)
        log.append("before")
        result = yield
        await asyncio.sleep(0)
        log.append("after")
        yield result * 2

    async def answers(arg):
        log.append("answer")
        return arg

    register(pm, "afirst", (timed, WRAPPER), (answers, {}))
    assert await call(pm, "afirst", arg=21) == 42
    assert log == ["before", "answer", "after"]


@pytest.mark.parametrize("outer_is_async", [True, False])
async def test_sync_and_async_wrappers_keep_their_order(pm, outer_is_async):
    @async_wrapper
    async def coloured(arg):
        yield f"async({(yield)})"

    def plain(arg):
        return f"sync({(yield)})"

    outer, inner = (coloured, plain) if outer_is_async else (plain, coloured)
    register(
        pm,
        "afirst",
        (lambda arg: arg, {}),
        (inner, WRAPPER),
        (outer, WRAPPER | {"tryfirst": True}),
    )
    expected = "async(sync(x))" if outer_is_async else "sync(async(x))"
    assert await call(pm, "afirst", arg="x") == expected


async def test_wrappers_surround_the_list_of_all_results(pm):
    def total(arg):
        return sum((yield))

    register(pm, "aeach", (lambda arg: 1, {}), (lambda arg: 2, {}), (total, WRAPPER))
    assert await call(pm, "aeach", arg=1) == 3


@PAIRS
async def test_a_wrapper_with_a_second_yield_is_an_error(pm, hook):
    def twice(arg):
        yield
        yield

    register(pm, hook, (twice, WRAPPER))
    with pytest.raises(RuntimeError, match="has second yield"):
        await call(pm, hook, arg=1)


@PAIRS
async def test_a_wrapper_that_does_not_yield_is_an_error(pm, hook):
    def never(arg):
        if arg is None:
            yield

    register(pm, hook, (never, WRAPPER))
    with pytest.raises(RuntimeError, match="did not yield"):
        await call(pm, hook, arg=1)


async def test_an_async_wrapper_that_yields_once_is_an_error(pm):
    @async_wrapper
    async def forgetful(arg):
        yield

    register(pm, "afirst", (lambda arg: 1, {}), (forgetful, WRAPPER))
    with pytest.raises(RuntimeError, match="must yield twice"):
        await call(pm, "afirst", arg=1)


async def test_an_undecorated_async_generator_is_refused_at_registration(pm):
    async def wrapper(arg):
        yield

    with pytest.raises(pluggy.PluginValidationError, match="not a generator function"):
        register(pm, "afirst", (wrapper, WRAPPER))


async def test_an_old_style_hookwrapper_is_refused_on_async_hooks(pm):
    def old(arg):
        yield

    register(pm, "afirst", (old, {"hookwrapper": True}))
    with pytest.raises(TypeError, match="wrapper=True, not hookwrapper=True"):
        await call(pm, "afirst", arg=1)


# --- a wrapper that yields a mapping changes arguments: ours, not pluggy's --------------------------------------------


def replaces(letter):
    def wrapper(arg):
        result = yield {"arg": f"{arg}{letter}"}
        return f"{letter}({result})"

    return wrapper


async def test_a_wrapper_changes_arguments_for_what_it_encloses(pm):
    register(pm, "afirst", (lambda arg: arg, {}), (replaces("w"), WRAPPER))
    assert await call(pm, "afirst", arg="x") == "w(xw)"


async def test_each_wrapper_sees_what_the_outer_ones_changed(pm):
    register(pm, "afirst", (lambda arg: arg, {}), (replaces("i"), WRAPPER), (replaces("o"), WRAPPER))
    assert await call(pm, "afirst", arg="x") == "o(i(xoi))"


async def test_an_async_wrapper_changes_arguments_too(pm):
    @async_wrapper
    async def looks_up(arg):
        await asyncio.sleep(0)
        yield (yield {"arg": arg * 2})

    register(pm, "afirst", (lambda arg, other: (arg, other), {}), (looks_up, WRAPPER))
    assert await call(pm, "afirst", arg=2) == (4, None)


async def test_all_implementations_behind_it_see_the_changed_arguments(pm):
    def one(arg):
        return (yield {"arg": "changed"})

    register(pm, "aeach", (lambda arg: ("a", arg), {}), (lambda arg: ("b", arg), {}), (one, WRAPPER))
    assert await call(pm, "aeach", arg="x") == [("b", "changed"), ("a", "changed")]


async def test_the_caller_s_own_arguments_stay_as_they_were(pm):
    arguments = {"arg": "x", "other": 1}
    register(pm, "afirst", (lambda arg: arg, {}), (replaces("w"), WRAPPER))
    await pm.hook.afirst(**arguments)
    assert arguments == {"arg": "x", "other": 1}


async def test_a_wrapper_may_not_invent_arguments(pm):
    def inventive(arg):
        return (yield {"argh": 1})

    register(pm, "afirst", (lambda arg: arg, {}), (inventive, WRAPPER))
    with pytest.raises(pluggy.HookCallError, match="changes unknown arguments: argh"):
        await call(pm, "afirst", arg=1)


async def test_a_wrapper_that_yields_something_else_is_an_error(pm):
    def confused(arg):
        return (yield arg)

    register(pm, "afirst", (lambda arg: arg, {}), (confused, WRAPPER))
    with pytest.raises(TypeError, match="must yield nothing or a mapping of arguments, not 'x'"):
        await call(pm, "afirst", arg="x")


# --- errors -------------------------------------------------------------------------------------------------------


def fails(arg):
    raise LookupError(arg)


@PAIRS
async def test_an_error_reaches_wrappers_and_the_caller(pm, hook):
    seen = []

    def observes(arg):
        try:
            return (yield)
        except LookupError as error:
            seen.append(error.args)
            raise

    register(pm, hook, (fails, {}), (observes, WRAPPER))
    with pytest.raises(LookupError):
        await call(pm, hook, arg="x")
    assert seen == [("x",)]


@PAIRS
async def test_a_wrapper_may_turn_an_error_into_a_result(pm, hook):
    def recovers(arg):
        try:
            return (yield)
        except LookupError:
            return "recovered"

    register(pm, hook, (fails, {}), (recovers, WRAPPER))
    assert await call(pm, hook, arg=1) == "recovered"


@PAIRS
async def test_an_error_before_the_yield_reaches_the_caller_and_calls_nobody(pm, hook):
    called = []

    def broken(arg):
        raise LookupError
        yield

    register(pm, hook, (lambda arg: called.append(1), {}), (broken, WRAPPER))
    with pytest.raises(LookupError):
        await call(pm, hook, arg=1)
    assert called == []


@PAIRS
async def test_an_outer_wrapper_sees_the_error_of_an_inner_one(pm, hook):
    def inner(arg):
        yield
        raise LookupError("inner")

    def outer(arg):
        try:
            return (yield)
        except LookupError as error:
            return f"saw {error}"

    register(pm, hook, (lambda arg: 1, {}), (inner, WRAPPER), (outer, WRAPPER))
    assert await call(pm, hook, arg=1) == "saw inner"


async def test_an_async_wrapper_sees_errors_and_may_recover(pm):
    @async_wrapper
    async def recovers(arg):
        try:
            yield (yield)
        except LookupError:
            yield "recovered"

    register(pm, "afirst", (fails, {}), (recovers, WRAPPER))
    assert await call(pm, "afirst", arg=1) == "recovered"


async def test_an_async_wrapper_s_error_replaces_the_result(pm):
    @async_wrapper
    async def strict(arg):
        yield
        raise ValueError("refused")

    register(pm, "afirst", (lambda arg: 1, {}), (strict, WRAPPER))
    with pytest.raises(ValueError, match="refused"):
        await call(pm, "afirst", arg=1)


async def test_cancellation_reaches_wrappers(pm):
    log, entered = [], asyncio.Event()

    async def hangs(arg):
        entered.set()
        await asyncio.Event().wait()

    @async_wrapper
    async def cleans_up(arg):
        try:
            yield (yield)
        finally:
            await asyncio.sleep(0)
            log.append("cleaned up")

    register(pm, "afirst", (hangs, {}), (cleans_up, WRAPPER))
    task = asyncio.ensure_future(call(pm, "afirst", arg=1))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["cleaned up"]


# --- tracing, monitoring, historic and partial calls ----------------------------------------------------------------


@PAIRS
async def test_monitoring_sees_the_final_result(pm, hook):
    seen = []
    undo = pm.add_hookcall_monitoring(
        lambda name, impls, kwargs: seen.append((name, kwargs["arg"])),
        lambda outcome, name, impls, kwargs: seen.append(outcome.get_result()),
    )
    register(pm, hook, (lambda arg: arg + 1, {}))
    await call(pm, hook, arg=1)
    undo()
    await call(pm, hook, arg=5)
    assert seen == [(hook, 1), 2]


@PAIRS
async def test_monitoring_sees_errors(pm, hook):
    seen = []
    pm.add_hookcall_monitoring(lambda *_: None, lambda outcome, *_: seen.append(type(outcome.exception)))
    register(pm, hook, (fails, {}))
    with pytest.raises(LookupError):
        await call(pm, hook, arg=1)
    assert seen == [LookupError]


async def test_enable_tracing_prints_the_awaited_result(pm):
    lines = []
    pm.trace.root.setwriter(lines.append)
    pm.enable_tracing()

    async def answers(arg):
        return "awaited"

    register(pm, "afirst", (answers, {}))
    await call(pm, "afirst", arg=1)
    assert any("finish" in line and "awaited" in line for line in lines)


async def test_historic_hooks_are_untouched(pm):
    results = []
    pm.hook.remembered.call_historic(results.append, {"arg": 3})
    register(pm, "remembered", (lambda arg: arg * 2, {}))
    assert results == [6]


async def test_a_specification_that_is_both_async_and_historic_is_refused():
    class Bad:
        @spec(historic=True)
        async def remembered(self, arg): ...

    with pytest.raises(ValueError, match="both async and historic"):
        AsyncPluginManager("demo").add_hookspecs(Bad)


async def test_extra_callers_are_awaited_too(pm):
    register(pm, "afirst", (lambda arg: 1, {}))
    assert await pm.hook.afirst.call_extra([lambda arg: 3], {"arg": 0, "other": 0}) == 3


async def test_subset_callers_are_awaited_too(pm):
    class Named:
        @impl
        def afirst(self, arg):
            return type(self)

    class Other(Named):
        pass

    one, other = Named(), Other()
    pm.register(one)
    pm.register(other)
    assert await pm.subset_hook_caller("afirst", [other])(arg=0, other=0) is Named


async def test_one_plugin_alone_is_called_with_the_wrappers_around_it(pm):
    def doubled(arg):
        return 2 * (yield)

    one, two = plugin("aeach", lambda arg: arg + 1), plugin("aeach", lambda arg: arg + 2)
    for each in (one, two, plugin("aeach", doubled, wrapper=True)):
        pm.register(each)
    assert await pm.caller_of("aeach", one)(arg=1) == [2, 2]
    assert await pm.caller_of("aeach", two)(arg=1) == [3, 3]


@PAIRS
async def test_one_plugin_alone_is_called_by_the_rules_of_its_hook(pm, hook):
    one = plugin(hook, lambda arg: "answer")
    pm.register(one)
    pm.register(plugin(hook, lambda arg: "other"))
    answer = pm.caller_of(hook, one)(arg=1)
    assert (await answer if inspect.isawaitable(answer) else answer) == "answer"


async def test_unregistered_plugins_are_called_no_more(pm):
    one = plugin("afirst", lambda arg: 1)
    pm.register(one)
    pm.unregister(one)
    assert await call(pm, "afirst", arg=1) is None


async def test_calls_of_one_hook_may_overlap(pm):
    both = asyncio.Event()
    entered = []

    async def meets(arg):
        entered.append(arg)
        if len(entered) == 2:
            both.set()
        await both.wait()
        return arg

    register(pm, "afirst", (meets, {}))
    assert await asyncio.gather(call(pm, "afirst", arg=1), call(pm, "afirst", arg=2)) == [1, 2]
