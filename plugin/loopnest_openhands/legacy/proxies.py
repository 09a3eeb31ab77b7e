"""What the host's routes attach to, with the nested server behind it.

The host reads attributes of these objects on its event loop, and calls their methods in threads. So what it reads is
asked for when the host attaches, and what it calls waits for the event loop.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import httpx
from fastapi import Response
from openhands.core.exceptions import AgentRuntimeUnavailableError
from openhands.events.event_store import EventStore

from loopnest_openhands.legacy.forward import Nested
from loopnest_openhands.legacy.host import Host

_T = TypeVar("_T")
#: Seconds for what is asked ahead.
_AHEAD: Final = 5


@dataclass
class NestedFacts:
    """What a nested server was asked for ahead, as the host reads it without waiting.

    Attributes:
        microagents: None while the agent is not initialized.
    """

    vscode_url: str | None = None
    web_hosts: dict[str, int] = field(default_factory=dict)
    microagents: list[dict[str, Any]] | None = None

    @property
    def complete(self) -> bool:
        """Whether the nested server's agent was there to be asked."""
        return self.microagents is not None

    @classmethod
    async def ask(cls, nested: Nested) -> NestedFacts:
        """Ask a nested server; what it does not answer is left out."""
        paths = ("vscode-url", "web-hosts", "microagents")
        answers = await asyncio.gather(*(_json(nested, path) for path in paths))
        vscode, hosts, microagents = answers
        return cls(vscode.get("vscode_url"), hosts.get("hosts") or {}, microagents.get("microagents"))


async def _json(nested: Nested, path: str) -> Mapping[str, Any]:
    try:
        response = await nested.request("GET", path, timeout=_AHEAD)
        answer = response.json() if response.is_success else {}
    except (ValueError, httpx.HTTPError):
        return {}
    return answer if isinstance(answer, dict) else {}


class NestedConversation:
    """What the host calls a ServerConversation."""

    def __init__(self, host: Host, nested: Nested, user_id: str | None, facts: NestedFacts) -> None:
        self.sid, self.user_id = nested.conversation_id, user_id
        self.config, self.file_store = host.config, host.file_store
        self.event_stream = EventStore(self.sid, host.file_store, user_id)
        self.runtime = NestedRuntime(host, nested, facts)
        self.security_analyzer = NestedSecurityAnalyzer(nested)


class NestedRuntime:
    """What the host calls a Runtime."""

    def __init__(self, host: Host, nested: Nested, facts: NestedFacts) -> None:
        self.sid, self.config, self._facts = nested.conversation_id, host.config, facts
        self._nested, self._loop = nested, asyncio.get_running_loop()

    @property
    def vscode_url(self) -> str | None:
        """Where the editor of the nested server is."""
        return self._facts.vscode_url

    @property
    def web_hosts(self) -> dict[str, int]:
        """Where servers that the agent starts would be, with their ports."""
        return self._facts.web_hosts

    def copy_from(self, path: str) -> Path:  # noqa: ARG002 - the nested server archives its own workspace
        """Return an archive of the workspace, which is the caller's to remove."""
        return self._wait(self._nested.download("zip-directory"))

    def get_git_changes(self, cwd: str) -> list[dict[str, str]] | None:  # noqa: ARG002 - the nested server knows it
        """Return the changed files; None where the workspace is no git repository."""
        response = self._ask("git/changes")
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        changes: list[dict[str, str]] = self._successful(response).json()
        return changes

    def get_git_diff(self, file_path: str, cwd: str) -> dict[str, str]:  # noqa: ARG002
        """Return the original and the modified text of a file."""
        difference: dict[str, str] = self._successful(self._ask("git/diff", path=file_path)).json()
        return difference

    def _ask(self, route: str, **params: str) -> httpx.Response:
        return self._wait(self._nested.request("GET", route, params=params))

    def _successful(self, response: httpx.Response) -> httpx.Response:
        if not response.is_success:
            raise AgentRuntimeUnavailableError(_reason(response))
        return response

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Let the event loop do ``work``, from another thread."""
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (ValueError, httpx.HTTPError) as error:
            raise AgentRuntimeUnavailableError(str(error)) from error


class NestedSecurityAnalyzer:
    """Passes requests for a security analyzer on."""

    def __init__(self, nested: Nested) -> None:
        self._nested = nested

    async def handle_api_request(self, request: Any) -> Any:
        """Send the host's request to the nested server, and return its answer."""
        path = request.url.path.partition("/security/")[2]
        answer = await self._nested.request(
            request.method,
            f"security/{path}",
            params=dict(request.query_params),
            content=await request.body(),
        )
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


def agent_session(facts: NestedFacts) -> Any:
    """What the host calls an AgentSession, as far as its routes read it."""
    if facts.microagents is None:
        return SimpleNamespace(memory=None)
    repo = {agent["name"]: _microagent(agent) for agent in facts.microagents if agent["type"] == "repo"}
    knowledge = {agent["name"]: _microagent(agent) for agent in facts.microagents if agent["type"] != "repo"}
    return SimpleNamespace(memory=SimpleNamespace(repo_microagents=repo, knowledge_microagents=knowledge))


def _microagent(agent: Mapping[str, Any]) -> Any:
    servers = [SimpleNamespace(name=name) for name in agent["tools"]]
    metadata = SimpleNamespace(inputs=agent["inputs"], mcp_tools=SimpleNamespace(stdio_servers=servers))
    return SimpleNamespace(content=agent["content"], triggers=agent["triggers"], metadata=metadata)


def _reason(response: httpx.Response) -> str:
    try:
        answer = response.json()
    except json.JSONDecodeError:
        return response.text[:300]
    return str(answer.get("error", answer) if isinstance(answer, dict) else answer)
