"""``loopnest config``: what is configured, and where each value is from."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated

import typer
from pydantic import BaseModel

from loopnest import InvalidRequest, LoopnestSettings
from loopnest.selection import installed, select
from loopnest.settings import Configuration
from loopnest_cli.effective import Entry, effective, settings_model
from loopnest_cli.example import example
from loopnest_cli.options import AsJson, Options, new_app
from loopnest_cli.output import Column, print_json, print_table

app = new_app()


@app.command()
def config(
    ctx: typer.Context,
    *,
    check: Annotated[bool, typer.Option("--check", help="Only say whether it is valid.")] = False,
    as_example: Annotated[bool, typer.Option("--example", help="Print a commented loopnest.toml instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the effective configuration, with the source of each value; secrets are masked.

    --json: {"file", "values": {KEY: {"value", "source", "variable"}}}, with source default, file, environment or
    command line.
    """
    if as_example and (check or as_json):
        raise InvalidRequest("'--example' goes with no other option.")
    if as_example:
        typer.echo(example(LoopnestSettings, models()), nl=False)
        return
    options: Options = ctx.obj
    configuration = Configuration.read(options.config)
    _, settings = select(configuration, strategy=options.strategy)
    entries = effective(configuration, settings)
    if as_json:
        print_json(_document(configuration, entries))
    elif check:
        typer.echo(f"{configuration.source or 'no file, all defaults'}: valid, strategy {settings.strategy!r}")
    else:
        _print(configuration, entries)


def _document(configuration: Configuration, entries: list[Entry]) -> dict[str, object]:
    source = configuration.source
    values = {it.key: {"value": it.value, "source": it.source, "variable": it.variable} for it in entries}
    return {"file": str(source.resolve()) if source else None, "values": values}


def _print(configuration: Configuration, entries: list[Entry]) -> None:
    typer.echo(f"file: {configuration.source or 'none'}", err=True)
    rows = [[it.key, it.shown, it.variable or it.source] for it in entries]
    print_table([Column("key"), Column("value"), Column("source")], rows)


def models() -> dict[str, type[BaseModel]]:
    """The models of all plugins that can be imported."""
    found = {}
    for point in sorted(installed(), key=lambda point: point.name):
        with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
            if model := settings_model(point.load()):
                found[point.name] = model
    return found
