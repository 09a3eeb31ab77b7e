"""The installed openhands-agent-server: all that is imported from it, and what differs between its versions."""

from __future__ import annotations

import importlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from loopnest import ConfigurationError, Finding

_log = logging.getLogger(__name__)
_DISTRIBUTION: Final = "openhands-agent-server"
#: Released with it, from the same sources. It requires them, but says no releases, and works with its own only.
_PARTS: Final = ("openhands-sdk", "openhands-tools")
#: The oldest and the newest version that this host was tested with.
TESTED: Final = ("1.49.0", "1.58.0")
_SELECTABLE: Final = "OH_CONVERSATION_RUNTIME_SELECTABLE"
_DEFAULT_IDLE_TTL: Final = 20 * 60.0


@dataclass(frozen=True)
class Stock:
    """The stock application, and what its configuration says about loops.

    Attributes:
        app: runs what is not a loop's: settings, profiles, skills, and local conversations.
        local: conversations may also run in this process, where the client asks for it.
        idle_after: stop unused loops after so many seconds; None never.
        variables: of nested servers' environment, so that they call the host's webhooks and send traces where it does.
        conversation_service: the dependency by which the stock application's routes reach conversations.
        settings: reads the stored settings, from a file.
    """

    app: Any
    local: bool
    idle_after: float | None
    variables: Mapping[str, str] = field(repr=False)
    conversation_service: Callable[[Any], Any]
    settings: Callable[[], Any]

    @property
    def session_keys(self) -> list[str]:
        """The keys that clients of the outer server show; none means that every client may do everything."""
        return list(self.app.state.config.session_api_keys)

    @property
    def config(self) -> Any:
        """The operator's configuration."""
        return self.app.state.config


def load(config: Any = None) -> Stock:
    """Build the stock application.

    Args:
        config: an ``openhands.agent_server.config.Config`` instead of the one that files and environment give.

    Raises:
        ConfigurationError: it is not installed, or configured in a way that can't be served.
    """
    _check_version()
    # Else litellm fetches prices while it is imported: seconds where there is no way out, and releases of it fail then.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    config = config or _module("config").get_default_config()
    if config.deferred_init:
        raise ConfigurationError("OH_DEFERRED_INIT is for nested servers. Unset it for the server that users talk to.")
    local = _selectable(config)
    app = _module("api").create_app(_with(config, conversation_runtime="local", conversation_runtime_selectable=False))
    # Clients read here that conversations have runtimes of their own, and whether they may choose.
    app.state.config = _with(config, conversation_runtime="docker", conversation_runtime_selectable=local)
    idle_after = getattr(config, "conversation_idle_ttl_seconds", _DEFAULT_IDLE_TTL)
    service = _module("dependencies").get_conversation_service
    variables = _webhooks(config) | _tracing()
    return Stock(app, local, idle_after, variables, service, lambda: _stored_settings(config))


def how_to_install(release: str = TESTED[-1]) -> str:
    """The command that installs a release of the agent server."""
    return " ".join(("pip install", *(f"{name}=={release}" for name in (_DISTRIBUTION, *_PARTS))))


def examine() -> list[Finding]:
    """An error for each part that is not of the agent server's release; nothing where there is no agent server."""
    server = _installed(_DISTRIBUTION)
    return [_unfit(name, server) for name in _PARTS if server and _installed(name) != server]


def _unfit(name: str, server: str) -> Finding:
    installed = _installed(name)
    found = f"{name} {installed} is installed" if installed else f"{name} is not installed"
    message = f"{found} beside {_DISTRIBUTION} {server}."
    return Finding(check="agent server", level="error", message=message, advice=f"Install {name}=={server}.")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _check_version() -> None:
    installed = _installed(_DISTRIBUTION)
    if installed is None:
        raise ConfigurationError(
            f"{_DISTRIBUTION} is not installed. Install it: {how_to_install()} (Python 3.12 or newer)."
        )
    if findings := examine():
        words = " ".join(f"{it.message} {it.advice}" for it in findings)
        raise ConfigurationError(f"The agent server can't be served: {words}")
    if not _minor(TESTED[0]) <= _minor(installed) <= _minor(TESTED[1]):
        _log.warning(
            "%s %s is outside the range that loopnest was tested with (%s to %s).", _DISTRIBUTION, installed, *TESTED
        )


def _minor(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)


def _selectable(config: Any) -> bool:
    """The field is new in 1.57; older versions ignore the variable, so it is read here."""
    default = os.environ.get(_SELECTABLE, "").lower() in ("1", "true", "yes")
    return bool(getattr(config, "conversation_runtime_selectable", default))


def _webhooks(config: Any) -> dict[str, str]:
    specs = [spec.model_dump(mode="json", exclude_unset=True) for spec in config.webhooks]
    return {"OH_WEBHOOKS": json.dumps(specs)} if specs else {}


def _tracing() -> dict[str, str]:
    """Where traces go, and what they are called: what the Docker mode hands on, which older versions don't."""
    names = getattr(_module("docker_runtime.registry"), "_OBSERVABILITY_ENV_VARS", ())
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _stored_settings(config: Any) -> Any:
    """The agent server's stored settings, or its defaults where none are stored or they can't be read.

    As upstream does: what needs nothing of the settings starts without them.
    """
    persistence = _module("persistence")
    try:
        settings = persistence.get_settings_store(config).load()
    except OSError as error:
        _log.warning("Can't read the agent server's settings: %s", error)
        settings = None
    return settings or persistence.PersistedSettings()


def _with(config: Any, **changes: object) -> Any:
    known = type(config).model_fields
    return config.model_copy(update={key: value for key, value in changes.items() if key in known})


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"openhands.agent_server.{name}")
    except ImportError as error:
        installed = version(_DISTRIBUTION)
        raise ConfigurationError(
            f"{_DISTRIBUTION} {installed} can't be imported here ({error}). Install it into an environment of its own, "
            f"beside loopnest: {how_to_install(installed)}."
        ) from error
