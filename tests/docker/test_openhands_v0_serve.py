"""The program that the image of the legacy server runs, as far as it needs no legacy server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import loopnest_docker


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    path = Path(loopnest_docker.__file__).parent / "images" / "openhands-v0" / "serve.py"
    spec = importlib.util.spec_from_file_location("openhands_v0_serve", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_binary_files_never_reach_upstream_s_guess(serve, tmp_path, monkeypatch):
    class Manager:
        async def select_file(self, sid: str, file: str) -> tuple[str | None, str | None]:
            return f"upstream read {file}", None

        upload_files: Any = None

    monkeypatch.setenv("WORKSPACE_BASE", str(tmp_path))
    (tmp_path / "text").write_text("text")
    (tmp_path / "binary").write_bytes(b"\xff")
    serve.mend_files(Manager)
    assert Manager.upload_files is serve.upload_files
    assert await Manager().select_file("c", "text") == ("upstream read text", None)
    assert await Manager().select_file("c", "binary") == (None, "BINARY_FILE:binary")


def test_a_release_whose_manager_has_nothing_to_do_with_files_is_left_alone(serve):
    class Manager:
        """As of 1.0.0."""

    serve.mend_files(Manager)
    assert not hasattr(Manager, "upload_files")
