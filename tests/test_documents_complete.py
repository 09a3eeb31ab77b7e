"""Each setting, reason and command is documented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from loopnest import LoopnestSettings, Reason
from loopnest_cli.app import COMMANDS, load
from loopnest_cli.configuration import models
from loopnest_cli.example import documented, example

ROOT = Path(__file__).parents[1]
DOCS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tables(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, model
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type(BaseModel)):
            yield from tables(info.annotation, f"{path}.{name}")


TABLES = dict(tables(LoopnestSettings, "loopnest"))
for plugin, settings in models().items():
    TABLES |= dict(tables(settings, f"loopnest.{plugin}"))


@pytest.mark.parametrize("path", TABLES)
def test_every_setting_is_documented(path):
    """In the section "Attributes" of its model's docstring, from which all documentation of settings is made."""
    model = TABLES[path]
    inner = {name for name, info in model.model_fields.items() if isinstance(info.annotation, type(BaseModel))}
    assert model.model_fields.keys() - inner == documented(model).keys() - inner


def test_the_page_of_settings_is_what_the_command_prints(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    (block,) = re.findall(
        r"^```toml\n(# Configuration of loopnest.*?)^```$", DOCS["configuration.md"], re.MULTILINE | re.DOTALL
    )
    assert block == example(LoopnestSettings, models()), "put the output of 'loopnest config --example' into the page"


def test_every_reason_is_documented():
    codes = {code for name, code in vars(Reason).items() if name.isupper()}
    page = set(re.findall(r"`([a-z-]+)`", "".join(re.findall(r"^\| (`[^|]*) \|", DOCS["errors.md"], re.MULTILINE))))
    assert codes == page


def test_every_reason_in_the_source_is_one_of_the_set():
    sources = [*(ROOT / "plugin").rglob("*.py"), *(ROOT / "hookspecs").rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    assert set(re.findall(r"\breason=(?:\"|')([^\"']*)", text)) == set()  # they are written as Reason.X
    used = set(re.findall(r"\bReason\.([A-Z_]+)", text))
    assert used == {name for name in vars(Reason) if name.isupper()}


def commands() -> Iterator[str]:
    for name in COMMANDS:
        inner = getattr(load(name), "commands", None)
        yield from (f"loopnest {name} {each}" for each in inner) if inner else [f"loopnest {name}"]


@pytest.mark.parametrize("command", [*commands()])
def test_every_command_is_documented(command):
    rows = re.findall(r"^\| (`loopnest[^|]*) \|", README, re.MULTILINE)
    shown = set()
    for row in rows:
        first, *others = re.findall(r"`([^`]*)`", row)
        shown |= {first, *(f"{first.rpartition(' ')[0]} {other}" for other in others)}
    assert command in shown
