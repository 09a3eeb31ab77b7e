"""``loopnest events | logs``: what goes on in a loop, as it happens."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer

from loopnest import LoopFailed, LoopManager, Reason
from loopnest_cli.event_lines import print_event
from loopnest_cli.options import AsJsonLines, ConversationId, Follow, User, new_app
from loopnest_cli.output import print_json_line, printable
from loopnest_cli.runner import manager, run, scope
from loopnest_nested.client import NestedServer, new_http_client
from loopnest_nested.dialects import get_dialect

app = new_app()


@app.command()
def events(
    ctx: typer.Context,
    conversation_id: ConversationId,
    *,
    follow: Follow = False,
    user: User = None,
    as_json: AsJsonLines = False,
) -> None:
    """Show what happened in a conversation: who said what, and what the agent ran with which result.

    --json: each event in the nested server's own terms.
    """

    async def events_of() -> None:
        async with manager(ctx) as loops, conversation_events(loops, conversation_id, user, follow=follow) as found:
            async for event in found:
                print_json_line(event) if as_json else print_event(event)

    run(events_of())


@app.command()
def logs(
    ctx: typer.Context,
    conversation_id: ConversationId,
    *,
    follow: Follow = False,
    tail: Annotated[int, typer.Option(min=0, help="Begin with so many of the last lines.")] = 100,
    user: User = None,
    as_json: AsJsonLines = False,
) -> None:
    """Show the log of a loop's nested server, also after it failed.

    --json: {"line"}
    """

    async def logs_of() -> None:
        async with manager(ctx) as loops:
            async for line in await loops.loop_logs(conversation_id, scope(user), tail=tail, follow=follow):
                print_json_line({"line": line}) if as_json else typer.echo(printable(line))

    run(logs_of())


@contextlib.asynccontextmanager
async def conversation_events(
    loops: LoopManager, conversation_id: str, user: str | None = None, *, follow: bool
) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Give the events of a conversation, read from the nested server at the url that the listing tells.

    Raises:
        LoopFailed: the loop does not run, and so can't be asked.
    """
    loop = await loops.get_loop(conversation_id, scope(user))
    if not (loop.url and loop.session_key and loop.dialect):
        raise LoopFailed(
            f"The loop of {conversation_id} is {loop.status}: its events can be read while it runs.",
            reason=Reason.NOT_RUNNING,
            conversation_id=conversation_id,
        )
    async with new_http_client() as http:
        server = NestedServer(loop.url, loop.session_key, http)
        yield get_dialect(loop.dialect).events(server, conversation_id, follow=follow)
