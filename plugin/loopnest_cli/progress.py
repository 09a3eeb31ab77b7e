"""Progress of what takes long, on standard error: animated on a terminal, one line for each phase elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.progress_bar import ProgressBar

from loopnest import LoopChange, LoopManager, Phase
from loopnest_cli.output import console, printable


class Show(Protocol):
    """Shows how far the work has come; ``progress`` is 0 to 1 within ``phase``, None where it can't be known."""

    def __call__(self, phase: str, message: str | None = None, progress: float | None = None) -> None:
        """Show it."""


@contextlib.contextmanager
def shown(title: str, *, animated: bool | None = None) -> Iterator[Show]:
    """Show progress while the block runs.

    Args:
        title: what is worked on.
        animated: None means on a terminal only.
    """
    terminal = console(err=True)
    if not (terminal.is_terminal if animated is None else animated):
        yield _Lines(title)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _KnownBar(),
        TextColumn("{task.fields[note]}", markup=False, style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as bars:
        yield _Bar(title, bars, bars.add_task(title, total=None, note=""))


@contextlib.asynccontextmanager
async def changes_shown(
    loops: LoopManager, conversation_id: str, *, animated: bool | None = None
) -> AsyncIterator[None]:
    """Show the changes of one loop while the block runs."""
    with shown(conversation_id, animated=animated) as show:
        async with loops.watch() as changes:
            task = asyncio.create_task(_follow(changes, conversation_id, show))
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def _follow(changes: AsyncIterator[LoopChange], conversation_id: str, show: Show) -> None:
    async for change in changes:
        if change.conversation_id == conversation_id and change.phase is not Phase.FAILED:  # the error tells more
            show(change.phase, change.loop.message, change.progress)


class _KnownBar(BarColumn):
    """A bar where the progress is known, and nothing elsewhere."""

    def render(self, task: Task) -> ProgressBar:
        """Draw it."""
        self.bar_width = 0 if task.total is None else 30
        return super().render(task)


class _Bar:
    def __init__(self, title: str, bars: Progress, task: TaskID) -> None:
        self._title, self._bars, self._task = title, bars, task

    def __call__(self, phase: str, message: str | None = None, progress: float | None = None) -> None:
        """Move the bar; it pulses where the progress can't be known."""
        self._bars.update(
            self._task,
            description=f"{self._title}: {phase}",
            total=None if progress is None else 1,
            completed=progress or 0,
            note=printable(message or "").strip()[:60],
        )


class _Lines:
    def __init__(self, title: str) -> None:
        self._title, self._phase = title, ""

    def __call__(self, phase: str, message: str | None = None, progress: float | None = None) -> None:  # noqa: ARG002
        """Print a phase when it begins."""
        if phase != self._phase:
            self._phase = phase
            typer.echo(f"{self._title}: {phase}", err=True)
