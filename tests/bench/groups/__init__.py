"""What is measured, group by group; listings last, as an engine is slow for minutes after a thousand containers."""

from __future__ import annotations

from collections.abc import Callable

from bench.groups import concurrency, leak, listing, proxied, sending, stall, starting
from bench.stage import Stage

GROUPS: dict[str, Callable[[Stage], None]] = {
    "stall": stall.run,
    "send": sending.run,
    "start": starting.run,
    "concurrency": concurrency.run,
    "proxied": proxied.run,
    "leak": leak.run,
    "list": listing.run,
}
