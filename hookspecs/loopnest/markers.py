"""The project name that joins hook specifications and implementations, and the markers that carry it."""

from __future__ import annotations

from typing import Final

import pluggy

from loopnest.asyncpluggy import async_wrapper

__all__ = ["ENTRY_POINT_GROUP", "PROJECT", "async_wrapper", "hookimpl", "hookspec"]

PROJECT: Final = "loopnest"
#: The entry-point group in which distributions offer plugins, by kebab-case names.
ENTRY_POINT_GROUP: Final = "loopnest"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
