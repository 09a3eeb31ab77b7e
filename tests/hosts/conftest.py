"""What the tests of the legacy host share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .legacy_stage import Stage, stage


@pytest.fixture(scope="module")
def on_stage() -> Iterator[Stage]:
    with stage() as set_up:
        yield set_up
