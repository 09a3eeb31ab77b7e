"""The host adapter for the OpenHands agent server: its conversations run as loops.

``uvicorn loopnest_openhands.agent_server:app --factory`` serves the agent server's own API. What belongs to one
conversation goes to the nested server of its loop, everything else to the stock application in this process.
"""

from __future__ import annotations

from typing import Any


def app() -> Any:
    """Build the application, configured by ``OH_*`` (the agent server's) and ``LOOPNEST_*`` or ``loopnest.toml``.

    Raises:
        loopnest.ConfigurationError: with what is wrong, where, and what to do about it.
    """
    from loopnest_openhands.agent_server.application import build  # noqa: PLC0415 - only a server needs Starlette

    return build()


__all__ = ["app"]
