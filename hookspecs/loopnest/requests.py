"""What callers ask for: loops to start, with the conversations in them, and events to send."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, JsonValue, SecretStr

from loopnest.models import Model
from loopnest.owners import NOBODY, NonEmpty
from loopnest.validation import ConversationId, VariableName

#: A user and password within a URL.
_USERINFO: Final = re.compile(r"//[^/?#]*@")


class Llm(Model):
    """The language model that the agent uses.

    ``model`` is a LiteLLM model name (``anthropic/claude-...``, ``openai/...``); ``base_url`` is for compatible
    endpoints and must be reachable from where the loop runs.
    """

    model: NonEmpty
    api_key: SecretStr | None = None
    base_url: str | None = None


class ProviderToken(Model):
    """Access to a git provider; ``host`` for self-hosted ones."""

    token: SecretStr
    user_id: str | None = None
    host: str | None = None


class Secret(Model):
    """A custom secret for the agent's environment."""

    value: SecretStr
    description: str | None = None


class Message(Model):
    """A user's message. ``run`` starts the agent's turn."""

    kind: Literal["message"] = "message"
    text: str
    image_urls: tuple[str, ...] = ()
    run: bool = True


class Control(Model):
    """Steers the agent without saying anything to it."""

    kind: Literal["control"] = "control"
    action: Literal["run", "pause", "interrupt"]


class RawEvent(Model):
    """An event in the nested server's own terms, passed on as it is."""

    kind: Literal["raw"] = "raw"
    payload: dict[str, JsonValue] = Field(repr=False)


Event = Annotated[Message | Control | RawEvent, Field(discriminator="kind")]


class Conversation(Model):
    """The conversation that a start creates in the nested server.

    It counts where the nested server does not have the conversation yet; one that exists is resumed as it is, so that a
    repeated start never sends a message twice.

    Attributes:
        llm: the language model; without it the nested server's own default or ``settings`` must do.
        settings: more configuration in the nested server's own terms, merged over what the dialect builds.
        secrets: custom secrets, by the environment variable's name.
        provider_tokens: by provider name (``github``, ``gitlab``, ...).
        repository: ``owner/name``, or a URL, to clone into the workspace; ``branch`` selects a branch of it.
        instructions: extra instructions for the agent, for this conversation only.
        replay: recorded events to play back, in the nested server's own form.
    """

    llm: Llm | None = None
    initial_message: Message | None = None
    instructions: str | None = None
    settings: Mapping[str, Any] = Field(default_factory=dict, repr=False)
    secrets: Mapping[str, Secret] = Field(default_factory=dict)
    provider_tokens: Mapping[str, ProviderToken] = Field(default_factory=dict)
    repository: NonEmpty | None = None
    branch: NonEmpty | None = None
    git_provider: str | None = None
    replay: JsonValue = Field(default=None, repr=False)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Leave a password in the URL of the repository out of logs and traces."""
        for name, value in super().__repr_args__():
            yield name, _USERINFO.sub("//**********@", value) if name == "repository" and value else value


class StartLoop(Model):
    """What to run for a conversation.

    Attributes:
        conversation_id: names the conversation, and with it the loop.
        conversation: what to create in the nested server. None where the host creates conversations there itself: then
            the loop runs once its nested server answers.
        image: instead of the strategy's configured image; only for strategies with the capability ``image``.
        environment: more variables for the nested server's process.
        tags: facts to store with the conversation, where the nested server can.
        notes: facts that the host wants back in `Loop.notes`, from every process; not secret, as every user of the
            engine can read them.
        owner: whose loop it is, as `owner_of` gives it. `LoopManager` sets it before any hook is called.
    """

    conversation_id: ConversationId
    conversation: Conversation | None = Field(default_factory=Conversation)
    image: NonEmpty | None = None
    environment: Mapping[VariableName, SecretStr] = Field(default_factory=dict)
    tags: Mapping[str, str] = Field(default_factory=dict)
    notes: Mapping[str, str] = Field(default_factory=dict)
    owner: str = NOBODY
