"""The OpenAI-compatible routes: the stock application's own, but their agents work in loops, not in this process.

The routes reach conversations through one dependency, which FastAPI lets an application replace. What is here is as
much of the agent server's conversation service and event service as the routes use, with the same names.
"""

from __future__ import annotations

import asyncio
import importlib
from types import SimpleNamespace
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.requests import Request
from starlette.types import Scope

from loopnest_openhands.agent_server import launch
from loopnest_openhands.agent_server.conversations import Conversations
from loopnest_openhands.agent_server.launch import Refused
from loopnest_openhands.agent_server.upstream import Stock

#: Seconds between two looks at whether the agent is done.
_PAUSE: Final = 0.25
_UNDONE: Final = frozenset({"idle", "running"})


def install(stock: Stock, conversations: Conversations) -> None:
    """Give the routes the loops' conversations; local ones too, where the configuration allows those."""
    gateway = Gateway(conversations, stock)

    def chosen(request: Request) -> Any:
        service = stock.conversation_service(request)
        return gateway.beside(service) if is_gateways(request.scope) else service

    stock.app.dependency_overrides[stock.conversation_service] = chosen


def is_gateways(scope: Scope) -> bool:
    """Whether a request is for one of these routes."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path.startswith("/v1/")


class Gateway:
    """Stands for the agent server's ``ConversationService``."""

    def __init__(self, conversations: Conversations, stock: Stock, local: Any = None) -> None:
        self._conversations, self._stock, self._local = conversations, stock, local

    def beside(self, local: Any) -> Gateway:
        """Return this gateway with the stock service, which knows the local conversations."""
        return Gateway(self._conversations, self._stock, local)

    async def get_event_service(self, conversation_id: UUID) -> Any:
        """Return what runs a conversation; None where there is none."""
        if await self._conversations.find(conversation_id):
            return Turn(self._conversations, conversation_id)
        return await self._local.get_event_service(conversation_id) if self._stock.local else None

    async def start_conversation(self, request: Any) -> tuple[Any, bool]:
        """Start a conversation in a new loop, and return what the routes read of it, and whether it is new.

        Raises:
            LoopnestError: the loop could not be started, or its nested server refused.
        """
        body = request.model_dump(mode="json", context=launch.PLAIN, exclude_none=True)
        start = await launch.resolve(body, self._stock)
        answer = await self._conversations.creations.create(request.conversation_id or uuid4(), start, {})
        if not answer.is_success:
            raise Refused(answer.status_code, answer.json().get("detail"))
        return SimpleNamespace(id=UUID(answer.json()["id"])), answer.status_code == 201


class Turn:
    """Stands for the agent server's ``EventService``: one conversation, in which the agent is to answer."""

    def __init__(self, conversations: Conversations, conversation_id: UUID) -> None:
        self._conversations, self._id = conversations, conversation_id

    async def reserve_run_slot(self) -> None:
        """Nothing to reserve: the nested server runs one conversation."""

    async def send_message(self, message: Any, run: bool = False, **_: object) -> None:
        """Say something to the agent."""
        content = [part.model_dump(mode="json") for part in message.content]
        await self._ask("POST", "/events", json={"role": message.role, "content": content, "run": run})

    async def wait_for_run_completion(self, timeout: float | None = None) -> Any:
        """Return how the agent ended.

        Raises:
            TimeoutError: it goes on working after so many seconds.
        """
        async with self._conversations.open(self._id):  # so that the loop is not stopped meanwhile
            return await asyncio.wait_for(self._ended(), timeout)

    async def get_state(self) -> Any:
        """Return what the routes read of the conversation's state."""
        info = await self._ask("GET")
        events = await self._ask("GET", "/events/count")
        stats = _sdk("conversation_stats").ConversationStats.model_validate(info["stats"])
        status = _sdk("state").ConversationExecutionStatus(info["execution_status"])
        return SimpleNamespace(execution_status=status, events=range(events), stats=stats)

    async def get_agent_final_response(self) -> str:
        """Return the agent's last words."""
        return str((await self._ask("GET", "/agent_final_response"))["response"])

    async def _ended(self) -> Any:
        while True:
            status = (await self._ask("GET"))["execution_status"]
            if status not in _UNDONE:
                return _sdk("state").ConversationExecutionStatus(status)
            await asyncio.sleep(_PAUSE)

    async def _ask(self, method: str, tail: str = "", **options: Any) -> Any:
        async with self._conversations.open(self._id) as server:
            return await server.request(method, f"/api/conversations/{self._id}{tail}", **options)


def _sdk(name: str) -> Any:
    return importlib.import_module(f"openhands.sdk.conversation.{name}")
