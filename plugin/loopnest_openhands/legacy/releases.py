"""Which releases of the host this adapter serves."""

from __future__ import annotations

from importlib import metadata
from typing import Final

from loopnest import Finding

_CHECK: Final = "openhands-legacy"
_OLDEST: Final = (0, 62)
_LAST: Final = (1, 6)
#: Releases that let packages be newer than they know, and the last releases of those that were seen to be taken.
_OPEN_ENDED: Final = (1, 0)
_LAST_TAKEN: Final = {"fastapi": (0, 150), "fastmcp": (2, 12)}


def examine() -> list[Finding]:
    """Say whether the release of openhands-ai in this environment is one that starts, and that the adapter serves."""
    try:
        version = metadata.version("openhands-ai")
    except metadata.PackageNotFoundError:
        return [_finding("error", "openhands-ai is not installed here.", "Install loopnest beside the host.")]
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not _OLDEST <= parts <= _LAST:
        return [_finding("error", f"openhands-ai {version} has no legacy server that is served.", "Use 0.62 to 1.6.0.")]
    if parts == (1, 4):
        return [
            _finding(
                "error",
                f"openhands-ai {version} does not start by itself: a newer 'mcp' than it was made for broke it.",
                "Use 1.6.0, or another release from 0.62 on.",
            )
        ]
    if parts <= _OPEN_ENDED and (newer := [name for name, last in _LAST_TAKEN.items() if _release(name) > last]):
        found = " and ".join(f"{name} {metadata.version(name)}" for name in newer)
        advice = "Install 'fastapi<0.130' 'fastmcp<2.13' 'pydantic<2.13' into this environment."
        return [_finding("error", f"openhands-ai {version} does not start with {found}, newer than it knows.", advice)]
    return [_finding("ok", f"openhands-ai {version}", None)]


def _release(package: str) -> tuple[int, ...]:
    """Its major and minor number; nothing where it is not installed."""
    try:
        return tuple(int(part) for part in metadata.version(package).split(".")[:2] if part.isdigit())
    except metadata.PackageNotFoundError:
        return ()


def _finding(level: str, message: str, advice: str | None) -> Finding:
    return Finding.model_validate({"check": _CHECK, "level": level, "message": message, "advice": advice})
