"""The hook specifications: what a strategy implements, and an override may.

Four hooks carry the work: `start_loop`, `close_session`, `list_loops` and `send_event`. They are specified as
``async def`` with ``firstresult``: an implementation may be sync or async, the first answer that is not None counts,
and None (after awaiting, if it likes) passes the call on to the next plugin. Wrappers surround the awaited result; one
that has to await uses `loopnest.async_wrapper`. As ever with pluggy, an implementation takes only the arguments it
needs, and new arguments may be added here without breaking it.

The hooks are version 1 of the contract (`CONTRACT_VERSION`). What a later version adds is marked with the version that
it is new in. What is to be removed warns for one minor release first, through pluggy's ``warn_on_impl`` and
``warn_on_impl_args``. A plugin may state the version that it was made for in an attribute ``CONTRACT_VERSION``; another
version than that of the host is refused when the host starts.

`LoopManager` has checked every argument before a hook runs. It looks the loop up once for each operation, decides there
whether the user owns it, and hands the loop on: hooks see loops and their owners, never users.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from loopnest._markers import hookspec
from loopnest.models import Closed, Delivery, Finding, Loop, LoopChange, LoopQuery
from loopnest.requests import StartLoop

if TYPE_CHECKING:
    import pluggy

    from loopnest.requests import Event

#: How a strategy reports a change; never blocks, may be called from the event loop's thread only.
Emit = Callable[[LoopChange], None]


@dataclass(frozen=True)
class HostContext:
    """What a strategy may know of the host that opens it.

    Attributes:
        strategy: the name under which the strategy was selected; goes into `Loop.strategy`.
        namespace: separates hosts that share an engine; hosts with one namespace are replicas of each other.
        secret: the host's secret, from which session keys are derived; the same for all replicas.
        state_dir: where small files of this namespace may be kept.
        emit: publishes a change of a loop.
        one_shot: the host ends after a few calls, as the command line does: no work in the background is wanted.
        hooks: to call hooks that the strategy itself specifies (see `Specs` in the documentation of plugins).
    """

    strategy: str
    namespace: str
    secret: SecretStr
    state_dir: Path
    emit: Emit
    hooks: pluggy.HookRelay = field(repr=False)
    one_shot: bool = False


@hookspec(firstresult=True)
async def start_loop(request: StartLoop, loop: Loop | None) -> Loop | None:
    """Run the agent loop of a conversation, and answer when its nested server has the conversation.

    Idempotent: a running loop is returned as it is, a stopped one is brought back with its workspace and history, and
    one that another host is starting is waited for. `LoopManager` takes care of ``wait=False``.

    Args:
        request: what to run, with the ``owner`` that the loop has or will have.
        loop: the conversation's loop as it was looked up, in any state; None where there is none. On two hosts, two
            users may race for an id that has no loop: only the strategy can decide between those.

    Raises:
        LoopNotFound: another user has the conversation by now.
        LoopFailed: with the reason; nothing is left running.

    Example:
        Run the loops of one customer elsewhere, and defer for all others::

            @hookimpl
            async def start_loop(request, loop):
                if request.tags.get("customer") != "acme":
                    return None
                return await acme_cluster.start(request)
    """


@hookspec(firstresult=True)
async def close_session(conversation_id: str, loop: Loop, remove: bool) -> Closed | None:
    """Stop a loop: gracefully first, then by force, always within a limit; from every state, and twice without error.

    Args:
        loop: as it was looked up.
        remove: remove its container (or process record) and workspace too; otherwise it can be started again.

    Raises:
        LoopNotFound: it went away since it was looked up.

    Example:
        Keep what the agent made before the workspace goes::

            @hookimpl
            async def close_session(loop, remove):
                if remove:
                    await archive(loop)
                return None  # the strategy closes it
    """


@hookspec(firstresult=True)
async def list_loops(query: LoopQuery) -> Sequence[Loop] | None:
    """List loops in every state, without waiting for nested servers that hang.

    A wrapper always receives a sequence. It may add loops, which are then found, sent to and closed as well. What it
    hides is hidden in listings only: other operations look a loop up with the strategy itself first.

    Example:
        An override that runs loops of its own adds them to those of the strategy::

            @hookimpl(wrapper=True)
            def list_loops(query):
                loops = yield
                return [*loops, *(loop for loop in my_loops() if query.matches(loop))]
    """


@hookspec(firstresult=True)
async def find_loop(conversation_id: str, probe: bool) -> Loop | None:
    """Look up the loop of a conversation, without regard to its owner. Called before the strategy is asked.

    Optional. After None the strategy is asked, and then the overrides, both through ``list_loops``. An override needs
    this hook only where it replaces a loop that the strategy has too.

    Args:
        probe: ask the nested server for `Loop.agent_status`, as `LoopQuery.probe` does.

    Example::

        @hookimpl
        def find_loop(conversation_id):
            return moved_elsewhere.get(conversation_id)
    """


@hookspec(firstresult=True)
async def send_event(conversation_id: str, loop: Loop, event: Event) -> Delivery | None:
    """Deliver an event to the loop's nested server.

    Events of one caller, each awaited, arrive in order.

    Args:
        loop: as it was looked up, or started: `LoopManager` starts a stopped loop before it sends, unless
            ``loopnest.restart_on_send`` is off.

    Raises:
        NestedError: the nested server did not take it.
        LoopFailed: the loop is not running any more.

    Example:
        Redact, then let the strategy deliver (see ``examples/redact-events`` for the whole package)::

            @hookimpl(wrapper=True)
            def send_event(event): ...
    """


@hookspec(firstresult=True)
async def pause_loop(conversation_id: str, loop: Loop) -> Loop | None:
    """Freeze a running loop: its processes use no processor time, and keep their memory and their connections.

    Optional; where no plugin answers, `LoopManager` refuses with ``unsupported``. Return the loop as it is now.

    Args:
        loop: as it was looked up, in status ``running``.

    Raises:
        LoopNotFound: it went away since it was looked up.

    Example::

        @hookimpl
        async def pause_loop(loop):
            return await cluster.freeze(loop.conversation_id)
    """


@hookspec(firstresult=True)
async def resume_loop(conversation_id: str, loop: Loop) -> Loop | None:
    """Let a paused loop go on, and return it as it is now. A plugin that implements `pause_loop` implements this too.

    `start_loop` and events resume a paused loop as well.

    Args:
        loop: as it was looked up, in status ``paused``.

    Raises:
        LoopNotFound: it went away since it was looked up.

    Example::

        @hookimpl
        async def resume_loop(loop):
            return await cluster.thaw(loop.conversation_id)
    """


@hookspec
async def open_strategy(context: HostContext) -> None:
    """The host starts: open connections, begin background work. Called on the strategy first, then on overrides.

    An error stops the start of the host. Loops that run already are left running, and found again.

    Example::

        @hookimpl
        async def open_strategy(context):
            client.connect(namespace=context.namespace)
    """


@hookspec
async def close_strategy() -> None:
    """The host stops: release everything. Loops go on running; the next host process finds them.

    Called on the strategy last, and also where `open_strategy` failed, of this plugin or of another.

    Example::

        @hookimpl
        async def close_strategy():
            await client.aclose()
    """


@hookspec
async def loop_changed(change: LoopChange) -> None:
    """A loop changed. Called on every plugin, in order for each conversation; errors are logged.

    Example::

        @hookimpl
        def loop_changed(change):
            if change.phase is Phase.FAILED:
                pager.notify(f"{change.conversation_id}: {change.loop.reason}")
    """


@hookspec(firstresult=True)
async def loop_logs(conversation_id: str, loop: Loop, tail: int, follow: bool) -> AsyncIterator[str] | None:
    """Read the log of a loop's nested server, line by line; None where there is none of this loop.

    Optional; where no plugin implements it, `LoopManager` refuses with ``unsupported``.

    Args:
        loop: as it was looked up.
        tail: how many of the last lines to begin with.
        follow: go on with new lines until the nested server ends.

    Example::

        @hookimpl
        async def loop_logs(conversation_id, tail):
            return read_lines(path_of(conversation_id), last=tail)
    """


@hookspec
async def diagnose() -> Sequence[Finding] | None:
    """Look at what the plugin needs to work, and say what to do about what is missing; for ``loopnest doctor``.

    Called without `open_strategy` before it, so that it works where nothing else does.

    Example::

        @hookimpl
        def diagnose():
            return [Finding(check="cluster", level="ok", message="answers in 3 ms")]
    """
