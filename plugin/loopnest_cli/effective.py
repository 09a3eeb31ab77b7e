"""The effective configuration: every value, and where it is from."""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ByteSize

from loopnest import LoopnestSettings
from loopnest.selection import find
from loopnest.settings import PREFIX, Configuration

#: A name and password in a URL, which no model knows to be a secret.
_USERINFO: Final = re.compile(r"(?<=://)[^/@\s\"]+@")


class Entry(NamedTuple):
    """One value.

    Attributes:
        key: dotted, as in messages: ``loopnest.docker.memory``.
        value: as JSON data; secrets are masked.
        shown: ``value`` for people.
        variable: the environment variable, where that is the source.
    """

    key: str
    value: Any
    shown: str
    source: Literal["default", "file", "environment", "command line"]
    variable: str | None = None


def effective(configuration: Configuration, settings: LoopnestSettings) -> list[Entry]:
    """Return the core's values, then those of the plugins in use.

    Raises:
        ConfigurationError: the table of a plugin is wrong.
    """
    entries = list(_entries(configuration, settings, ()))
    for name in (settings.strategy, *settings.overrides):
        if model := settings_model(find(name).load()):
            entries += _entries(configuration, configuration.plugin(name, model), (name,))
    return [_chosen(entry, settings, configuration) for entry in entries]


def settings_model(plugin: object) -> type[BaseModel] | None:
    """The model of the plugin's own table; None where it takes no settings."""
    model = getattr(plugin, "Settings", None) if inspect.isclass(plugin) else None
    return model if inspect.isclass(model) and issubclass(model, BaseModel) else None


def _entries(configuration: Configuration, model: BaseModel, path: tuple[str, ...]) -> Iterator[Entry]:
    data = model.model_dump(mode="json")
    for name in type(model).model_fields:
        value, below = getattr(model, name), (*path, name)
        if isinstance(value, BaseModel):
            yield from _entries(configuration, value, below)
        else:
            yield _entry(configuration, below, value, data[name])


def _entry(configuration: Configuration, path: tuple[str, ...], value: object, data: Any) -> Entry:
    text = value.human_readable() if isinstance(value, ByteSize) else _shown(data)
    key = ".".join(["loopnest", *path])
    data = json.loads(_USERINFO.sub("***@", json.dumps(data)))
    if variable := _variable(path):
        return Entry(key, data, text, "environment", variable)
    return Entry(key, data, text, "file" if _inside(configuration.table, _keys(path)) else "default")


def _shown(data: Any) -> str:
    text = "not set" if data is None else data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return _USERINFO.sub("***@", text)


def _keys(path: tuple[str, ...]) -> tuple[str, ...]:
    return (path[0].replace("-", "_"), *path[1:])


def _variable(path: tuple[str, ...]) -> str | None:
    """The environment variable that sets the value at ``path``, or a part of it, or a table that has it."""
    variables = {name.upper(): (name, text) for name, text in os.environ.items()}
    keys = _keys(path)
    whole = PREFIX + "__".join(keys).upper()
    for name in variables:
        if name == whole or name.startswith(f"{whole}__"):
            return variables[name][0]
    for length in range(len(keys) - 1, 0, -1):
        name, text = variables.get(PREFIX + "__".join(keys[:length]).upper(), ("", "null"))
        if name and _inside(json.loads(text), keys[length:]):
            return name
    return None


def _inside(table: Any, keys: tuple[str, ...]) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def _chosen(entry: Entry, settings: LoopnestSettings, configuration: Configuration) -> Entry:
    """A strategy chosen on the command line is in ``settings`` and nowhere else."""
    if entry.key != "loopnest.strategy" or settings.strategy == configured_strategy(configuration):
        return entry
    return entry._replace(source="command line", variable=None)


def configured_strategy(configuration: Configuration) -> str:
    """The strategy that the file and the environment name, valid or not."""
    named = os.environ.get(f"{PREFIX}STRATEGY") or configuration.table.get("strategy")
    return str(named or LoopnestSettings.model_fields["strategy"].default)
