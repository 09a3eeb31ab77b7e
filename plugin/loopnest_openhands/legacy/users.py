"""Whose request it is.

The host asks several things of its conversation manager without saying for whom. So the host's ``user_auth_class`` is
replaced by one that builds the configured class, and notes the user it found for the task that serves the request.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Final

from loopnest import EVERYONE, Everyone

_ASKING: ContextVar[str | Everyone | None] = ContextVar("loopnest_asking", default=EVERYONE)
_NOTING: Final = "loopnest_openhands.legacy.user_auth.NotedUserAuth"
_configured: list[str] = []


def scope(user_id: str | None = None) -> str | Everyone | None:
    """The user the host names, else the one whose request this is, else everyone: the host itself asks."""
    return user_id if user_id is not None else _ASKING.get()


def watch(server_config: Any) -> None:
    """Have the users noted that the class finds which ``server_config`` names."""
    if server_config.user_auth_class != _NOTING:
        _configured[:] = [server_config.user_auth_class]
        server_config.user_auth_class = _NOTING


def note(user_id: str | None) -> None:
    """This task serves a request of ``user_id``."""
    _ASKING.set(user_id)


def configured_class() -> str:
    """The dotted name of the class that the host's configuration names."""
    return _configured[0]
