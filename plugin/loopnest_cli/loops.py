"""``loopnest start | list | send | close``."""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loopnest import (
    Closed,
    Control,
    Conversation,
    Delivery,
    Event,
    InvalidRequest,
    Llm,
    Loop,
    LoopQuery,
    LoopStatus,
    Message,
    StartLoop,
)
from loopnest.validation import made
from loopnest_cli.options import AsJson, ConversationId, ShowKeys, User, new_app
from loopnest_cli.output import Column, age, plain, print_json, print_table, printable
from loopnest_cli.progress import changes_shown
from loopnest_cli.request import environment, raw_event, secrets, text
from loopnest_cli.runner import animated, manager, run, scope

app = new_app()


class _Action(str, enum.Enum):
    run = "run"
    pause = "pause"
    interrupt = "interrupt"


_COLUMNS = (
    Column("conversation"),
    Column("owner", spare=1),
    Column("status"),
    Column("phase", spare=4),
    Column("agent"),
    Column("strategy", spare=2),
    Column("age", spare=3),
    Column("url"),
    Column("session key"),
    Column("reason"),
)


@app.command()
def start(
    ctx: typer.Context,
    conversation_id: ConversationId,
    *,
    message: Annotated[str | None, typer.Option("--message", "-m", help="The first message; - reads it.")] = None,
    user: Annotated[
        str | None, typer.Option("--user", metavar="ID", help="The user who owns the loop.  [default: no user]")
    ] = None,
    repository: Annotated[str | None, typer.Option(help="Clone owner/name, or a URL, into the workspace.")] = None,
    branch: Annotated[str | None, typer.Option(help="Of the repository.")] = None,
    image: Annotated[str | None, typer.Option(help="Instead of the configured image.")] = None,
    instructions: Annotated[str | None, typer.Option(help="More instructions for the agent.")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="K=V", help="A variable of the nested server.")] = None,
    env_file: Annotated[Path | None, typer.Option(metavar="PATH", help="Lines of K=V.")] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A secret: the environment variable of this name, or NAME=- to read it."),
    ] = None,
    llm_model: Annotated[str | None, typer.Option(envvar="LLM_MODEL", help="A LiteLLM model name.")] = None,
    llm_base_url: Annotated[str | None, typer.Option(envvar="LLM_BASE_URL", help="Of a compatible endpoint.")] = None,
    show_keys: ShowKeys = False,
    as_json: AsJson = False,
) -> None:
    """Start the loop of a conversation, or resume it, and wait until its nested server has the conversation.

    A loop that runs is left as it is. What configures the conversation (message, repository, model, ...) counts when
    this start creates it. The model's key is read from LLM_API_KEY. A start that Ctrl-C interrupts is undone.

    --json: {"conversation_id", "owner", "status", "strategy", "dialect", "phase", "url", "nested_id", ...}
    """
    conversation = made(
        Conversation,
        llm=llm(llm_model, llm_base_url),
        initial_message=None if message is None else made(Message, text=text(message)),
        instructions=instructions,
        repository=repository,
        branch=branch,
        secrets=secrets(secret or ()),
    )
    variables = environment(env or (), env_file)
    request = made(
        StartLoop, conversation_id=conversation_id, conversation=conversation, image=image, environment=variables
    )
    loop = run(_start(ctx, request, user))
    if as_json:
        print_json(plain(loop, show_keys=show_keys))
    else:
        print_loops([loop], show_keys=show_keys)


@app.command("list")
def list_loops(
    ctx: typer.Context,
    conversation_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[CONVERSATION_ID]...", show_default=False)
    ] = None,
    *,
    user: User = None,
    status: Annotated[list[LoopStatus] | None, typer.Option(help="Only these; may be repeated.")] = None,
    probe: Annotated[bool, typer.Option("--probe", help="Ask each nested server what its agent does.")] = False,
    show_keys: ShowKeys = False,
    as_json: AsJson = False,
) -> None:
    """List the loops of everyone, or of one user, in every state.

    --json: {"loops": [{"conversation_id", "owner", "status", "strategy", "phase", "reason", "message", "url",
    "agent_status", "exit_code", "log_tail", "created_at", "changed_at", ...}]}
    """
    query = made(
        LoopQuery,
        user_id=scope(user),
        conversation_ids=frozenset(conversation_ids) if conversation_ids else None,
        statuses=frozenset(status) if status else None,
        probe=probe,
    )
    loops = sorted(run(_list(ctx, query)), key=lambda loop: loop.conversation_id)
    if as_json:
        print_json({"loops": [plain(loop, show_keys=show_keys) for loop in loops]})
    elif loops:
        print_loops(loops, show_keys=show_keys)
    else:
        typer.echo("No loops.", err=True)


@app.command()
def send(
    ctx: typer.Context,
    conversation_id: ConversationId,
    message: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help="The message; - reads it.", show_default=False)
    ] = None,
    *,
    image_url: Annotated[list[str] | None, typer.Option(metavar="URL", help="An image of the message.")] = None,
    control: Annotated[_Action | None, typer.Option(help="Steer the agent instead.")] = None,
    raw: Annotated[
        str | None, typer.Option(metavar="JSON", help="An event in the nested server's own terms; - reads it.")
    ] = None,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """Send a message to the agent, or steer it, or pass on an event.

    --json: {"conversation_id", "response"}
    """
    event = _event(message, image_url or [], control, raw)
    delivery = run(_send(ctx, conversation_id, event, user))
    if as_json:
        print_json(plain(delivery))
    else:
        typer.echo(f"{conversation_id}: delivered", err=True)


@app.command()
def close(
    ctx: typer.Context,
    conversation_id: ConversationId,
    *,
    remove: Annotated[bool, typer.Option("--remove", help="Remove its container and workspace too.")] = False,
    user: User = None,
    as_json: AsJson = False,
) -> None:
    """Stop a loop from any state; 'loopnest start' brings it back, unless it is removed.

    --json: {"conversation_id", "graceful", "already", "removed", "exit_code", "message"}
    """
    closed = run(_close(ctx, conversation_id, user, remove))
    if as_json:
        print_json(plain(closed))
    else:
        typer.echo(f"{conversation_id}: {close_summary(closed)}", err=True)


@app.command()
def pause(ctx: typer.Context, conversation_id: ConversationId, *, user: User = None, as_json: AsJson = False) -> None:
    """Freeze a running loop: it uses no processor time and keeps its memory. 'loopnest resume' lets it go on.

    --json: {"conversation_id", "owner", "status", "strategy", "dialect", "phase", "url", "nested_id", ...}
    """
    _print_turned(run(_turn(ctx, conversation_id, user, paused=True)), as_json)


@app.command()
def resume(ctx: typer.Context, conversation_id: ConversationId, *, user: User = None, as_json: AsJson = False) -> None:
    """Let a paused loop go on. A stopped one is brought back by 'loopnest start'.

    --json: {"conversation_id", "owner", "status", "strategy", "dialect", "phase", "url", "nested_id", ...}
    """
    _print_turned(run(_turn(ctx, conversation_id, user, paused=False)), as_json)


def _print_turned(loop: Loop, as_json: bool) -> None:
    if as_json:
        print_json(plain(loop))
    else:
        typer.echo(f"{loop.conversation_id}: {loop.status}", err=True)


def llm(model: str | None, base_url: str | None) -> Llm | None:
    """The model that was asked for, with the key in LLM_API_KEY; None leaves it to the nested server."""
    key = os.environ.get("LLM_API_KEY")
    return made(Llm, model=model, api_key=key, base_url=base_url) if model else None


def print_loops(loops: Sequence[Loop], *, show_keys: bool = False) -> None:
    """Print a table of loops, and below it why they failed."""
    print_table(_COLUMNS, [_row(loop, show_keys) for loop in loops])
    for loop in loops:
        if loop.status is LoopStatus.FAILED and loop.message:
            typer.echo(printable(f"{loop.conversation_id}: {loop.message}"), err=True)


def _row(loop: Loop, show_keys: bool) -> list[str | None]:
    key = loop.session_key.get_secret_value() if show_keys and loop.session_key else None
    return [
        loop.conversation_id,
        loop.owner,
        str(loop.status),
        loop.phase,
        loop.agent_status,
        loop.strategy,
        age(loop.created_at),
        loop.url,
        key,
        loop.reason,
    ]


def _event(message: str | None, image_urls: list[str], control: _Action | None, raw: str | None) -> Event:
    if sum(given is not None for given in (message, control, raw)) != 1 or (image_urls and message is None):
        raise InvalidRequest("Give one of TEXT (with --image-url, if you like), --control or --raw.")
    if control is not None:
        return made(Control, action=control.value)
    if raw is not None:
        return raw_event(raw)
    return made(Message, text=text(message or ""), image_urls=tuple(image_urls))


def close_summary(closed: Closed) -> str:
    """How a loop was closed, for people."""
    how = "it did not run" if closed.already else "stopped" if closed.graceful else "stopped by force"
    return ", ".join(part for part in (how, "removed" if closed.removed else None, closed.message) if part)


async def _start(ctx: typer.Context, request: StartLoop, user: str | None) -> Loop:
    async with manager(ctx) as loops, changes_shown(loops, request.conversation_id, animated=animated(ctx)):
        return await loops.start_loop(request, user)


async def _list(ctx: typer.Context, query: LoopQuery) -> list[Loop]:
    async with manager(ctx) as loops:
        return await loops.list_loops(query)


async def _send(ctx: typer.Context, conversation_id: str, event: Event, user: str | None) -> Delivery:
    async with manager(ctx) as loops:
        return await loops.send_event(conversation_id, event, scope(user))


async def _close(ctx: typer.Context, conversation_id: str, user: str | None, remove: bool) -> Closed:
    async with manager(ctx) as loops, changes_shown(loops, conversation_id, animated=animated(ctx)):
        return await loops.close_session(conversation_id, scope(user), remove=remove)


async def _turn(ctx: typer.Context, conversation_id: str, user: str | None, *, paused: bool) -> Loop:
    async with manager(ctx) as loops:
        return await (loops.pause_loop if paused else loops.resume_loop)(conversation_id, scope(user))
