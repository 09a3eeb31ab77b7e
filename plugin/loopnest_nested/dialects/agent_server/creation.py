"""The request by which the agent server creates a conversation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import SecretStr

from loopnest import Conversation, Message, NestedError, StartLoop

_TOOLS: Final = ("terminal", "file_editor", "task_tracker")


def creation(request: StartLoop, nested_id: str, directory: str, usable_tools: Iterable[str]) -> dict[str, Any]:
    """Build the body of ``POST /api/conversations``; ``conversation.settings`` is merged over it, key by key.

    The first message goes along only where it starts the agent, because the server always starts it.

    Args:
        directory: what the agent works on, as the server sees it.
        usable_tools: what the server can run; the agent gets a terminal, an editor and a list of tasks out of these.

    Raises:
        NestedError: the server's API can't express the request.
    """
    conversation = request.conversation or Conversation()
    settings = _plain(conversation.settings)
    body: dict[str, Any] = {
        "conversation_id": nested_id,
        "workspace": {"kind": "LocalWorkspace", "working_dir": directory},
        "autotitle": False,  # titles cost calls of the model, and hosts have their own
        "secrets": _secrets(conversation),
        "tags": dict(request.tags),
        **_agent(conversation, settings, [tool for tool in _TOOLS if tool in set(usable_tools)]),
    }
    if conversation.initial_message and conversation.initial_message.run:
        body["initial_message"] = message(conversation.initial_message)
    return merged(body, settings)


def message(given: Message) -> dict[str, Any]:
    """Say a user's message in the server's terms."""
    content: list[dict[str, Any]] = [{"type": "text", "text": given.text}]
    if given.image_urls:
        content.append({"type": "image", "image_urls": list(given.image_urls)})
    return {"role": "user", "content": content, "run": given.run}


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with ``above`` over it: mappings are merged, everything else is replaced."""
    result = dict(below)
    for key, value in above.items():
        known = result.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[key] = merged(known, value) if both else value  # type: ignore[arg-type]
    return result


def _agent(conversation: Conversation, settings: Mapping[str, Any], tools: list[str]) -> dict[str, Any]:
    """Describe the agent in the one of the server's three ways that the settings use, as it takes only one.

    ``agent_settings`` is the server's own recipe for an agent, ``agent`` one that is described in full,
    ``agent_profile_id`` one that the server has stored.
    """
    if settings.get("agent_profile_id"):
        return _stored_agent(conversation)
    source = "agent" if settings.get("agent") else "agent_settings"
    given = settings.get(source)
    agent: dict[str, Any] = {"llm": _llm(conversation)} if conversation.llm else {}
    if conversation.instructions:
        agent["agent_context"] = {"system_message_suffix": conversation.instructions}
    if tools and _takes_tools(given):
        agent["tools"] = [{"name": tool} for tool in tools]
    return {source: agent}


def _takes_tools(given: Any) -> bool:
    """Agents of other kinds (ACP) bring their own."""
    described = given if isinstance(given, Mapping) else {}
    return (described.get("kind", "Agent"), described.get("agent_kind", "openhands")) == ("Agent", "openhands")


def _stored_agent(conversation: Conversation) -> dict[str, Any]:
    if conversation.llm:
        raise NestedError(
            "A stored agent ('settings.agent_profile_id') brings its own language model: leave out 'llm', or say "
            "which one of the server's with 'settings.agent_launch_additions.llm_profile_ref'."
        )
    if not conversation.instructions:
        return {}
    return {"agent_launch_additions": {"system_message_suffix_append": conversation.instructions}}


def _llm(conversation: Conversation) -> dict[str, str]:
    assert conversation.llm
    llm = {"model": conversation.llm.model, "usage_id": "agent"}
    if conversation.llm.api_key:
        llm["api_key"] = conversation.llm.api_key.get_secret_value()
    if conversation.llm.base_url:
        llm["base_url"] = conversation.llm.base_url
    return llm


def _secrets(conversation: Conversation) -> dict[str, Any]:
    """Custom secrets, and each git provider's token as the variable that its tools look for (``GITHUB_TOKEN``)."""
    secrets = {}
    for provider, token in conversation.provider_tokens.items():
        name = f"{provider.upper().replace('-', '_')}_TOKEN"
        secrets[name] = _secret(token.token, f"Access token for {token.host or provider}")
    for name, secret in conversation.secrets.items():
        secrets[name] = _secret(secret.value, secret.description)
    return secrets


def _secret(value: SecretStr, description: str | None) -> dict[str, str]:
    secret = {"kind": "StaticSecret", "value": value.get_secret_value()}
    return {**secret, "description": description} if description else secret


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON takes it; this is where its secrets are read."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
