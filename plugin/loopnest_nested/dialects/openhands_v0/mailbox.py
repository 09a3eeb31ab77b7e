"""Deliver events one by one, in the order in which they were given."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final
from weakref import WeakKeyDictionary

import httpx
from pydantic import JsonValue

from loopnest import NestedError
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects.openhands_v0.agent import until_listening
from loopnest_nested.dialects.openhands_v0.patience import ask

#: Seconds for which an agent that was seen to listen is believed to; asking before each event would halve their rate.
_BELIEF: Final = 5.0
_MANY: Final = 1000


class Mailbox:
    """The way to one conversation: first come, first served, as concurrent requests may overtake each other."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.listened = float("-inf")

    async def deliver(self, server: NestedServer, path: str, payload: dict[str, Any]) -> JsonValue:
        """Post an event once the agent listens.

        Raises:
            NestedError: the server refused, or could not be asked.
        """
        async with self.lock:
            await self._until_listening(server, path)
            try:
                return await self._post(server, path, payload)
            except NestedError as error:
                if error.http_status != 500:  # what it answers for a conversation that was stopped meanwhile
                    raise
                self.listened = float("-inf")
                await self._until_listening(server, path)
                return await self._post(server, path, payload)

    async def _until_listening(self, server: NestedServer, path: str) -> None:
        if time.monotonic() > self.listened + _BELIEF:
            await until_listening(server, path)
            self.listened = time.monotonic()

    @staticmethod
    async def _post(server: NestedServer, path: str, payload: dict[str, Any]) -> JsonValue:
        return await ask(server, "POST", f"{path}/events", json=payload, repeatable=False)


class Mailboxes:
    """All mailboxes, kept beside the client through which the servers are reached. They hold nothing that matters."""

    def __init__(self) -> None:
        self._of: WeakKeyDictionary[httpx.AsyncClient, dict[str, Mailbox]] = WeakKeyDictionary()

    def of(self, server: NestedServer, path: str) -> Mailbox:
        """Return the mailbox of one conversation on one server."""
        mailboxes = self._of.setdefault(server.http, {})
        if len(mailboxes) > _MANY:
            for address in [it for it, mailbox in mailboxes.items() if not mailbox.lock.locked()]:
                del mailboxes[address]
        return mailboxes.setdefault(f"{server.url}{path}", Mailbox())
