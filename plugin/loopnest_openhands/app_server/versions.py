"""Whether the nested servers are of the version that the host speaks."""

from __future__ import annotations

import importlib.metadata
import logging

import httpx

from loopnest import Loop

_log = logging.getLogger(__name__)


class Versions:
    """Looks at each nested server once it runs, and warns once of each version that does not fit.

    The app server validates what agent servers answer with the models of the release that it pins, and sends what that
    release takes: another minor version may refuse a conversation, or be misunderstood.
    """

    def __init__(self) -> None:
        self.host = importlib.metadata.version("openhands-agent-server")
        self._http = httpx.AsyncClient(timeout=5, trust_env=False)
        self._warned: set[str] = set()

    async def look(self, loop: Loop) -> None:
        """Ask the nested server of ``loop`` for its version."""
        try:
            answer = await self._http.get(f"{loop.url}/server_info")
            nested = str(answer.json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            _log.debug("The version of sandbox %s can't be read: %s", loop.conversation_id, type(error).__name__)
            return
        if not fits(self.host, nested) and nested not in self._warned:
            self._warned.add(nested)
            _log.warning(mismatch(self.host, nested))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def fits(host: str, nested: str) -> bool:
    """Whether the versions agree in major and minor number."""
    return host.split(".")[:2] == nested.split(".")[:2]


def mismatch(host: str, nested: str) -> str:
    """Say what does not fit, and what to do."""
    return (
        f"This app server was made for agent server {host}, but its sandboxes run agent server {nested}: conversations "
        f"may fail to start or be misread. Set 'version = \"{host}\"' in [loopnest.docker.build] and run 'loopnest "
        f"image build', or set 'loopnest.docker.image' to an image that has it."
    )
