"""The requests by which the legacy server creates or resumes a conversation, and those before it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import SecretStr

from loopnest import Conversation, NestedError


def settings_of(conversation: Conversation) -> dict[str, Any]:
    """Build the body of ``POST /api/settings``: flat, with ``conversation.settings`` over what ``llm`` says.

    Empty where the request says nothing, so that stored settings are kept.
    """
    body: dict[str, Any] = {}
    if conversation.llm:
        key = conversation.llm.api_key
        body = {
            "llm_model": conversation.llm.model,
            "llm_base_url": conversation.llm.base_url or "",  # None would keep that of an earlier model
            "llm_api_key": key.get_secret_value() if key else None,
        }
    plain: dict[str, Any] = _plain(conversation.settings)
    return {"language": "en", "agent": "CodeActAgent", **body, **plain} if body or plain else {}


def tokens_of(conversation: Conversation) -> dict[str, Any]:
    """Build the body of ``POST /api/add-git-providers``; empty where there are none."""
    tokens = {
        provider: {"token": token.token.get_secret_value(), "user_id": token.user_id, "host": token.host}
        for provider, token in conversation.provider_tokens.items()
    }
    return {"provider_tokens": tokens} if tokens else {}


def secrets_in(conversation: Conversation) -> Iterator[dict[str, Any]]:
    """Build the bodies of ``POST /api/secrets``."""
    for name, secret in conversation.secrets.items():
        yield {"name": name, "value": secret.value.get_secret_value(), "description": secret.description}


def creation(conversation_id: str, conversation: Conversation) -> dict[str, Any]:
    """Build the body of ``POST /api/conversations``, which refuses keys that it doesn't know.

    Raises:
        NestedError: the server's API can't express the request.
    """
    given = conversation.initial_message
    if given and conversation.replay is not None:
        raise NestedError("Recorded events bring their own first message: give 'replay' or 'initial_message'.")
    if given and not given.run:
        raise NestedError("The legacy server starts its agent with every message: 'run' can't be false.")
    body = {
        "conversation_id": conversation_id,
        "repository": conversation.repository,
        "selected_branch": conversation.branch,
        "git_provider": conversation.git_provider,
        "initial_user_msg": given.text if given else None,
        "image_urls": list(given.image_urls) if given else None,
        "conversation_instructions": conversation.instructions,
        "replay_json": _recording(conversation.replay),
    }
    return {key: value for key, value in body.items() if value}


def _recording(replay: Any) -> str | None:
    return replay if replay is None or isinstance(replay, str) else json.dumps(replay)


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON takes it; this is where its secrets are read."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
