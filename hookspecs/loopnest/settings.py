"""Where configuration comes from: one TOML table ``[loopnest]``, and ``LOOPNEST_*`` environment variables, which win.

The file is the one that ``LOOPNEST_CONFIG`` names, else ``loopnest.toml`` in the working directory; any TOML file with
a ``[loopnest]`` table will do, so a host's own configuration file may carry it. Each plugin has a table of its own
(``[loopnest.docker]``), validated by the pydantic model that the plugin brings; ``LOOPNEST_DOCKER__MEMORY=2GiB`` sets
``memory`` in it.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from loopnest.errors import ConfigurationError
from loopnest.validation import LocalPath, field_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PREFIX: Final = "LOOPNEST_"
#: Characters that a secret has at least.
SHORTEST_SECRET: Final = 16
#: Variables that are no keys of the table.
_RESERVED: Final = frozenset({"LOOPNEST_CONFIG", "LOOPNEST_TRACE"})
#: The prefix of variables for the tests.
_TESTS: Final = "LOOPNEST_TEST_"
_M = TypeVar("_M", bound=BaseModel)


def _default_state_dir() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "loopnest"


class Timeouts(BaseModel, frozen=True, extra="forbid"):
    """How long, in seconds, `LoopManager` waits for the plugins to answer a hook.

    Backstops against plugins that hang: a strategy has finer limits of its own.

    Attributes:
        start: for ``start_loop``, which may pull or build an image.
        close: for ``close_session``.
        list: for ``list_loops``, in listings and lookups.
        send: for ``send_event``; a nested server may take a message only when the agent's tool has ended.
        other: for every other hook.
    """

    start: float = Field(default=1800, gt=0)
    close: float = Field(default=120, gt=0)
    list: float = Field(default=30, gt=0)
    send: float = Field(default=900, gt=0)
    other: float = Field(default=60, gt=0)


class LoopnestSettings(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """The keys of the ``[loopnest]`` table that are not a plugin's.

    Attributes:
        strategy: entry-point name of the one strategy that runs the loops.
        overrides: entry-point names of the plugins in front of it; the first is asked first.
        namespace: separates hosts that share an engine. Hosts with the same namespace (and secret) are replicas.
        secret: what session keys are derived from; without it, one is made and kept in ``state_dir``.
        state_dir: where loopnest keeps small files: that secret, and why starts failed.
        failed_retention: for how many seconds a failed start stays in the listing.
        restart_on_send: an event for a stopped loop starts it again.
    """

    strategy: str = "docker"
    overrides: tuple[str, ...] = ()
    namespace: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "default"
    secret: Annotated[SecretStr, Field(min_length=SHORTEST_SECRET)] | None = None
    state_dir: LocalPath = Field(default_factory=_default_state_dir)
    failed_retention: float = Field(default=3600, ge=0)
    restart_on_send: bool = True
    timeouts: Timeouts = Timeouts()


class _Sourced(BaseSettings):
    """Reads the environment over the values it is given."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", extra="ignore", hide_input_in_errors=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - as pydantic-settings calls it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings


@dataclass(frozen=True)
class Configuration:
    """A ``[loopnest]`` table as it was read, not yet validated, and the file it is from (None: there is none)."""

    table: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None = None) -> Configuration:
        """Read the file at ``path``, else the one the environment names, else ``loopnest.toml`` if there is one.

        Raises:
            ConfigurationError: a named file can't be read, is no TOML, or has no ``[loopnest]`` table.
        """
        named = path or os.environ.get("LOOPNEST_CONFIG")
        source = Path(named or "loopnest.toml")
        if not named and not source.is_file():
            return cls()
        try:
            document = tomllib.loads(source.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"Configuration file {source} can't be read: {error}") from error
        table = document.get("loopnest")
        if not isinstance(table, dict):
            raise ConfigurationError(
                f"Configuration file {source} has no [loopnest] table. Begin it with a line '[loopnest]'."
            )
        return cls({key.replace("-", "_"): value for key, value in table.items()}, source)

    def core(self, plugin_names: Iterable[str]) -> LoopnestSettings:
        """Validate the keys that are not a plugin's.

        Args:
            plugin_names: of all installed plugins; their tables are left to `plugin`.

        Raises:
            ConfigurationError: names the key, the place it is from, and the nearest valid one.
        """
        fields = LoopnestSettings.model_fields
        tables = {name.replace("-", "_") for name in plugin_names}
        self._refuse_unknown([*fields, *sorted(tables)])
        given = {key: value for key, value in self.table.items() if key in fields}
        model = create_model("Core", __base__=_Sourced, **{n: (f.annotation, f) for n, f in fields.items()})  # type: ignore[call-overload]
        with self._explaining(LoopnestSettings):
            sourced: BaseModel = model(**given)
            return LoopnestSettings(**{name: getattr(sourced, name) for name in sourced.model_fields_set})

    def plugin(self, name: str, model: type[_M]) -> _M:
        """Validate the table of the plugin ``name`` with the ``model`` it brings.

        Raises:
            ConfigurationError: as for `core`.
        """
        key = name.replace("-", "_")
        sourced = create_model("Plugin", __base__=_Sourced, **{key: (model, ...)})  # type: ignore[call-overload]
        with self._explaining(model, name):
            validated: _M = getattr(sourced(**{key: self.table.get(key, {})}), key)
            return validated

    def has_table(self, name: str) -> bool:
        """Whether anything is set for the plugin ``name``."""
        key = name.replace("-", "_")
        prefix = f"{PREFIX}{key.upper()}__"
        return bool(self.table.get(key)) or any(variable.upper().startswith(prefix) for variable in os.environ)

    def _refuse_unknown(self, known: list[str]) -> None:
        for key in self.table:
            if key not in known:
                raise ConfigurationError(f"{self.source}: unknown key 'loopnest.{key}'.{did_you_mean(key, known)}")
        for variable in filter(_is_ours, os.environ):
            if variable.upper().removeprefix(PREFIX).split("__")[0].lower() not in known:
                names = [f"{PREFIX}{key.upper()}" for key in known]
                hint = did_you_mean(variable.upper().split("__")[0], names)
                raise ConfigurationError(f"Environment: unknown variable {variable}.{hint}")

    @contextlib.contextmanager
    def _explaining(self, model: type[BaseModel], plugin: str | None = None) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            problems = [self._problem(dict(problem), model, plugin) for problem in error.errors()]
            raise ConfigurationError("\n".join(problems)) from None
        except SettingsError as error:
            raise ConfigurationError(
                f"Environment: {error}. Lists are written as JSON there: LOOPNEST_OVERRIDES='[\"redact\"]'."
            ) from None

    def _problem(self, error: dict[str, Any], model: type[BaseModel], plugin: str | None) -> str:
        path = field_of(error["loc"]).split(".")
        place = _variable(path) or self.source or "Configuration"
        below = path[1:] if plugin else path
        dotted = ".".join(["loopnest", *([plugin] if plugin else []), *below])
        if error["type"] != "extra_forbidden":
            return f"{place}: '{dotted}': {error['msg']}."
        return f"{place}: unknown key '{dotted}'.{did_you_mean(below[-1], _fields(model, below[:-1]))}"


def _variable(path: Sequence[str]) -> str | None:
    """The environment variable that sets the value at ``path``, or a list or table that it is in, if one is set."""
    names = (PREFIX + "__".join(path[:length]).upper() for length in range(len(path), 0, -1))
    return next((f"Environment variable {name}" for name in names if name in os.environ), None)


def _is_ours(variable: str) -> bool:
    name = variable.upper()
    return name.startswith(PREFIX) and name not in _RESERVED and not name.startswith(_TESTS)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest of ``known``, or the whole choice where none is near."""
    choice = list(known)
    if close := difflib.get_close_matches(word, choice, n=1):
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(sorted(choice))}." if choice else ""


def _fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """The valid keys of the table at ``path`` below ``model``."""
    for part in path:
        info = model.model_fields.get(part)
        if info is None or not isinstance(info.annotation, type(BaseModel)):
            return []
        model = info.annotation
    return list(model.model_fields)
