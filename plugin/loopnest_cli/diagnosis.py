"""``loopnest plugins | doctor``: what is installed, and what is missing."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer

from loopnest import ConfigurationError, Finding, LoopManager, LoopnestError, LoopnestSettings
from loopnest.selection import WORK_HOOKS, installed
from loopnest.settings import Configuration
from loopnest.survey import SurveyedPlugin, survey
from loopnest_cli.options import AsJson, Options, new_app
from loopnest_cli.output import Column, console, print_json, print_table, printable, styled
from loopnest_cli.runner import run
from loopnest_openhands.agent_server import upstream

app = new_app()


@app.command()
def plugins(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the installed plugins: what they implement, what each is used for, and what is wrong with it.

    Imports them all, unlike a host, which imports only those that the configuration names.

    --json: {"plugins": [{"name", "distribution", "version", "module", "hooks", "role", "order", "problem",
    "warnings"}]}, with role strategy, override or unused; problem is null where it can be used.
    """
    read = _read(ctx.obj)
    found = _survey(read)
    if as_json:
        print_json({"plugins": [plugin.model_dump(mode="json") for plugin in found]})
    else:
        _print_plugins(found)
    if read.problem:
        raise read.problem


@app.command()
def doctor(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Look at what loopnest needs to work, and say what to do about what is missing; exits with 1 on an error.

    --json: {"findings": [{"check", "level", "message", "advice"}]}, with level ok, warning or error.
    """
    findings = list(_findings(ctx.obj))
    if as_json:
        print_json({"findings": [finding.model_dump(mode="json") for finding in findings]})
    else:
        _print(findings)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


class _Read(NamedTuple):
    """The configuration, as far as it can be read."""

    configuration: Configuration
    settings: LoopnestSettings | None
    problem: ConfigurationError | None
    options: Options


def _read(options: Options) -> _Read:
    configuration = Configuration()
    try:
        configuration = Configuration.read(options.config)
        settings = configuration.core(installed().names)
    except ConfigurationError as error:
        return _Read(configuration, None, error, options)
    changed = settings.model_copy(update={"strategy": options.strategy or settings.strategy})
    return _Read(configuration, changed, None, options)


def _survey(read: _Read) -> list[SurveyedPlugin]:
    settings = read.settings
    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints on import is no data of ours
        if settings is None:
            return survey(read.configuration, read.options.strategy)
        return survey(read.configuration, settings.strategy, settings.overrides)


def _print_plugins(found: list[SurveyedPlugin]) -> None:
    columns = [Column("name"), *map(Column, ("role", "version", "distribution", "hooks"))]
    print_table(columns, [_row(plugin) for plugin in found])
    for plugin in found:
        for text in filter(None, (plugin.problem, *plugin.warnings)):
            typer.echo(printable(f"{plugin.name}: {text}"), err=True)


def _row(plugin: SurveyedPlugin) -> list[str | None]:
    role = f"override {plugin.order}" if plugin.order else plugin.role
    rest = [hook for hook in plugin.hooks if hook not in WORK_HOOKS]
    hooks = ["all four", *rest] if plugin.is_strategy else plugin.hooks
    shown = "broken" if plugin.problem else role
    return [plugin.name, shown, plugin.version, plugin.distribution, ", ".join(hooks)]


def _findings(options: Options) -> Iterator[Finding]:
    read = _read(options)
    yield Finding(check="python", level="ok", message=f"{platform.python_version()}, {sys.executable}")
    yield from upstream.examine()
    yield _configuration(read)
    if read.settings:
        yield _state_directory(read.settings.state_dir)
    yield from _unused(_survey(read))
    if read.settings:
        yield from _asked(options)


def _configuration(read: _Read) -> Finding:
    if read.problem:
        advice = "'loopnest config --example' prints all keys."
        return Finding(check="configuration", level="error", message=read.problem.message, advice=advice)
    source = read.configuration.source
    message = f"{source.resolve()}" if source else "no file: all defaults, or from the environment"
    return Finding(check="configuration", level="ok", message=message)


def _state_directory(directory: Path) -> Finding:
    nearest = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return Finding(check="state directory", level="ok", message=str(directory))
    advice = "Set 'loopnest.state_dir' (LOOPNEST_STATE_DIR) to a directory that this user may write."
    return Finding(check="state directory", level="error", message=f"{directory} can't be written", advice=advice)


def _unused(found: list[SurveyedPlugin]) -> Iterator[Finding]:
    """Broken packages that the configuration does not name; `_asked` reports those in use."""
    for plugin in found:
        if plugin.problem and plugin.role == "unused":
            check, advice = f"plugin {plugin.name}", "It is not used, so nothing depends on it. Repair or uninstall it."
            yield Finding(check=check, level="warning", message=plugin.problem, advice=advice)


def _asked(options: Options) -> Iterator[Finding]:
    """What the plugins in use find themselves."""
    try:
        loops = LoopManager.from_config(options.config, strategy=options.strategy)
        used = ", then ".join((*loops.settings.overrides, loops.settings.strategy))
        yield Finding(check="plugins", level="ok", message=used)
        yield from run(loops.diagnose())
    except LoopnestError as error:
        advice = "'loopnest plugins' lists what is installed."
        yield Finding(check="plugins", level="error", message=error.message, advice=advice)
    except Exception as error:  # noqa: BLE001 - a plugin that fails to look is a finding
        message = f"A plugin failed to look: {type(error).__name__}: {error}"
        yield Finding(check="plugins", level="error", message=message, advice="'loopnest -v doctor' logs more.")


def _print(findings: list[Finding]) -> None:
    out, width = console(), max(len(finding.check) for finding in findings)
    for finding in findings:
        out.print(styled(f"{finding.level:8}", finding.level), f"{finding.check:{width}}", end="  ", markup=False)
        out.print(printable(finding.message), markup=False, soft_wrap=True)
        if finding.advice:
            out.print(" " * (9 + width) + "  " + printable(finding.advice), style="bold", markup=False, soft_wrap=True)
