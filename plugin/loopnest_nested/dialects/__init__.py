"""Dialects: how to install, start and drive each kind of nested server.

A dialect knows one kind of nested server: what to install, how to start its process, and its HTTP API. It holds no
state, and knows nothing of containers or processes. Distributions offer dialects by entry points of the group
``loopnest.dialects``, named as in the setting ``dialect``: a class without arguments, or an object.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast

from importlib_metadata import EntryPoint, entry_points
from pydantic import JsonValue, SecretStr

from loopnest import AmbiguousPlugin, BrokenPlugin, Event, StartLoop, UnknownPlugin
from loopnest.selection import source_of
from loopnest.settings import did_you_mean
from loopnest_nested.client import NestedServer
from loopnest_nested.session_keys import Keys

#: The entry-point group in which distributions offer dialects.
GROUP: Final = "loopnest.dialects"


@dataclass(frozen=True)
class Place:
    """Where a nested server keeps its files, as paths that it sees itself.

    Attributes:
        workspace: what the agent works on.
        data: the nested server's own files: conversations, settings.
    """

    workspace: str
    data: str


@dataclass(frozen=True)
class Program:
    """The program of a nested server, and how strategies obtain it.

    Attributes:
        version: of the program that this release of the dialect was tested with.
        module: that an interpreter with the program can import; empty where an interpreter can't be recognized.
        distributions: to install with ``version``, the program's own first; empty where they can't be installed so.
        python: the oldest Python that it runs on.
        image_context: a directory with a Dockerfile; None where operators must name an image.
        version_argument: the build argument of the Dockerfile that takes the version.
    """

    version: str
    module: str = ""
    distributions: tuple[str, ...] = ()
    python: tuple[int, int] = (3, 10)
    image_context: Path | None = None
    version_argument: str = "VERSION"


class Dialect(Protocol):
    """What a strategy must know of a kind of nested server. All methods are required."""

    name: str
    program: Program

    def command(self, host: str, port: int) -> Sequence[str]:
        """The command line of the server, without the Python interpreter (``-m module ...``)."""

    def environment(self, place: Place, port: int) -> Mapping[str, str]:
        """Variables for the server's process that all users of the engine may see."""

    def secret_environment(self, keys: Keys) -> Mapping[str, SecretStr]:
        """Variables for the server's process that only it may see."""

    def nested_id(self, conversation_id: str) -> str:
        """The id that the nested server knows the conversation by."""

    async def alive(self, server: NestedServer) -> bool:
        """Whether the server answers and accepts requests; False while it boots. Never raises."""

    async def ensure_conversation(self, server: NestedServer, request: StartLoop, place: Place) -> None:
        """Create the conversation with all that the request says, or resume the one that exists.

        Idempotent, also where two processes do it at once: the initial message is sent once.

        Raises:
            NestedError: the server refused; the message says what.
        """

    def store(self, place: Place, conversation_id: str) -> str:
        """The directory that has entries from the creation of the conversation on; it may be missing before."""

    async def has_conversation(self, server: NestedServer, conversation_id: str) -> bool:
        """Whether the server has the conversation, whatever its agent does.

        Raises:
            NestedError: it could not be asked.
        """

    async def agent_status(self, server: NestedServer, conversation_id: str | None) -> str | None:
        """What the agent does, in the server's own word; None where the server has no such conversation.

        Args:
            conversation_id: None for a bare loop, of which only the server's own state is asked.

        Raises:
            NestedError: it could not be asked.
        """

    async def send(self, server: NestedServer, conversation_id: str, event: Event) -> JsonValue:
        """Deliver an event.

        Raises:
            NestedError: the server refused, or could not be asked.
        """

    async def quiesce(self, server: NestedServer, conversation_id: str | None) -> None:
        """Ask the agent to stop working, so that the server can be stopped without losing anything.

        Args:
            conversation_id: None for a bare loop, in which all agents are asked.

        Raises:
            NestedError: the server refused, or could not be asked.
        """

    def events(
        self, server: NestedServer, conversation_id: str, *, follow: bool
    ) -> AsyncIterator[dict[str, JsonValue]]:
        """The conversation's events so far, oldest first, and with ``follow`` all further ones until cancelled."""


@functools.cache
def get_dialect(name: str) -> Dialect:
    """Return the dialect called ``name``; only that one is imported.

    Raises:
        UnknownPlugin: there is none; the message lists those there are.
        AmbiguousPlugin: several distributions offer it; the message names them.
        BrokenPlugin: it can't be imported, or is no dialect.
    """
    points = entry_points(group=GROUP)
    found = list(points.select(name=name))
    if not found:
        raise UnknownPlugin(f"There is no dialect {name!r}.{did_you_mean(name, points.names)}")
    if len(found) > 1:
        offers = ", ".join(sorted(source_of(point) for point in found))
        raise AmbiguousPlugin(f"The dialect {name!r} is offered by {offers}. Uninstall all but one.")
    return _load(found[0])


def _load(point: EntryPoint) -> Dialect:
    try:
        loaded: Any = point.load()
        dialect = loaded() if inspect.isclass(loaded) else loaded
    except Exception as error:
        raise BrokenPlugin(
            f"The dialect {point.name!r} ({source_of(point)}) failed to load: {type(error).__name__}: {error}. "
            f"Repair or upgrade it, or choose another 'dialect'."
        ) from error
    if lacking := sorted(name for name in _MEMBERS if not hasattr(dialect, name)):
        raise BrokenPlugin(f"{point.name!r} ({source_of(point)}) is no dialect: it lacks {', '.join(lacking)}.")
    return cast("Dialect", dialect)


_MEMBERS: Final = frozenset(Dialect.__annotations__) | {
    name for name, member in vars(Dialect).items() if inspect.isfunction(member) and not name.startswith("_")
}
