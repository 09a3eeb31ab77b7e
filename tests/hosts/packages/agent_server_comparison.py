"""Compares the imitation of the agent server with the release that is installed here."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from agent_server_imitation import AgentServer
from pydantic import BaseModel


def differences(release: str) -> list[str]:
    """What the imitation of ``release`` has, and the installed one has not."""
    return [
        difference
        for name, module in AgentServer(release).modules.items()
        for attribute, double in vars(module).items()
        if not attribute.startswith("__")
        for difference in _of(f"{name}.{attribute}", double, getattr(importlib.import_module(name), attribute, None))
    ]


def _of(place: str, double: Any, real: Any) -> Iterator[str]:
    if inspect.isclass(double) and issubclass(double, BaseModel):
        yield from _of_fields(place, double, real)
    elif inspect.isclass(double):
        for name, method in vars(double).items():
            if not name.startswith("_"):
                yield from _of(f"{place}.{name}", method, getattr(real, name, None))
    elif callable(double):
        yield from _of_signature(place, double, real)
    elif type(double) is not type(real):
        yield f"{place} is {real!r:.80}, not {double!r:.80}"


def _of_fields(place: str, double: type[BaseModel], real: Any) -> Iterator[str]:
    for name, field in double.model_fields.items():
        other = getattr(real, "model_fields", {}).get(name)
        if other is None:
            yield f"{place} has no field {name}"
        elif other.is_required() != field.is_required():
            yield f"{place}.{name} is required of one of both only"
        elif not field.is_required():
            defaults = [it.get_default(call_default_factory=True) for it in (field, other)]
            yield from _of_values(f"{place}.{name}", *defaults)


def _of_values(place: str, double: Any, real: Any) -> Iterator[str]:
    if not isinstance(double, BaseModel):
        yield from _of(place, double, real)
        return
    for name in type(double).model_fields:
        if not hasattr(real, name):
            yield f"{place} has no field {name}"
        else:
            yield from _of_values(f"{place}.{name}", getattr(double, name), getattr(real, name))


def _of_signature(place: str, double: Any, real: Any) -> Iterator[str]:
    """Both are called in the same way: of the real one's parameters, those that the double lacks have defaults."""
    if not callable(real):
        yield f"{place} is not there"
        return
    ours, theirs = (inspect.signature(it).parameters for it in (double, real))
    for name in ours.keys() - theirs.keys():
        yield f"{place} has no parameter {name}"
    for name in theirs.keys() - ours.keys():
        if theirs[name].default is inspect.Parameter.empty:
            yield f"{place} needs {name}"
    if inspect.iscoroutinefunction(double) != inspect.iscoroutinefunction(real):
        yield f"{place} is a coroutine function in one of both only"
