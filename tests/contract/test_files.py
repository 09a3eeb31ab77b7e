"""Small files that processes share."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from loopnest.files import SmallFiles


@pytest.fixture(params=["{}.json", "{}/record.json"])
def new_files(request, tmp_path):
    """What each process has of the same directory."""

    def dump(value) -> bytes:
        return json.dumps(value).encode()

    return lambda: SmallFiles(tmp_path / "own" / "files", json.loads, dump, request.param)


def test_values_are_kept_by_their_id(new_files):
    files = new_files()
    assert (files.get("c1"), files.ids()) == (None, [])
    files.put("c1", {"a": 1})
    files.put("c2", None)
    assert (files.get("c1"), files.get("c2"), sorted(files.ids())) == ({"a": 1}, None, ["c1", "c2"])
    files.drop("c1")
    files.drop("c1")
    assert (files.get("c1"), files.ids()) == (None, ["c2"])


def test_each_process_sees_the_last_value(new_files):
    one, other = new_files(), new_files()
    for number in range(50):
        (one if number % 2 else other).put("c1", number)
        assert (one.get("c1"), other.get("c1")) == (number, number)
    one.drop("c1")
    assert other.get("c1") is None


def test_only_the_user_reads_files_and_directories(new_files):
    files = new_files()
    files.put("c1", 1)
    path = files.path("c1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(each.stat().st_mode) for each in (path.parent, files._directory)} == {0o700}


def test_a_file_of_another_version_is_ignored(new_files, caplog):
    files = new_files()
    files.put("c1", 1)
    files.path("c1").write_bytes(b"\xff")
    assert files.get("c1") is None
    assert f"Ignoring {files.path('c1')}" in caplog.text


def test_a_failed_write_keeps_the_old_value(new_files, monkeypatch):
    files = new_files()
    files.put("c1", "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.put("c1", "new")
    monkeypatch.undo()
    assert files.get("c1") == "old"
    assert [path.name for path in files.path("c1").parent.iterdir()] == [files.path("c1").name]
