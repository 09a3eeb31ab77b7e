"""The host's requests and events in the terms of the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openhands.events.action import MessageAction
from openhands.integrations.provider import CustomSecret
from openhands.integrations.provider import ProviderToken as HostToken
from openhands.integrations.service_types import ProviderType
from openhands.server.session.conversation_init_data import ConversationInitData
from pydantic import SecretStr

from loopnest import Conversation, Event, Llm, Message, ProviderToken, RawEvent, Secret, StartLoop
from loopnest.validation import made

#: Not part of the nested server's settings: they have requests of their own, or belong to one conversation.
_ELSEWHERE: Final = {
    "custom_secrets", "git_provider_tokens", "secrets_store", "selected_repository", "selected_branch", "git_provider",
    "conversation_instructions", "replay_json",
}  # fmt: skip
#: What a message may say and still be a `Message`; more is passed on unread.
_MESSAGE_KEYS: Final = {"content", "image_urls", "timestamp", "file_urls"}


def start_request(
    conversation_id: str, init_data: Any, asked: Mapping[str, Any], environment: Mapping[str, str]
) -> StartLoop:
    """Say what the host wants started.

    Args:
        init_data: the host's ``ConversationInitData``, or its plain ``Settings``.
        asked: what `asked_for` made of the first request.
    """
    message = asked.get("message")
    conversation = made(
        Conversation,
        llm=_llm(init_data),
        settings=_settings(init_data),
        secrets=_secrets(init_data),
        provider_tokens=_provider_tokens(init_data),
        initial_message=Message(**message) if message else None,
        instructions=asked.get("instructions"),
        repository=asked.get("repository"),
        branch=asked.get("branch"),
        git_provider=asked.get("git_provider"),
        replay=asked.get("replay"),
    )
    variables = {name: SecretStr(str(value)) for name, value in environment.items()}
    return made(StartLoop, conversation_id=conversation_id, conversation=conversation, environment=variables)


def asked_for(init_data: Any, message: Any, replay_json: str | None) -> dict[str, Any]:
    """What counts for the first start of a conversation only, as JSON; empty where nothing was asked for."""
    provider = getattr(init_data, "git_provider", None)
    asked = {
        "message": {"text": message.content or "", "image_urls": list(message.image_urls or ())} if message else None,
        "instructions": getattr(init_data, "conversation_instructions", None),
        "repository": getattr(init_data, "selected_repository", None),
        "branch": getattr(init_data, "selected_branch", None),
        "git_provider": getattr(provider, "value", provider),
        "replay": replay_json,
    }
    return {key: value for key, value in asked.items() if value}


def to_event(data: Mapping[str, Any]) -> Event:
    """A client's event: a `Message` where it is no more than that, so that overrides can read it."""
    args = data.get("args")
    if data.get("action") == "message" and isinstance(args, dict) and _is_plain(args):
        return Message(text=args["content"], image_urls=tuple(args.get("image_urls") or ()))
    return RawEvent(payload=dict(data))


def _is_plain(args: Mapping[str, Any]) -> bool:
    return args.keys() <= _MESSAGE_KEYS and isinstance(args.get("content"), str) and not args.get("file_urls")


def to_data(event: Event) -> dict[str, Any]:
    """An event in the host's own terms.

    Raises:
        ValueError: it has none.
    """
    if isinstance(event, Message):
        return {"action": "message", "args": {"content": event.text, "image_urls": list(event.image_urls)}}
    if isinstance(event, RawEvent):
        return dict(event.payload)
    states = {"pause": "paused", "interrupt": "stopped", "run": "running"}
    return {"action": "change_agent_state", "args": {"agent_state": states[event.action]}}


def to_host(request: StartLoop) -> tuple[Any, Any, str | None]:
    """What a conversation manager of the host starts a loop with: settings, message and replay."""
    conversation = request.conversation or Conversation()
    message = conversation.initial_message
    action = MessageAction(content=message.text, image_urls=list(message.image_urls)) if message else None
    llm = conversation.llm
    settings = ConversationInitData(
        **{
            **conversation.settings,
            **({"llm_model": llm.model, "llm_api_key": llm.api_key, "llm_base_url": llm.base_url} if llm else {}),
            "git_provider_tokens": _host_tokens(conversation),
            "custom_secrets": _host_secrets(conversation),
            "selected_repository": conversation.repository,
            "selected_branch": conversation.branch,
            "git_provider": conversation.git_provider,
            "conversation_instructions": conversation.instructions,
        }
    )
    return settings, action, conversation.replay if isinstance(conversation.replay, str) else None


def _host_tokens(conversation: Conversation) -> dict[Any, Any]:
    return {
        ProviderType(name): HostToken(token=it.token, user_id=it.user_id, host=it.host)
        for name, it in conversation.provider_tokens.items()
    }


def _host_secrets(conversation: Conversation) -> dict[str, Any]:
    return {
        name: CustomSecret(secret=it.value, description=it.description or "")
        for name, it in conversation.secrets.items()
    }


def _llm(init_data: Any) -> Llm | None:
    if not init_data.llm_model:
        return None
    return Llm(model=init_data.llm_model, api_key=init_data.llm_api_key, base_url=init_data.llm_base_url or None)


def _settings(init_data: Any) -> dict[str, Any]:
    dumped = init_data.model_dump(context={"expose_secrets": True}, exclude=_ELSEWHERE)
    return {key: _plain(value) for key, value in dumped.items() if value is not None}


def _plain(value: Any) -> Any:
    """``value`` as JSON: the host's models leave some secrets and enumerations as they are."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


def _secrets(init_data: Any) -> dict[str, Secret]:
    secrets = getattr(init_data, "custom_secrets", None) or {}
    return {name: Secret(value=it.secret, description=it.description or None) for name, it in secrets.items()}


def _provider_tokens(init_data: Any) -> dict[str, ProviderToken]:
    tokens = getattr(init_data, "git_provider_tokens", None) or {}
    return {
        getattr(provider, "value", provider): ProviderToken(token=it.token, user_id=it.user_id, host=it.host)
        for provider, it in tokens.items()
        if it.token and it.token.get_secret_value()
    }
