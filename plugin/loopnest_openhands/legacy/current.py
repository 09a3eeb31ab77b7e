"""The host of this process, for plugins that the host's configuration selects."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopnest_openhands.legacy.host import Host

_hosts: list[Host] = []


def set_host(host: Host) -> None:
    """There is one in each process."""
    _hosts[:] = [host]


def get_host() -> Host | None:
    """None where the plugin was selected by something else, such as the command line."""
    return _hosts[0] if _hosts else None
