"""The host's secret, from which session keys are derived."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from pydantic import SecretStr

from loopnest.errors import ConfigurationError
from loopnest.settings import SHORTEST_SECRET, LoopnestSettings


def host_secret(settings: LoopnestSettings) -> SecretStr:
    """Return the configured secret, or the one kept in the state directory, made at first use.

    Hosts that are replicas on several machines must be given one secret by configuration.

    Raises:
        ConfigurationError: it can't be kept.
    """
    if settings.secret is not None:
        return settings.secret
    path = settings.state_dir / "secret"
    try:
        kept = _read(path)
        if kept is None:
            kept = _make(path)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"The secret can't be kept in {path}: {error}. Set 'loopnest.state_dir' to a writable directory, or set "
            f"'loopnest.secret' (LOOPNEST_SECRET)."
        ) from error
    if len(kept) < SHORTEST_SECRET:
        raise ConfigurationError(f"The secret in {path} is cut short. Remove the file, and a new one is made.")
    return SecretStr(kept)


def _read(path: Path) -> str | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    return None


def _make(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".secret-{secrets.token_hex(8)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
    with contextlib.suppress(FileExistsError):
        os.link(fresh, path)  # atomic: of two processes that start at once, one makes it, both read it
    fresh.unlink()
    return path.read_text(encoding="ascii").strip()
