"""A commented ``loopnest.toml``, made from the fields and docstrings of the settings models, so that it never lies."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ByteSize
from pydantic.fields import FieldInfo

_WIDTH: Final = 100
_HEAD: Final = """\
# Configuration of loopnest. Every value is the default: uncomment what you change.
# It is read from the file that LOOPNEST_CONFIG names, else from ./loopnest.toml. Environment variables win:
# LOOPNEST_STRATEGY sets 'strategy', LOOPNEST_DOCKER__MEMORY sets 'memory' in [loopnest.docker].
"""


def example(core: type[BaseModel], plugins: Mapping[str, type[BaseModel]]) -> str:
    """Return the file, with a table for each of ``plugins``."""
    lines = [_HEAD, *_table("loopnest", core)]
    for name, model in plugins.items():
        lines += _table(f"loopnest.{name}", model)
    return "\n".join(lines).rstrip() + "\n"


def documented(model: type[BaseModel]) -> dict[str, str]:
    """What the ``Attributes:`` section of the model's docstring says of each field."""
    _, _, section = (inspect.getdoc(model) or "").partition("Attributes:\n")
    joined = re.sub(r"\n {8,}", " ", section)
    found = re.findall(r"^ {4}(\w+): (.*)$", joined, re.MULTILINE)
    return {name: _sentence(text) for name, text in found}


def _table(path: str, model: type[BaseModel]) -> Iterator[str]:
    about = (inspect.getdoc(model) or "").partition("\n\nAttributes:")[0]
    yield from _comment(_sentence(about))
    yield f"[{path}]"
    texts = documented(model)
    tables: list[tuple[str, type[BaseModel]]] = []
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type(BaseModel)):
            tables.append((name, info.annotation))
            continue
        yield from ["", *_comment(texts[name])] if name in texts else []
        yield f"# {name} = {_value(info)}"
    yield ""
    for name, inner in tables:
        yield from _table(f"{path}.{name}", inner)


def _sentence(text: str) -> str:
    """Text of a docstring as a comment in TOML, which has no None and no markup."""
    plain = text.replace("``", "'").replace("`", "'").replace("None means", "not set means")
    return plain[:1].upper() + plain[1:]


def _comment(text: str) -> Iterator[str]:
    for paragraph in filter(None, text.split("\n\n")):
        yield from (f"# {line}" for line in textwrap.wrap(" ".join(paragraph.split()), _WIDTH))


def _value(info: FieldInfo) -> str:
    if info.is_required():
        return "...  # required"
    default = info.get_default(call_default_factory=True)
    return "...  # not set" if default is None else _toml(default)


def _toml(value: Any) -> str:
    if isinstance(value, ByteSize):
        return json.dumps(value.human_readable(separator=""))
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        return json.dumps(f"~/{value.relative_to(Path.home())}")
    return json.dumps(str(value))
