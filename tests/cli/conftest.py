"""A machine on which the distribution ``shelf`` is installed and configured, without installing anything."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from loopnest_cli.app import app

PACKAGES = Path(__file__).parent / "packages"
ENTRY_POINTS = {"shelf": "shelf_loops:Shelf", "redact": "shelf_loops:Redact"}


@pytest.fixture(autouse=True)
def _nothing_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("LOOPNEST_", "LLM_")) or variable == "COLUMNS":
            monkeypatch.delenv(variable)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a distribution offer entry points, as if it were installed."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(PACKAGES)

    def add(distribution: str, entry_points: Mapping[str, str], version: str = "1.2") -> None:
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in entry_points.items()]
        (info / "entry_points.txt").write_text("\n".join(["[loopnest]", *lines]))
        monkeypatch.syspath_prepend(site)

    return add


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Write ``loopnest.toml`` into an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = tmp_path / "loopnest.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def shelf(install: Callable[..., None], configure: Callable[[str], Path], tmp_path: Path) -> Path:
    """Select the strategy ``shelf``; returns its state directory."""
    install("shelf", ENTRY_POINTS)
    configure(f'[loopnest]\nstrategy = "shelf"\nstate_dir = "{tmp_path}/state"\n')
    return tmp_path / "state" / "default"


class Cli:
    """Runs commands in this process."""

    def __call__(self, *args: str, code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, list(args), input=stdin)
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output or "-v" in args
        return result

    def json(self, *args: str, code: int = 0, stdin: str | None = None) -> Any:
        return json.loads(self(*args, "--json", code=code, stdin=stdin).stdout)


@pytest.fixture
def loopnest() -> Cli:
    return Cli()
