"""What the parts of the strategy share while it is open."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from loopnest import Loop, LoopChange, LoopStatus, Phase
from loopnest.specs import HostContext
from loopnest_nested import session_keys
from loopnest_nested.client import NestedServer
from loopnest_nested.dialects import Dialect
from loopnest_nested.redaction import RequestSecrets
from loopnest_process.locks import FileLocks
from loopnest_process.registry import Record, Registry
from loopnest_process.settings import ProcessSettings


@dataclass(frozen=True)
class Parts:
    """The collaborators, and what follows from them for a record."""

    settings: ProcessSettings
    context: HostContext
    dialect: Dialect
    http: httpx.AsyncClient = field(repr=False)
    registry: Registry
    locks: FileLocks
    requested: RequestSecrets = field(default_factory=RequestSecrets, repr=False)

    def keys(self, record: Record) -> session_keys.Keys:
        """The keys of the loop's nested server."""
        return session_keys.derive(self.context.secret, record.nonce)

    def secrets(self, record: Record) -> tuple[SecretStr, ...]:
        """The secrets of the nested server, which must not appear in its log."""
        keys = self.keys(record)
        requested = self.requested.of(record.conversation_id)
        return (keys.session, keys.at_rest, *self.settings.secret_environment.values(), *requested)

    def foreign(self, record: Record) -> bool:
        """Whether a host with another secret made the loop, so that its keys can't be derived here."""
        return record.fingerprint != session_keys.fingerprint(self.context.secret)

    def has_conversation(self, record: Record) -> bool:
        """Whether there is a conversation to come back to: it ran once, or its nested server's store has files of it.

        A host may be killed after the nested server created the conversation and before that was recorded.
        """
        if record.proven:
            return True
        place = self.registry.place(record.conversation_id)
        store = Path(self.dialect.store(place, record.conversation_id))
        return store.is_dir() and any(store.iterdir())

    def url(self, record: Record) -> str:
        """Where the nested server listens."""
        return f"http://127.0.0.1:{record.port}"

    def server(self, record: Record) -> NestedServer:
        """The loop's nested server."""
        return NestedServer(self.url(record), self.keys(record).session, self.http)

    def publish(self, conversation_id: str, owner: str, phase: Phase, status: LoopStatus, **facts: Any) -> None:
        """Publish a change of a loop; ``facts`` are further fields of it."""
        loop = Loop(conversation_id=conversation_id, owner=owner, status=status, **facts)
        self.context.emit(LoopChange(loop=loop, phase=phase))
