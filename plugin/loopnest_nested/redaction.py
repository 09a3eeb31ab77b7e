"""Keeps the secrets of a request out of what a nested server says about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from loopnest import StartLoop

MASK: Final = "**********"
#: Characters of the shortest value that is masked, and of the shortest that is masked within a word too.
SHORTEST: Final = 4
_WITHIN_WORDS: Final = 8
_SECRET_KEY: Final = re.compile(r"key|token|secret|password|passwd|credential|authorization|cookie", re.IGNORECASE)


def secrets_of(request: StartLoop) -> tuple[SecretStr, ...]:
    """Everything in ``request`` that nobody may read, also where it stands in ``settings`` or in a URL."""
    return tuple(_secrets_of(request))


def redacted(text: str, secrets: Iterable[SecretStr]) -> str:
    """Return ``text`` without ``secrets``: as they are, as JSON or Python would quote them, and as URLs would.

    Values of fewer than `SHORTEST` characters stay, as they are guessed anyway, and those of fewer than eight are
    masked where they stand alone: variables count as secrets whatever is in them, and nobody could read a text without
    every ``1``, while its masks would tell what they hide.
    """
    values = (secret.get_secret_value() for secret in secrets)
    forms = {form for value in values if len(value) >= SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):  # a secret may begin with another one
        pattern = re.escape(form)
        text = re.sub(pattern if len(form) >= _WITHIN_WORDS else rf"(?<!\w){pattern}(?!\w)", MASK, text)
    return text


def _forms(value: str) -> tuple[str, ...]:
    return value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")


def _secrets_of(request: StartLoop) -> Iterator[SecretStr]:
    if request.llm and request.llm.api_key:
        yield request.llm.api_key
    yield from (secret.value for secret in request.secrets.values())
    yield from (token.token for token in request.provider_tokens.values())
    yield from request.environment.values()
    yield from _in_settings(request.settings, "")
    if request.repository:
        yield from _in_url(request.repository)


def _in_url(url: str) -> Iterator[SecretStr]:
    """The password; or the user where it is alone, as that may be a token too."""
    try:
        split = urlsplit(url)
    except ValueError:
        return
    if (word := split.password or split.username) and split.scheme != "ssh":
        yield from (SecretStr(word), SecretStr(unquote(word)))


def _in_settings(value: Any, key: str) -> Iterator[SecretStr]:
    if isinstance(value, SecretStr):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _in_settings(item, str(name))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _in_settings(item, key)
    elif isinstance(value, str) and _SECRET_KEY.search(key):
        yield SecretStr(value)
