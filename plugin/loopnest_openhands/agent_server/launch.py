"""What a start request refers to on this host, put in its place: profiles, encrypted secrets, secrets by address.

A nested server can't read the host's stores, has another key, and may not reach the host at all.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError

from loopnest import LoopnestError, Reason
from loopnest_openhands.agent_server.upstream import Stock

#: The context in which the agent server's models show their secrets.
PLAIN: Final = {"expose_secrets": "plaintext"}
_LOOKUP: Final = "LookupSecret"
#: By the request's field, the header that says it.
_OBSERVED: Final = {
    f"observability_{key}": f"x-openhands-observability-{key.replace('_', '-')}"
    for key in ("span_name", "tags", "metadata", "parent_span_context")
}
_SOURCES: Final = ("agent", "agent_settings", "agent_profile_id")
#: By it a nested server learns which profile launched its conversation, and which secrets that allows.
_LAUNCHED: Final = "OH_RUNTIME_LAUNCHED_PROFILE"


@dataclass(frozen=True)
class Start:
    """A start request as a nested server can take it.

    Attributes:
        variables: of the nested server's environment, for what the request can't say.
    """

    body: dict[str, Any] = field(repr=False)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


class Refused(LoopnestError):
    """The host's own stores say no; ``http_status`` and ``detail`` are the agent server's words for it."""

    reason = Reason.INVALID_REQUEST

    def __init__(self, http_status: int, detail: Any) -> None:
        super().__init__(str(detail))
        self.http_status, self.detail = http_status, detail


async def resolve(body: dict[str, Any], stock: Stock) -> Start:
    """Return the start request as a nested server can take it; unchanged where it refers to nothing here.

    Raises:
        Refused: the profile is unknown or incomplete, or a secret can't be read.
    """
    start, settings = Start(body), await asyncio.to_thread(stock.settings)
    if body.get("agent_profile_id") or body.get("secrets_encrypted") or _looks_up(body):
        start = await _resolved(body, stock.config, settings)
    if (context := settings.agent_settings.agent_context) and context.load_memory:
        start = Start(_with_memory(start.body), start.variables)
    return start


async def _resolved(body: dict[str, Any], config: Any, settings: Any) -> Start:
    try:
        if _has_mediation():
            return await _resolve_by_mediation(body, config)
        return await _resolve_by_launch(body, config, settings)
    except ValidationError as error:
        raise Refused(422, error.errors(include_url=False, include_input=False, include_context=False)) from None
    except ValueError as error:
        raise Refused(422, str(error)) from None


def _with_memory(body: dict[str, Any]) -> dict[str, Any]:
    """As the agent server does with its stored setting; a context made for it has no date, as no context has none."""
    name = next((name for name in _SOURCES[:2] if isinstance(body.get(name), Mapping)), None)
    if name is None:
        return body
    context = body[name].get("agent_context") or {"current_datetime": None}
    return {**body, name: {**body[name], "agent_context": {**context, "load_memory": True}}}


def observed(body: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the start request with what its headers say for tracing, where the body does not say it.

    Raises:
        Refused: the metadata is no JSON object.
    """
    given: dict[str, Any] = {key: headers[name] for key, name in _OBSERVED.items() if headers.get(name)}
    if tags := given.get("observability_tags"):
        given["observability_tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    if metadata := given.get("observability_metadata"):
        try:
            given["observability_metadata"] = {**json.loads(metadata), **(body.get("observability_metadata") or {})}
        except (ValueError, TypeError):
            raise Refused(422, "X-OpenHands-Observability-Metadata must be a JSON object") from None
    return {
        **given,
        **{key: value for key, value in body.items() if key != "observability_metadata" or key not in given},
    }


async def resolve_secrets(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body of an update of secrets with all values in it."""
    if not _looks_up(body):
        return body
    update = _module("openhands.agent_server.models").UpdateSecretsRequest.model_validate(body)
    values = await _materialized(update.secrets)
    dumped: dict[str, Any] = update.model_copy(update={"secrets": values}).model_dump(mode="json", context=PLAIN)
    return dumped


async def llm_of_profile(name: str, config: Any) -> dict[str, Any]:
    """Return the language model that the host stores as profile ``name``, with its key.

    Raises:
        Refused: there is no such profile, or it can't be read.
    """
    store = _module("openhands.agent_server.persistence").get_llm_profile_store()
    try:
        llm = await asyncio.to_thread(store.load, name, cipher=config.cipher)
    except FileNotFoundError:
        raise Refused(404, f"Profile '{name}' not found") from None
    except ValueError as error:
        raise Refused(400, str(error)) from None
    dumped: dict[str, Any] = llm.model_dump(mode="json", context=PLAIN)
    return dumped


def _looks_up(body: Mapping[str, Any]) -> bool:
    agent = body.get("agent") or body.get("agent_settings") or {}
    contexts = [body, agent.get("agent_context") or {}] if isinstance(agent, Mapping) else [body]
    secrets = [context.get("secrets") or {} for context in contexts if isinstance(context, Mapping)]
    sources = [value for group in secrets if isinstance(group, Mapping) for value in group.values()]
    return any(isinstance(source, Mapping) and source.get("kind") == _LOOKUP for source in sources)


def _has_mediation() -> bool:
    """Versions before 1.54 prepare requests there; later ones in ``launch``."""
    return hasattr(_module("openhands.agent_server.docker_runtime.mediation"), "prepare_start")


async def _resolve_by_mediation(body: dict[str, Any], config: Any) -> Start:
    mediation = _module("openhands.agent_server.docker_runtime.mediation")
    missing = _module("openhands.sdk.profiles.resolver").ProfileNotFound
    try:
        request, profile = await mediation.prepare_start(body, config)
    except missing as error:
        raise Refused(404, str(error)) from None
    dumped: dict[str, Any] = request.model_dump(mode="json", context=PLAIN, exclude={"agent_profile_id"})
    return Start(dumped | {"secrets_encrypted": False}, _launched_by(profile))


async def _resolve_by_launch(body: dict[str, Any], config: Any, settings: Any) -> Start:
    launch = _module("openhands.agent_server.launch")
    context = {"cipher": config.cipher} if body.get("secrets_encrypted") else None
    model = _module("openhands.sdk.conversation.request").StartConversationRequest
    start = model.model_validate(body, context=context)
    try:
        secrets, source = await asyncio.to_thread(_read_stores, launch, start, config, settings)
    except launch.LaunchFailure as failure:
        refusal = launch.launch_http_exception(failure)
        raise Refused(refusal.status_code, refusal.detail) from None
    profile = source.profile if isinstance(source, launch.ResolvedLaunch) else None
    return Start(await _assemble(launch, start, secrets, source), _launched_by(profile))


def _launched_by(profile: Any) -> dict[str, str]:
    return {} if profile is None else {_LAUNCHED: profile.model_dump_json()}


def _read_stores(launch: Any, start: Any, config: Any, settings: Any) -> tuple[Any, Any]:
    stores = launch.server_launch_stores(settings, config.cipher)
    secrets = launch.request_secrets(start, config.cipher)
    return secrets, launch.launch_source(start, lambda: stores, config.cipher)


async def _assemble(launch: Any, start: Any, secrets: Any, source: Any) -> dict[str, Any]:
    """As ``launch.forward_to_runtime``, which encrypts with a key that the host does not have."""
    values = await _materialized(launch.scoped_secrets(secrets, source))
    request = start.model_copy(update={"secrets": values, "secrets_encrypted": False})
    body: dict[str, Any] = request.model_dump(mode="json", context=PLAIN, exclude=set(_SOURCES))
    resolved = isinstance(source, launch.ResolvedLaunch)
    agent = source.settings if resolved else source
    context = agent.agent_context
    if context is not None and context.secrets:
        context = context.model_copy(update={"secrets": await _materialized(context.secrets)})
        agent = agent.model_copy(update={"agent_context": context})
    body["agent_settings" if resolved else "agent"] = agent.model_dump(mode="json", context=PLAIN)
    additions = dict(body.get("agent_launch_additions") or {})
    additions.pop("llm_profile_ref", None)  # resolved, and not valid without the profile
    return body | {"agent_launch_additions": additions or None}


async def _materialized(secrets: Any) -> Any:
    """On a thread, as the address of a secret may be this very server's."""
    mediation = _module("openhands.agent_server.docker_runtime.mediation")
    return await asyncio.to_thread(mediation.materialize_secrets, secrets)


def _module(name: str) -> Any:
    return importlib.import_module(name)
