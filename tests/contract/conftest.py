from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from loopnest import LoopManager, LoopnestSettings, aio


@pytest.fixture
def settings(tmp_path):
    """Settings of a host that keeps everything below the test's directory."""
    return LoopnestSettings(strategy="in-memory", state_dir=tmp_path, secret="a secret of the tests")


@pytest.fixture
def opened(settings) -> Callable[..., AbstractAsyncContextManager[LoopManager]]:
    """Open a manager over plugin objects; keywords change the settings."""

    @contextlib.asynccontextmanager
    async def open_manager(strategy, *overrides, **changes) -> AsyncIterator[LoopManager]:
        changed = LoopnestSettings.model_validate(settings.model_dump() | changes)
        async with LoopManager.from_plugins(strategy, *overrides, settings=changed) as loops:
            yield loops

    return open_manager


@pytest.fixture
def impatient(monkeypatch):
    """Plugins get no time to clean up after their cancellation."""
    monkeypatch.setattr(aio, "GRACE", 0.01)
