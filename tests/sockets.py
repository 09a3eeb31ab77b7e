"""Sockets that the docker SDK leaves open where it can't connect."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def leaves_sockets(test: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a test of an engine that can't be reached.

    The SDK leaves the sockets of failed connections to the garbage collector. It must run before the next test, which
    would fail for them.
    """
    test = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(test)
    return pytest.mark.usefixtures("sockets_collected")(test)


@pytest.fixture
def sockets_collected() -> Iterator[None]:
    """Close what was left, once all other fixtures of the test are done."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
