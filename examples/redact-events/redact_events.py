"""Redacts what looks like an API key in messages, then defers to whatever strategy delivers them."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping

from loopnest import Delivery, Event, Message, hookimpl

#: The prefixes of OpenAI and Anthropic, GitHub, GitLab, Slack and AWS keys, and what follows them.
_KEY = re.compile(r"\b(sk-|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA)[A-Za-z0-9_-]{8,}")


def redacted(text: str) -> str:
    """Return ``text`` with the prefix of each key only, so that a person sees which kind was there."""
    return _KEY.sub(r"\1[redacted]", text)


@hookimpl(wrapper=True)
def send_event(event: Event) -> Generator[Mapping[str, Event], Delivery, Delivery]:
    """Yield the arguments to change; the strategy sees them, the caller gets the strategy's answer."""
    if isinstance(event, Message):
        event = event.model_copy(update={"text": redacted(event.text)})
    return (yield {"event": event})
