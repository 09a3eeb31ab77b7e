"""Variables of a nested server that only loopnest may set, such as its session key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import SecretStr

from loopnest import ConfigurationError, InvalidRequest, StartLoop
from loopnest_nested import session_keys
from loopnest_nested.dialects import Dialect


def check_request(dialect: Dialect, request: StartLoop) -> None:
    """Refuse a request that sets a reserved variable: no host could use the nested server any more.

    Raises:
        InvalidRequest: names the variable.
    """
    if request.environment and (taken := _reserved(dialect).intersection(request.environment)):
        raise InvalidRequest(f"'environment.{min(taken)}' can't be set: loopnest gives each nested server its own.")


class Settings(Protocol):
    """The settings of a strategy that set variables of its nested servers."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that are not secret."""

    @property
    def secret_environment(self) -> Mapping[str, SecretStr]:
        """Variables that only the nested server may see."""


def check_settings(dialect: Dialect, table: str, settings: Settings) -> None:
    """Refuse settings that set a reserved variable.

    Args:
        table: of the strategy, for the message.

    Raises:
        ConfigurationError: names the key.
    """
    for key, names in {"environment": settings.environment, "secret_environment": settings.secret_environment}.items():
        if taken := _reserved(dialect).intersection(names):
            raise ConfigurationError(
                f"'{table}.{key}.{min(taken)}' can't be set: loopnest gives each nested server its own."
            )


def _reserved(dialect: Dialect) -> frozenset[str]:
    keys = session_keys.derive(SecretStr(""), session_keys.new_nonce())
    return frozenset(dialect.secret_environment(keys))
