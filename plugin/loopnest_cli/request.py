"""Make requests of the contract from what was given on the command line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer
from pydantic import SecretStr

from loopnest import Event, InvalidRequest, RawEvent, Secret
from loopnest.validation import made


def environment(pairs: Iterable[str], file: Path | None) -> dict[str, SecretStr]:
    """Read ``K=V`` pairs, and before them the lines of ``file`` (without blank lines and comments).

    Raises:
        InvalidRequest: one is no pair; its text is not repeated, as it may be a secret.
    """
    lines = [] if file is None else [line.strip() for line in _read(file).splitlines()]
    found: dict[str, SecretStr] = {}
    for pair in [*(line for line in lines if line and not line.startswith("#")), *pairs]:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InvalidRequest("'--env' and the lines of '--env-file' must be of the form NAME=VALUE.")
        found[name] = SecretStr(value)
    return found


def secrets(names: Iterable[str]) -> dict[str, Secret]:
    """Read the value of each secret from the environment variable of its name; of ``NAME=-`` from standard input.

    Raises:
        InvalidRequest: it is not there.
    """
    return {name.removesuffix("=-"): Secret(value=SecretStr(_secret(name))) for name in names}


def text(given: str) -> str:
    """Return ``given``, or all of standard input for ``-``."""
    return sys.stdin.read() if given == "-" else given


def raw_event(given: str) -> Event:
    """Read an event in the nested server's own terms.

    Raises:
        InvalidRequest: it is no JSON object.
    """
    try:
        payload = json.loads(text(given))
    except ValueError as error:
        raise InvalidRequest(f"'--raw' must be a JSON object: {error}.") from None
    if not isinstance(payload, Mapping):
        raise InvalidRequest("'--raw' must be a JSON object.")
    return made(RawEvent, payload=payload)


def _secret(name: str) -> str:
    if name.endswith("=-"):
        return _prompted(name.removesuffix("=-"))
    name, equals, _ = name.partition("=")
    if equals:
        raise InvalidRequest(
            f"'--secret' takes a name only, as all users of this machine can read a command line. Put the value into "
            f"the environment variable {name}, or give '{name}=-' and type it."
        )
    if name not in os.environ:
        raise InvalidRequest(f"Secret {name!r}: no such environment variable; '{name}=-' reads standard input instead.")
    return os.environ[name]


def _prompted(name: str) -> str:
    if sys.stdin.isatty():
        value: str = typer.prompt(name, hide_input=True, err=True)
        return value
    return sys.stdin.readline().rstrip("\r\n")


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"'--env-file' {file} can't be read: {error}.") from None
