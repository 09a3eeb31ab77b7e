"""The dialect of the legacy OpenHands server (``openhands-ai`` 1.6.0)."""

from loopnest_nested.dialects.openhands_v0.dialect import OpenHandsV0

__all__ = ["OpenHandsV0"]
