"""A loop seen as a sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from openhands.app_server.sandbox.sandbox_models import (
    AGENT_SERVER,
    VSCODE,
    ExposedUrl,
    SandboxInfo,
    SandboxRecord,
    SandboxStatus,
)

from loopnest import Loop, LoopStatus, Reason
from loopnest.models import utcnow
from loopnest_openhands.app_server.owners import Owners

#: What is noted on a sandbox's loop.
OWNER: Final = "app-server.owner"
SPEC: Final = "app-server.spec"
FOLDER: Final = "app-server.folder"

_STATUSES: Final = {
    LoopStatus.STARTING: SandboxStatus.STARTING,
    LoopStatus.RUNNING: SandboxStatus.RUNNING,
    LoopStatus.PAUSED: SandboxStatus.PAUSED,
    LoopStatus.STOPPED: SandboxStatus.PAUSED,
    LoopStatus.FAILED: SandboxStatus.ERROR,
}
#: How a loop ended that ran, and can run again with its workspace.
_DIED: Final = frozenset({Reason.EXITED, Reason.KILLED, Reason.OOM_KILLED})


class Sandboxes:
    """Turns loops into sandboxes.

    Args:
        ports: what the app server calls the ports inside a sandbox.
    """

    def __init__(self, owners: Owners, ports: Mapping[str, int]) -> None:
        self._owners, self._ports = owners, ports

    def info(self, loop: Loop, asked_by: str | None, default_spec: str) -> SandboxInfo:
        """See ``loop`` as the app server does.

        Args:
            asked_by: the user who asks, and owns it; None where loops of all users may be seen.
        """
        status = status_of(loop)
        running = status is SandboxStatus.RUNNING and loop.session_key
        return SandboxInfo(
            id=loop.conversation_id,
            created_by_user_id=self._owner(loop) or asked_by,
            sandbox_spec_id=loop.notes.get(SPEC, default_spec),
            status=status,
            session_api_key=loop.session_key.get_secret_value() if running and loop.session_key else None,
            exposed_urls=list(self._urls(loop)) if running else None,
            created_at=loop.created_at or loop.changed_at or utcnow(),
        )

    def record(self, loop: Loop) -> SandboxRecord:
        """Whose it is."""
        return SandboxRecord(id=loop.conversation_id, created_by_user_id=self._owner(loop))

    def _owner(self, loop: Loop) -> str | None:
        return self._owners.read(loop.notes.get(OWNER))

    def _urls(self, loop: Loop) -> list[ExposedUrl]:
        urls = [ExposedUrl(name=AGENT_SERVER, url=loop.url or "", port=8000)]
        for name, port in self._ports.items():
            if url := loop.urls.get(port):
                urls.append(ExposedUrl(name=name, url=_opened(name, url, loop), port=port))
        return urls


def status_of(loop: Loop) -> SandboxStatus:
    """What the app server calls the state of ``loop``: one that died counts as paused, as it can be resumed."""
    if loop.status is LoopStatus.FAILED and loop.reason in _DIED and loop.created_at:
        return SandboxStatus.PAUSED
    return _STATUSES[loop.status]


def _opened(name: str, url: str, loop: Loop) -> str:
    """VS Code wants the key and the folder in its address."""
    if name != VSCODE or loop.session_key is None:
        return url
    return f"{url}/?tkn={loop.session_key.get_secret_value()}&folder={loop.notes.get(FOLDER, '/')}"
