from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from loopnest import LoopManager, LoopnestSettings
from loopnest_process.hooks import ProcessStrategy

from ..processes import kill_processes_of

SITE = Path(__file__).parent / "site"
NewManager = Callable[..., LoopManager]


@pytest.fixture
def state_dir(tmp_path) -> Iterator[Path]:
    """A state directory, of which no process is left after the test."""
    directory = tmp_path / "state"
    yield directory
    kill_processes_of(directory)


@pytest.fixture
def new_manager(state_dir) -> NewManager:
    """Build a manager whose loops run the stand-in; keywords change the settings of the strategy."""

    def build(**changes) -> LoopManager:
        given = {"python": sys.executable, "environment": {"PYTHONPATH": str(SITE)}, "stop_timeout": 5} | changes
        settings = LoopnestSettings(strategy="process", state_dir=state_dir, secret="a secret of the tests")
        return LoopManager.from_plugins(ProcessStrategy(ProcessStrategy.Settings(**given)), settings=settings)

    return build


@pytest.fixture
def opened(new_manager) -> Callable[..., AbstractAsyncContextManager[LoopManager]]:
    """Open a manager, and leave no loop behind."""

    @contextlib.asynccontextmanager
    async def open_manager(**changes) -> AsyncIterator[LoopManager]:
        async with new_manager(**changes) as loops:
            yield loops

    return open_manager
