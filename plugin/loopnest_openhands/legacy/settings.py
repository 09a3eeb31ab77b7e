"""The ``[loopnest.openhands-legacy]`` table."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class HostSettings(BaseModel):
    """Settings of the adapter. Times are seconds.

    Attributes:
        limit: how many loops each user may run at once; None means the host's ``max_concurrent_conversations``.
        limit_policy: what happens at the limit: ``close-idle`` closes the loop idle longest, ``reject`` refuses the
            new one.
        upstream_containers: find, list, drive and close containers that upstream's nested manager started.
        store_on_engine: the host's file store as the engine's machine sees it, where the host runs in a container
            itself.
        probe_timeout: for a nested server to say how its runtime is, in listings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    limit: int | None = Field(default=None, ge=1)
    limit_policy: Literal["close-idle", "reject"] = "close-idle"
    upstream_containers: bool = True
    store_on_engine: PurePosixPath | None = None
    probe_timeout: float = Field(default=2, gt=0)
