"""Await pluggy hooks: a hook specified as ``async def`` is called with ``await``.

pluggy is synchronous: with ``firstresult`` a coroutine always wins, as it is not None, and wrappers see the coroutine
instead of its result. Here the colour of the specification decides: calls of a hook specified as ``def`` are pluggy's
own, calls of one specified as ``async def`` are made by this module, with the same rules for order, results, errors,
tracing and monitoring. It replaces one private method, ``_hookexec``, which is unchanged since pluggy 1.5.

One rule is added for async hooks: a wrapper that yields a mapping at its first ``yield`` changes those arguments for
the implementations it encloses. That is how an override rewrites an event and then defers.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

import pluggy

_Arguments = Mapping[str, object]
_Call = Callable[..., Awaitable[object]]


def async_wrapper(function: Callable[..., AsyncGenerator[Any, Any]]) -> Callable[..., Any]:
    """Let an async generator be a ``wrapper=True`` implementation of an async hook.

    It yields twice: first to run what it encloses (nothing, or a mapping of the arguments to change), then the result::

        @hookimpl(wrapper=True)
        @async_wrapper
        async def start_loop(request):
            async with span(request.conversation_id):
                loop = yield
            yield loop
    """

    @functools.wraps(function)
    def generator(*args: object, **kwargs: object) -> Generator[AsyncGenerator[Any, Any], Any, Any]:
        yield function(*args, **kwargs)  # unpacked in _around()

    return generator


class AsyncPluginManager(pluggy.PluginManager):
    """A plugin manager whose ``async def`` hooks are awaited."""

    def __init__(self, project_name: str) -> None:
        super().__init__(project_name)
        self._async_hooks: set[str] = set()
        self._async_hookexec: _Call = _async_multicall

    def parse_hookspec_opts(self, module_or_class: Any, name: str) -> Any:
        """Note which specifications are async.

        Raises:
            ValueError: one is async and historic: there is nobody to await what a late plugin answers.
        """
        opts = super().parse_hookspec_opts(module_or_class, name)
        if opts and inspect.iscoroutinefunction(getattr(module_or_class, name)):
            if opts["historic"]:
                raise ValueError(f"hook {name!r} cannot be both async and historic")
            self._async_hooks.add(name)
        return opts

    def _hookexec(self, hook_name: str, methods: Any, kwargs: Any, firstresult: bool) -> Any:
        if hook_name in self._async_hooks:
            return self._async_hookexec(hook_name, methods, kwargs, firstresult)
        return super()._hookexec(hook_name, methods, kwargs, firstresult)

    def caller_of(self, hook: str, plugin: object, *, wrapped: bool = True) -> Callable[..., Any]:
        """Return what calls ``hook`` of one plugin only, with the wrappers around it, or without.

        Not `subset_hook_caller`: up to pluggy 1.5, it overlooks implementations that are called other than the hook.
        """
        caller: pluggy.HookCaller = getattr(self.hook, hook)
        firstresult = bool(caller.spec and caller.spec.opts["firstresult"])

        def call(**kwargs: object) -> Any:
            every = caller.get_hookimpls()
            implementations = [one for one in every if (wrapped if one.wrapper else one.plugin is plugin)]
            return self._hookexec(hook, implementations, kwargs, firstresult)

        return call

    def add_hookcall_monitoring(self, before: Any, after: Any) -> Callable[[], None]:
        """As pluggy's; for async hooks ``after`` sees the awaited outcome."""
        undo_sync, inner = super().add_hookcall_monitoring(before, after), self._async_hookexec

        async def traced(*call: Any) -> object:
            before(*call[:3])
            try:
                outcome: pluggy.Result[object] = pluggy.Result(await inner(*call), None)
            except BaseException as error:  # noqa: BLE001 - passed on by get_result()
                outcome = pluggy.Result(None, error)
            after(outcome, *call[:3])
            return outcome.get_result()

        def undo() -> None:
            undo_sync()
            self._async_hookexec = inner

        self._async_hookexec = traced
        return undo


async def _async_multicall(
    name: str, impls: Sequence[pluggy.HookImpl], kwargs: _Arguments, firstresult: bool
) -> object:
    """Call ``impls`` from last to first; each wrapper encloses those before it."""
    if impls and impls[-1].wrapper:
        enclosed = functools.partial(_enclosed, name, impls[:-1], kwargs, firstresult)
        return await _around(_call(impls[-1], kwargs), enclosed)
    results: list[object] = []
    for impl in reversed(impls):
        value = _call(impl, kwargs)
        value = await value if inspect.isawaitable(value) else value
        if value is not None:
            if firstresult:
                return value
            results.append(value)
    return None if firstresult else results


async def _enclosed(
    name: str,
    impls: Sequence[pluggy.HookImpl],
    kwargs: _Arguments,
    firstresult: bool,
    changed: object,
) -> object:
    """Go on behind a wrapper, with the arguments it changed."""
    if changed is None:
        return await _async_multicall(name, impls, kwargs, firstresult)
    if not isinstance(changed, Mapping):
        raise TypeError(f"a wrapper of {name!r} must yield nothing or a mapping of arguments, not {changed!r}")
    if unknown := sorted(changed.keys() - kwargs.keys()):
        raise pluggy.HookCallError(f"a wrapper of {name!r} changes unknown arguments: {', '.join(unknown)}")
    return await _async_multicall(name, impls, {**kwargs, **changed}, firstresult)


def _call(impl: pluggy.HookImpl, kwargs: _Arguments) -> Any:
    if impl.hookwrapper:
        raise TypeError(f"{impl.plugin_name}: async hooks take wrapper=True, not hookwrapper=True")
    try:
        args = [kwargs[name] for name in impl.argnames]
    except KeyError as missing:
        raise pluggy.HookCallError(f"hook call must provide argument {missing}") from missing
    return impl.function(*args, **{name: kwargs[name] for name in kwargs.keys() & impl.kwargnames})


async def _around(wrapper: Generator[Any, Any, object], enclosed: _Call) -> object:
    try:
        first = next(wrapper)
    except StopIteration:
        raise RuntimeError(f"{wrapper!r} did not yield") from None
    if inspect.isasyncgen(first):
        return await _around_async(first, enclosed)
    try:
        resume = functools.partial(wrapper.send, await enclosed(first))
    except BaseException as error:  # noqa: BLE001 - the wrapper decides what becomes of it
        resume = functools.partial(wrapper.throw, error)
    try:
        resume()
    except StopIteration as stop:
        return stop.value
    wrapper.close()
    raise RuntimeError(f"{wrapper!r} has second yield")


async def _around_async(wrapper: AsyncGenerator[Any, Any], enclosed: _Call) -> object:
    try:
        changed = await anext(wrapper)
        try:
            resume = wrapper.asend(await enclosed(changed))
        except BaseException as error:  # noqa: BLE001 - the wrapper decides what becomes of it
            resume = wrapper.athrow(error)
        return await resume
    except StopAsyncIteration:
        raise RuntimeError(f"{wrapper!r} must yield twice: to run the hook, its result") from None
    finally:
        await wrapper.aclose()
