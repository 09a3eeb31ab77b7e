"""The dialect of the current OpenHands agent server (``openhands-agent-server``)."""

from loopnest_nested.dialects.agent_server.dialect import AgentServer

__all__ = ["AgentServer"]
