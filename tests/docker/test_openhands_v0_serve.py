"""The program that the image of the legacy server runs, as far as it needs no legacy server."""

from __future__ import annotations

import importlib.util
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import loopnest_nested

MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    path = Path(loopnest_nested.__file__).parent / "dialects" / "openhands_v0" / "image-context" / "serve.py"
    spec = importlib.util.spec_from_file_location("openhands_v0_serve", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", True),
        ("plain, and ünïcode".encode(), True),
        (b"\x89PNG\r\n", False),
        ("cut short: ü".encode()[:-1], False),
        (b"x" * (64 * 1024 - 1) + "ü".encode(), True),
        (b"x" * 200_000 + b"\xff", False),
    ],
)
def test_text_is_told_by_all_that_is_in_a_file(serve, tmp_path, content, text):
    file = tmp_path / "file"
    file.write_bytes(content)
    assert serve.is_text(file) is text


def test_what_upstream_shall_say_in_its_own_words_counts_as_text(serve, tmp_path):
    assert serve.is_text(tmp_path / "missing")
    assert serve.is_text(tmp_path)
    assert serve.is_text(Path("/dev/zero"))  # which has no end


@pytest.mark.parametrize("first", [b"x", b"\xff"])
def test_a_large_file_takes_no_memory(serve, tmp_path, first):
    file = tmp_path / "large"
    with file.open("wb") as opened:
        opened.write(first)
        opened.truncate(64 * MEBIBYTE)
    tracemalloc.start()
    serve.is_text(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEBIBYTE


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
