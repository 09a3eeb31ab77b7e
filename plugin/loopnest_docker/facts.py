"""One container as the engine lists it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from loopnest_docker import naming

_EXIT_CODE: Final = re.compile(r"\((\d+)\)")


@dataclass(frozen=True)
class Facts:
    """What one entry of the engine's listing has about a loop's container.

    Attributes:
        state: ``created``, ``running``, ``paused``, ``restarting``, ``removing``, ``exited`` or ``dead``.
        ports: published port by the container's port.
        address: on its network; empty while it does not run.
    """

    id: str
    name: str
    loop: naming.LoopName
    state: str
    exit_code: int | None
    created_at: datetime
    labels: Mapping[str, str]
    ports: Mapping[int, int]
    address: str

    @property
    def up(self) -> bool:
        """Whether its process exists and is scheduled."""
        return self.state == "running"

    @property
    def down(self) -> bool:
        """Whether its process has ended."""
        return self.state in {"exited", "dead"}

    @property
    def conversation(self) -> str | None:
        """What to ask the nested server for; None where the host creates the conversations itself."""
        return None if naming.BARE in self.labels else self.loop.conversation_id

    @property
    def notes(self) -> dict[str, str]:
        """What the host noted when it was made."""
        labels = self.labels.items()
        return {key.removeprefix(naming.NOTE): value for key, value in labels if key.startswith(naming.NOTE)}

    @functools.cached_property
    def generation(self) -> tuple[str, tuple[int, ...]]:
        """Tells two lives of one container apart, as the published port is chosen anew at each start."""
        return self.id, tuple(self.ports.values())


@dataclass(frozen=True)
class Slot:
    """A container of the pool, or the token of one: see `loopnest_docker.pool`.

    Attributes:
        role: ``slot``, ``token``, or ``taken`` for a token that was claimed.
    """

    role: str
    container: Facts

    @property
    def nonce(self) -> str:
        """What joins a container and its token."""
        return self.container.labels[naming.NONCE]


def read_slot(entry: Mapping[str, Any]) -> Slot | None:
    """Return what one entry of the engine's listing is to the pool; None where it is nothing to it."""
    labels = entry.get("Labels") or {}
    role = labels.get(naming.ROLE)
    if role not in {"slot", "token"} or read(entry):
        return None
    unclaimed, name = naming.LoopName(labels[naming.NAMESPACE], "pool", "pool"), entry["Names"][0].lstrip("/")
    return Slot("taken" if name.startswith(naming.TAKEN) else role, _read(entry, name, unclaimed))


def read(entry: Mapping[str, Any]) -> Facts | None:
    """Return the facts of one entry of the engine's listing; None where the container is not a loop's."""
    for name in entry.get("Names") or ():
        if loop := naming.parse(name):
            return _read(entry, name.lstrip("/"), loop)
    return None


def _read(entry: Mapping[str, Any], name: str, loop: naming.LoopName) -> Facts:
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    exit_code = _EXIT_CODE.search(entry.get("Status", ""))
    return Facts(
        id=entry["Id"],
        name=name,
        loop=loop,
        state=entry["State"],
        exit_code=int(exit_code[1]) if exit_code and entry["State"] in {"exited", "dead"} else None,
        created_at=datetime.fromtimestamp(entry["Created"], timezone.utc),
        labels=entry.get("Labels") or {},
        ports={port["PrivatePort"]: port["PublicPort"] for port in entry.get("Ports") or () if "PublicPort" in port},
        address=next((network["IPAddress"] for network in networks.values() if network.get("IPAddress")), ""),
    )
