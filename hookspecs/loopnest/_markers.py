"""The project name that joins hook specifications and implementations, and the markers that carry it."""

from __future__ import annotations

from typing import Final

import pluggy

from loopnest._pluggy import async_wrapper

__all__ = ["CONTRACT_VERSION", "ENTRY_POINT_GROUP", "PROJECT", "async_wrapper", "hookimpl", "hookspec"]

PROJECT: Final = "loopnest"
#: The version of the hook specifications and of the models that they use.
CONTRACT_VERSION: Final = 1
#: The entry-point group in which distributions offer plugins, by kebab-case names.
ENTRY_POINT_GROUP: Final = "loopnest"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
