"""What a container is called, and the labels it carries.

A container's labels never change; its name can, and the engine keeps it unique. So facts are labels, and what the
container is *for* is its name. Creating it, or renaming it, under the name of a conversation is the lock: of any number
of concurrent starts, on any number of hosts, the engine lets one win.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final, NamedTuple

_PREFIX: Final = "loopnest"
_NAME: Final = re.compile(r"\A/?loopnest\.(?P<namespace>[^.]+)\.(?P<conversation_id>[^.]+)\.(?P<owner>[^.]+)\Z")

SCHEMA: Final = "dev.loopnest.schema"
NAMESPACE: Final = "dev.loopnest.namespace"
DIALECT: Final = "dev.loopnest.dialect"
NONCE: Final = "dev.loopnest.nonce"
KEY: Final = "dev.loopnest.key"
SPEC: Final = "dev.loopnest.spec"
ROLE: Final = "dev.loopnest.role"
#: The role of short-lived containers that are no loops.
HELPER: Final = "helper"
#: Begins the names of tokens that were taken.
TAKEN: Final = f"{_PREFIX}-taken"
IMAGE: Final = "dev.loopnest.image"
#: How the loop was started: ``warm``, or ``cold`` and why.
ORIGIN: Final = "dev.loopnest.origin"
#: On loops whose conversations the host creates itself.
BARE: Final = "dev.loopnest.bare"
#: Begins the labels of what the host noted.
NOTE: Final = "dev.loopnest.note."


class LoopName(NamedTuple):
    """What a container is for."""

    namespace: str
    conversation_id: str
    owner: str

    def __str__(self) -> str:
        return f"{_PREFIX}.{self.namespace}.{self.conversation_id}.{self.owner}"


def parse(name: str) -> LoopName | None:
    """Return what the container called ``name`` is for; None where the name is not a loop's."""
    match = _NAME.match(name)
    return LoopName(**match.groupdict()) if match else None


def slot_name(namespace: str, nonce: str) -> str:
    """The name of a container of the pool, which waits for a conversation."""
    return f"{_PREFIX}-slot.{namespace}.{nonce}"


def token_name(namespace: str, nonce: str) -> str:
    """The name of the token of such a container."""
    return f"{_PREFIX}-token.{namespace}.{nonce}"


def taken_name(namespace: str, nonce: str) -> str:
    """The name of a token that was taken: who gives it that name may have the container."""
    return f"{TAKEN}.{namespace}.{nonce}"


def network_name(namespace: str) -> str:
    """The name of the network of a namespace."""
    return f"{_PREFIX}-{namespace}"


def bridge_name(namespace: str) -> str:
    """The name of that network's bridge on the host: at most 15 characters, as the kernel demands."""
    return f"ln-{hashlib.sha256(namespace.encode()).hexdigest()[:12]}"
