"""``loopnest demo``: the main job, on a fresh machine, in one command."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from pydantic import SecretStr
from rich.text import Text

from loopnest import (
    EVERYONE,
    Conversation,
    InvalidRequest,
    Llm,
    Loop,
    LoopFailed,
    LoopManager,
    LoopnestSettings,
    LoopNotFound,
    LoopQuery,
    Message,
    Reason,
    StartLoop,
)
from loopnest.aio import limited
from loopnest.selection import installed
from loopnest.settings import Configuration
from loopnest_cli.demo_stage import NAMESPACE, Stage, stage
from loopnest_cli.event_lines import describe, print_event
from loopnest_cli.loops import close_summary, llm, print_loops
from loopnest_cli.options import Options, new_app
from loopnest_cli.output import console, printable
from loopnest_cli.progress import changes_shown, shown
from loopnest_cli.runner import animated, run
from loopnest_cli.scripted_model import serve
from loopnest_cli.streams import conversation_events

app = new_app()

#: The scripted model runs what follows ``run:``; a real one understands it as well.
_REQUEST: Final = 'Please run this in your terminal, then finish:\nrun: echo "Hello from $(whoami)@$(hostname):$PWD"'
_ENDINGS: Final = frozenset({"finished", "error", "stuck", "paused"})


@app.command()
def demo(
    ctx: typer.Context,
    *,
    llm_model: Annotated[str | None, typer.Option(envvar="LLM_MODEL", help="A LiteLLM model name.")] = None,
    llm_base_url: Annotated[str | None, typer.Option(envvar="LLM_BASE_URL", help="Of a compatible endpoint.")] = None,
    limit: Annotated[float, typer.Option(min=1, help="Seconds the agent may take.")] = 180,
) -> None:
    """Start a real agent in a loop of its own, give it a command to run, watch, list, and close.

    In Docker where an engine and an image can be had (it is built at first use), else, or with '--strategy process',
    as a process of this machine. Without LLM_MODEL (and LLM_API_KEY) a scripted model of loopnest's own plays the
    model's part; the agent, and what it runs, are real. Nothing is left behind, also after Ctrl-C.
    """
    run(_demo(ctx, llm(llm_model, llm_base_url), limit))


async def _demo(ctx: typer.Context, model: Llm | None, limit: float) -> None:
    options: Options = ctx.obj
    configuration = Configuration.read(options.config)
    settings = _settings(configuration)
    with _alone(settings), contextlib.ExitStack() as bars:
        show = bars.enter_context(shown("image", animated=animated(ctx)))
        async with stage(configuration, options.strategy, show) as place:
            bars.close()
            _say("strategy", f"{place.name}: {place.why}")
            with _model(model, place) as (used, port):
                loops = LoopManager.from_plugins(
                    place.strategy(port), settings=settings.model_copy(update={"strategy": place.name})
                )
                async with loops, _started(loops, used, animated(ctx)) as loop:
                    await _play(loops, loop, limit)


def _settings(configuration: Configuration) -> LoopnestSettings:
    core = configuration.core(installed().names)
    changes = {"namespace": NAMESPACE, "overrides": (), "secret": SecretStr(secrets.token_urlsafe(32))}
    return core.model_copy(update=changes)


@contextlib.contextmanager
def _alone(settings: LoopnestSettings) -> Iterator[None]:
    """Leave no file, and keep two demos apart, which would take each other's loops for leftovers.

    Raises:
        InvalidRequest: another demo runs.
    """
    base = settings.state_dir
    base.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(base, os.O_RDONLY)  # the directory itself, so that no lock file stays
    try:
        _acquire(lock)
        try:
            yield
        finally:
            shutil.rmtree(base / NAMESPACE, ignore_errors=True)
            with contextlib.suppress(OSError):
                base.rmdir()  # where nothing else was ever kept
    finally:
        os.close(lock)


def _acquire(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidRequest("Another demo is running. Wait until it ends.") from None


@contextlib.contextmanager
def _model(asked: Llm | None, place: Stage) -> Iterator[tuple[Llm, int | None]]:
    """Give the model that was asked for, or a scripted one, and the port it listens on."""
    if asked:
        _say("model", asked.model)
        yield asked, None
        return
    with contextlib.ExitStack() as stack:
        try:
            scripted = stack.enter_context(serve(place.address))
        except OSError as error:
            raise LoopFailed(
                f"The scripted model can't listen on {place.address}, where loops would reach it ({error}): the engine "
                f"may be on another machine. Set LLM_MODEL and LLM_API_KEY, or use '--strategy process'.",
                reason=Reason.INTERNAL,
            ) from None
        _say("model", "scripted, as LLM_MODEL is not set: it has the agent run one command")
        port = urlsplit(scripted.url).port
        yield Llm(model="openai/scripted", api_key=SecretStr("none"), base_url=scripted.url), port


@contextlib.asynccontextmanager
async def _started(loops: LoopManager, model: Llm, animate: bool | None) -> AsyncIterator[Loop]:
    """Run a loop for the block, and close and remove it whatever happens."""
    for leftover in await loops.list_loops(LoopQuery(user_id=EVERYONE)):
        await loops.close_session(leftover.conversation_id, EVERYONE, remove=True)  # of a demo that was killed
    conversation_id = f"demo-{secrets.token_hex(4)}"
    begun = time.monotonic()
    try:
        async with changes_shown(loops, conversation_id, animated=animate):
            loop = await loops.start_loop(
                StartLoop(conversation_id=conversation_id, conversation=Conversation(llm=model))
            )
        _say("started", f"{conversation_id} in {time.monotonic() - begun:.1f} s, its nested server is at {loop.url}\n")
        yield loop
    finally:
        with contextlib.suppress(LoopNotFound):
            closed = await loops.close_session(conversation_id, EVERYONE, remove=True)
            _say("closed", close_summary(closed))


async def _play(loops: LoopManager, loop: Loop, limit: float) -> None:
    await loops.send_event(loop.conversation_id, Message(text=_REQUEST), EVERYONE)
    try:
        await limited(_watch(loops, loop), limit)
    except asyncio.TimeoutError:
        raise LoopFailed(
            f"The agent did not finish within {limit:g} s. Can the loop reach its model?", reason=Reason.NESTED_TIMEOUT
        ) from None
    typer.echo()
    print_loops(await loops.list_loops(LoopQuery(user_id=EVERYONE, probe=True)))
    typer.echo()


async def _watch(loops: LoopManager, loop: Loop) -> None:
    """Print events until the agent ends its turn.

    Raises:
        LoopFailed: it failed, or ran nothing.
    """
    ran = False
    async with conversation_events(loops, loop.conversation_id, follow=True) as events:
        async for event in events:
            print_event(event)
            line = describe(event)
            ran = ran or (line is not None and line.who == "output")
            if line and line.who == "status" and line.text in _ENDINGS:
                break
    if not ran:
        raise LoopFailed("The agent ran no command: see its events above.", reason=Reason.NO_ANSWER)


def _say(word: str, text: str) -> None:
    console().print(Text.assemble((f"{word:9}", "bold"), printable(text)), soft_wrap=True)
