"""``loopnest serve``: hosts that loopnest brings itself."""

from __future__ import annotations

import gc
import importlib
import ipaddress
import os
from typing import Annotated, Any

import typer

from loopnest import ConfigurationError, LoopManager
from loopnest_cli.options import Options, new_app
from loopnest_openhands.agent_server import upstream

app = new_app()
serve = new_app(no_args_is_help=True, help="Serve a host whose conversations run as loops.")
app.add_typer(serve, name="serve")
#: Where the agent server looks up secrets that it stores itself.
_OWN_URL = "OH_INTERNAL_SERVER_URL"


@serve.callback()
def hosts() -> None:
    """Serve a host whose conversations run as loops."""


@serve.command("agent-server")
def agent_server(
    ctx: typer.Context,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="PORT", min=1, max=65535, help="The port.")] = 8000,
) -> None:
    """Serve the OpenHands agent server's API, each conversation in a loop of its own.

    Its own settings are its OH_* variables: OH_SESSION_API_KEYS_0 (the key that clients show), OH_SECRET_KEY,
    OH_CONVERSATION_IDLE_TTL_SECONDS (stop loops that are not in use; 1200), OH_CONVERSATION_RUNTIME_SELECTABLE (allow
    local conversations too).
    """
    options: Options = ctx.obj
    loops = LoopManager.from_config(options.config, strategy=options.strategy)
    uvicorn, application = _imported("uvicorn"), _imported("loopnest_openhands.agent_server.application")
    os.environ.setdefault(_OWN_URL, f"http://{_reachable(host)}:{port}")
    built = application.build(loops=loops)
    _warn_if_open(host)
    typer.echo(f"Serving the agent server's API on http://{_reachable(host)}:{port}", err=True)
    gc.collect()
    gc.freeze()  # or the collector looks at all that was imported again and again, and nothing is served meanwhile
    uvicorn.run(built, host=host, port=port, log_level="info" if options.verbosity else "warning")


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"The agent server can't be served here ({error}). Install it beside loopnest: "
            f"{upstream.how_to_install()} (Python 3.12 or newer)."
        ) from error


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{host}]" if address.version == 6 else host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _warn_if_open(host: str) -> None:
    keyed = any(name.startswith("OH_SESSION_API_KEYS") or name == "SESSION_API_KEY" for name in os.environ)
    if not keyed and not _is_loopback(host):
        typer.echo(f"warning: every client that reaches {host} may do everything. Set OH_SESSION_API_KEYS_0.", err=True)
