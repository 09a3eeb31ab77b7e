"""The hosts: adapters that OpenHands loads by configuration.

Each name is imported when it is asked for, so that one host's adapter never needs another host's packages.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

_MODULES: Final = {
    "ConversationManager": "loopnest_openhands.legacy.manager",
    "SandboxServiceInjector": "loopnest_openhands.app_server.injector",
    "SandboxSpecServiceInjector": "loopnest_openhands.app_server.specs",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_MODULES))}")
    return getattr(importlib.import_module(_MODULES[name]), name)
