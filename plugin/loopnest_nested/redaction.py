"""Keeps the secrets of a request out of what a nested server says, then and later."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from pydantic import SecretStr

from loopnest import Conversation, StartLoop

MASK: Final = "**********"
#: Characters of the shortest secret that is masked: shorter ones are guessed anyway, and no text has none of them.
_SHORTEST: Final = 4
#: Characters of the shortest value of a variable, or line of a longer secret, that is a secret whatever its name is.
_TELLING: Final = 8
_SECRET_KEY: Final = re.compile(r"key|token|secret|pass|pwd|credential|authorization|cookie", re.IGNORECASE)


def secrets_of(request: StartLoop) -> tuple[SecretStr, ...]:
    """The secrets in ``request``, also those in ``settings`` or in a URL."""
    return tuple(_secrets_of(request))


def redacted(text: str, secrets: Iterable[SecretStr]) -> str:
    """Return ``text`` without ``secrets`` of at least four characters.

    They are found as they are, as JSON or Python would quote them, and as URLs would; and each line of those that have
    several, as a log may be cut in the middle.
    """
    values = (secret.get_secret_value() for secret in secrets)
    forms = {form for value in values if len(value) >= _SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):  # a secret may begin with another one
        text = text.replace(form, MASK)
    return text


class RequestSecrets:
    """The secrets of the requests that started loops in this process, for what the loops say later."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[SecretStr, ...]] = {}

    def keep(self, request: StartLoop) -> None:
        """Remember them with those of earlier starts, which a loop that is started again may still have."""
        known = (*self.of(request.conversation_id), *secrets_of(request))
        self._of[request.conversation_id] = tuple(dict.fromkeys(known))

    def of(self, conversation_id: str) -> tuple[SecretStr, ...]:
        """What must not be quoted of the conversation's loop."""
        return self._of.get(conversation_id, ())

    def forget(self, conversation_id: str) -> None:
        """The loop is removed."""
        self._of.pop(conversation_id, None)


def _forms(value: str) -> Iterator[str]:
    yield from (value, json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe=""))
    lines = value.splitlines()
    if len(lines) > 1:
        yield from (line for line in lines if len(line) >= _TELLING)


def _secrets_of(request: StartLoop) -> Iterator[SecretStr]:
    conversation = request.conversation or Conversation()
    if conversation.llm and conversation.llm.api_key:
        yield conversation.llm.api_key
    yield from (secret.value for secret in conversation.secrets.values())
    yield from (token.token for token in conversation.provider_tokens.values())
    yield from _in_variables(request.environment)
    yield from _in_settings(conversation.settings, "")
    if conversation.repository:
        yield from _in_url(conversation.repository)


def _in_variables(variables: Mapping[str, SecretStr]) -> Iterator[SecretStr]:
    """All but short ones with harmless names: a text without every ``true`` could not be read."""
    for name, value in variables.items():
        if len(value) >= _TELLING or _SECRET_KEY.search(name):
            yield value


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
