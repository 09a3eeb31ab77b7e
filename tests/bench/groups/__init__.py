"""What is measured, group by group, most important first."""

from __future__ import annotations

from collections.abc import Callable

from bench.groups import concurrency, leak, listing, proxied, sending, stall, starting
from bench.stage import Stage

GROUPS: dict[str, Callable[[Stage], None]] = {
    "stall": stall.run,
    "list": listing.run,
    "send": sending.run,
    "start": starting.run,
    "concurrency": concurrency.run,
    "leak": leak.run,
    "proxied": proxied.run,
}
