"""What a strategy promises beyond the four hooks.

A strategy declares its capabilities in an attribute::

    class MyStrategy:
        CAPABILITIES = frozenset({Capability.LOGS, Capability.SURVIVES_HOST})

Without the attribute it declares none. The conformance suite tests what is declared (see `loopnest.testing`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

from loopnest.errors import IllFittingPlugin
from loopnest.validation import StrEnum


class Capability(StrEnum):
    """What a strategy may declare in its attribute ``CAPABILITIES``."""

    #: Loops can be paused and resumed. Needs the hooks `pause_loop` and `resume_loop`.
    PAUSE = "pause"
    #: The log of a loop's nested server can be read. Needs the hook `loop_logs`.
    LOGS = "logs"
    #: Loops go on running when the host process ends, and the next host process finds them.
    SURVIVES_HOST = "survives-host"
    #: Hosts with the same namespace, secret and state directory see and drive the same loops at the same time.
    SHARED = "shared"
    #: A start may name an image (`StartLoop.image`). Needs no hook.
    IMAGE = "image"


#: The hooks that a strategy with the capability implements; the others need none.
HOOKS: Final[Mapping[Capability, Sequence[str]]] = {
    Capability.PAUSE: ("pause_loop", "resume_loop"),
    Capability.LOGS: ("loop_logs",),
}


def declared(plugin: object, name: str) -> frozenset[Capability]:
    """Return the capabilities that ``plugin``, which is registered as ``name``, declares.

    Raises:
        IllFittingPlugin: it declares a capability that does not exist.
    """
    words: Any = getattr(plugin, "CAPABILITIES", frozenset())
    known = {str(capability): capability for capability in Capability}
    wrong = [word for word in words if word not in known] if isinstance(words, Set) else words
    if wrong or not isinstance(words, Set):
        raise IllFittingPlugin(
            f"Loop plugin {name!r} declares CAPABILITIES {wrong}. It must be a set of {', '.join(known)}."
        )
    return frozenset(known[word] for word in words)
