"""Loops and what is published, asked and answered about them: frozen pydantic models that validate at the edge.

Secrets are `pydantic.SecretStr` from the first line to the last, and fields that may hold secrets a host passes
through unread are left out of ``repr``. All times are timezone-aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, SecretStr

from loopnest.owners import NOBODY, Everyone, UserScope, owner_of
from loopnest.validation import ConversationId, StrEnum


def utcnow() -> datetime:
    """The current time, timezone-aware."""
    return datetime.now(timezone.utc)


class Model(BaseModel):
    """Base of the contract's models: immutable, no unknown fields, and no input values in validation errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LoopStatus(StrEnum):
    """Where a loop is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class LoopQuery(Model):
    """Which loops to list.

    Attributes:
        user_id: whose; None means those started for no user, `EVERYONE` all.
        conversation_ids: only these; None means any. Ids without a loop are left out of the answer.
        statuses: only these; None means any.
        probe: also ask each nested server what its agent does (`Loop.agent_status`), all at once and within a short
            limit; otherwise only facts that need no nested server are given.
    """

    user_id: UserScope = None
    conversation_ids: frozenset[str] | None = None
    statuses: frozenset[LoopStatus] | None = None
    probe: bool = False

    def matches(self, loop: Loop) -> bool:
        """Whether ``loop`` is asked for."""
        return bool(self.select((loop,)))

    def select(self, loops: Iterable[Loop]) -> list[Loop]:
        """Those of ``loops`` that are asked for."""
        if not isinstance(self.user_id, Everyone):
            owner = owner_of(self.user_id)
            loops = (loop for loop in loops if loop.owner == owner)
        if self.conversation_ids is not None:
            loops = (loop for loop in loops if loop.conversation_id in self.conversation_ids)
        if self.statuses is not None:
            loops = (loop for loop in loops if loop.status in self.statuses)
        return list(loops)


# --- answers --------------------------------------------------------------------------------------------------------


class Phase(StrEnum):
    """What happens to a loop. A closed set, so that hosts can act on it; `Loop.message` says more to a person.

    ``requested``, ``ready``, ``stopping``, ``paused``, ``removed``, the ``stopped`` of a close and the ``failed`` of a
    start are published by `LoopManager`; all others, and loops that end by themselves, by the strategy.
    """

    REQUESTED = "requested"
    PULLING_IMAGE = "pulling-image"
    BUILDING_IMAGE = "building-image"
    INSTALLING_SERVER = "installing-server"
    CLAIMED = "claimed"  # what the loop runs in was booted ahead
    CREATING = "creating"
    BOOTING = "booting"
    READY = "ready"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    REMOVED = "removed"


class Loop(Model):
    """One agent loop, as the strategy that runs it sees it now.

    Attributes:
        owner: `owner_of` the user it was started for.
        strategy: the name of the strategy that runs it.
        dialect: which HTTP API the nested server speaks, where there is one.
        phase: how far the start has come that goes on in this process; None while none does.
        reason: the stable code, where the loop failed or stopped by itself; ``message`` says it to a person.
        url: base URL of the nested server, reachable by the host; None while there is none.
        urls: of the further ports that the strategy makes reachable, by the port where the loop runs.
        session_key: what the nested server asks for in ``X-Session-API-Key``.
        nested_id: the conversation's id inside the nested server, where it differs or must be known.
        agent_status: what the agent does, in the nested server's own word; only with `LoopQuery.probe`.
        notes: as they were given to the start that made the loop.
        origin: ``warm`` where what it runs in was booted ahead; ``cold: `` and why where it was not.
        exit_code: of the nested server's process, where it ended.
        log_tail: its last log lines, for failed loops.
    """

    conversation_id: ConversationId
    owner: str = NOBODY
    status: LoopStatus
    strategy: str = ""
    dialect: str | None = None
    phase: Phase | None = None
    reason: str | None = None
    message: str | None = None
    url: str | None = None
    urls: Mapping[int, str] = Field(default_factory=dict)
    session_key: SecretStr | None = None
    nested_id: str | None = None
    agent_status: str | None = None
    notes: Mapping[str, str] = Field(default_factory=dict)
    origin: str | None = None
    exit_code: int | None = None
    log_tail: tuple[str, ...] = ()
    created_at: datetime | None = None
    changed_at: datetime | None = None


class LoopChange(Model):
    """One step in the life of a loop, which every plugin gets through ``loop_changed``.

    Attributes:
        loop: after the change, with what the publisher knows of it: at least its status, and why it failed.
        phase: what happens, or has just happened.
        progress: 0 to 1 within ``phase``, where it can be known (pulls and builds).
        sequence: counts the changes of one conversation in one host process, from 1, without gaps.
    """

    loop: Loop
    phase: Phase
    progress: float | None = Field(default=None, ge=0, le=1)
    at: datetime = Field(default_factory=utcnow)
    sequence: int = 0

    @property
    def conversation_id(self) -> str:
        """Of the loop."""
        return self.loop.conversation_id

    @property
    def status(self) -> LoopStatus | None:
        """The status of the loop after the change; None once it is removed."""
        return None if self.phase is Phase.REMOVED else self.loop.status


class Delivery(Model):
    """An event that the nested server accepted; ``response`` is its answer, in its own terms."""

    conversation_id: ConversationId
    response: JsonValue = None


class Closed(Model):
    """How a loop was closed.

    Attributes:
        graceful: the nested server stopped by itself when asked; False where it was already down, or had to be killed.
        already: there was nothing to stop.
        removed: its container and workspace are gone too.
    """

    conversation_id: ConversationId
    graceful: bool = False
    already: bool = False
    removed: bool = False
    exit_code: int | None = None
    message: str | None = None


class Finding(Model):
    """One line of ``loopnest doctor``: what was looked at, whether it is fine, and what to do where it is not."""

    check: str
    level: Literal["ok", "warning", "error"]
    message: str
    advice: str | None = None
