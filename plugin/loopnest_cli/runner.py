"""Run a command's work on an event loop, so that Ctrl-C ends it cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

import typer

from loopnest import EVERYONE, Everyone, LoopManager
from loopnest_cli.options import Options

_T = TypeVar("_T")


def manager(ctx: typer.Context) -> LoopManager:
    """Return the manager that the configuration and the global options ask for.

    Raises:
        ConfigurationError: it can't be had.
    """
    options: Options = ctx.obj
    return LoopManager.from_config(options.config, strategy=options.strategy, one_shot=True)


def scope(user: str | None) -> str | Everyone:
    """The operator acts for all users, unless ``--user`` names one."""
    return EVERYONE if user is None else user


def animated(ctx: typer.Context) -> bool | None:
    """Whether to animate progress: not where log lines would get in its way, else where there is a terminal."""
    options: Options = ctx.obj
    return False if options.verbosity else None


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run ``work`` to its end; SIGINT and SIGTERM cancel it, let it clean up, and exit with 130 or 143.

    A second one of the same kind does not wait for the clean-up.
    """
    return asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, _T]) -> _T:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    received: list[int] = []

    def stop(number: int) -> None:
        received.append(number)
        loop.remove_signal_handler(number)
        if task:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt there
            loop.add_signal_handler(number, stop, number)
    try:
        return await work
    except asyncio.CancelledError:
        if received:
            raise typer.Exit(128 + received[0]) from None
        raise
