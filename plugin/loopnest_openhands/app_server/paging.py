"""Pages of sandboxes, newest first. A page begins after a sandbox, not after a number of them: none is skipped or
shown twice where others come and go in between."""

from __future__ import annotations

from collections.abc import Iterable

from openhands.app_server.sandbox.sandbox_models import SandboxInfo, SandboxPage


def page_of(sandboxes: Iterable[SandboxInfo], page_id: str | None, limit: int) -> SandboxPage:
    """Return the page that ``page_id`` names, or the first one where it is None."""
    ordered = sorted(sandboxes, key=_place, reverse=True)
    if page_id is not None:
        ordered = [sandbox for sandbox in ordered if _place(sandbox) < page_id]
    page = ordered[:limit]
    return SandboxPage(items=page, next_page_id=_place(page[-1]) if len(ordered) > limit else None)


def _place(sandbox: SandboxInfo) -> str:
    return f"{sandbox.created_at.timestamp():017.6f}-{sandbox.id}"
