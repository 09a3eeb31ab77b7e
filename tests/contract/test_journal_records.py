"""What became of loops that are gone is kept for a while, and shared by all processes of a namespace."""

from __future__ import annotations

import os
import stat
import time

import pytest
from pydantic import SecretStr

from loopnest import Loop, LoopFailed, LoopStatus, StartLoop, owner_of
from loopnest import _journal as records_module
from loopnest._journal import Records, Removed, failed
from loopnest.files import SmallFiles


def loop(conversation_id="c1", **facts):
    return Loop(conversation_id=conversation_id, status=LoopStatus.FAILED, **facts)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records", 60)


def test_nothing_is_known_at_first(records):
    assert (records.failures(None), records.failures(["c1"])) == ([], [])
    records.forget("c1")


def test_what_is_kept_is_seen_at_once_and_by_others(records, tmp_path):
    other = Records(tmp_path / "records", 60)
    for number in range(20):  # faster than the clock of directories ticks
        records.keep(loop(f"c{number}"))
        assert len(records.failures(None)) == len(other.failures(None)) == number + 1
        assert records.failures([f"c{number}"]) == other.failures([f"c{number}"]) != []


def test_what_is_forgotten_is_gone_at_once_and_for_others(records, tmp_path):
    other = Records(tmp_path / "records", 60)
    for _ in range(5):
        records.keep(loop())
        assert (
            other.failures(None) == records.failures(None) == other.failures(["c1"]) == records.failures(["c1"]) != []
        )
        other.forget("c1")
        assert (
            other.failures(None) == records.failures(None) == other.failures(["c1"]) == records.failures(["c1"]) == []
        )


def test_what_replaces_a_record_is_seen_at_once_and_by_others(records, tmp_path):
    other = Records(tmp_path / "records", 60)
    for number in range(20):
        records.keep(loop(exit_code=number))
        seen = [each.failures(asked) for each in (records, other) for asked in (None, ["c1"])]
        assert [kept.exit_code for (kept,) in seen] == [number] * 4


@pytest.fixture
def reads(monkeypatch):
    """The names of the files that are read."""
    names = []
    read = SmallFiles._load_file
    monkeypatch.setattr(SmallFiles, "_load_file", lambda files, path: names.append(path.name) or read(files, path))
    return names


def age(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_an_old_directory_is_not_read_again(records, reads):
    records.keep(loop())
    age(records._directory / "c1.json", 10)
    age(records._directory, 10)
    assert records.failures(None) == records.failures(None) == records.failures(["c1"]) != []
    assert reads == ["c1.json"]


def test_a_change_has_only_what_changed_read(records, reads):
    for number in range(20):
        records.keep(loop(f"c{number}"))
        age(records._directory / f"c{number}.json", 10)
    assert len(records.failures(None)) == len(reads) == 20
    reads.clear()
    records.keep(loop("new"))
    assert len(records.failures(None)) == 21
    assert reads == ["new.json"]


def test_looking_one_up_reads_no_other(records, reads):
    for number in range(20):
        records.keep(loop(f"c{number}"))
    assert [kept.conversation_id for kept in records.failures(["c7", "unknown"])] == ["c7"]
    assert reads == ["c7.json"]


def test_an_id_that_is_none_finds_nothing_outside(records, tmp_path):
    records.keep(loop())
    (records._directory / "c1.json").rename(tmp_path / "outside.json")
    assert records.failures(["../outside", ""]) == []


def test_removed_loops_are_found_by_their_id_only(records):
    records.keep(Removed(conversation_id="gone", owner="0123"))
    records.keep(loop("failed"))
    assert [kept.conversation_id for kept in records.failures(None)] == ["failed"]
    assert records.failures(["gone"]) == []
    assert records.get("gone") == Removed(
        conversation_id="gone", owner="0123", removed_at=records.get("gone").removed_at
    )


@pytest.mark.parametrize("asked", [None, ["c1"]])
def test_records_expire(records, asked):
    records.keep(loop())
    age(records._directory / "c1.json", 100)
    assert records.failures(asked) == []
    assert list(records._directory.iterdir()) == []


@pytest.mark.parametrize("asked", [None, ["c1"]])
def test_records_that_were_seen_expire_in_time(records, asked, monkeypatch):
    records.keep(loop())
    age(records._directory / "c1.json", 30)
    age(records._directory, 10)
    assert records.failures(asked) != []
    in_time = time.time_ns() + 31 * 10**9
    monkeypatch.setattr(records_module.time, "time_ns", lambda: in_time)
    monkeypatch.setattr(records, "_file_time", lambda: in_time)
    assert records.failures(asked) == []
    assert list(records._directory.iterdir()) == []


@pytest.mark.parametrize("asked", [None, ["c1"]])
def test_a_clock_that_is_ahead_drops_no_records(records, asked, monkeypatch):
    records.keep(loop())
    ahead = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(records_module.time, "time_ns", lambda: ahead)
    assert [kept.conversation_id for kept in records.failures(asked)] == ["c1"]


def test_keys_and_urls_are_not_kept(records):
    records.keep(loop(session_key=SecretStr("sk-1234"), url="http://127.0.0.1:1"))
    (kept,) = records.failures(None)
    assert (kept.session_key, kept.url) == (None, None)
    assert "sk-1234" not in (records._directory / "c1.json").read_text()


def test_only_this_user_may_read_them(records):
    records.keep(loop())
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (records._directory, records._directory / "c1.json")]
    assert modes == [0o700, 0o600]


def test_a_record_of_another_version_is_ignored(records, caplog):
    records.keep(loop())
    (records._directory / "c2.json").write_text('{"from": "the future"}')
    assert [kept.conversation_id for kept in records.failures(None)] == ["c1"]
    assert records.failures(["c2"]) == []
    assert "which another version may have written" in caplog.text


def test_a_disk_that_takes_no_records_costs_explanations_only(tmp_path, caplog):
    (tmp_path / "file").touch()
    records = Records(tmp_path / "file" / "records", 60)
    records.keep(loop())
    records.forget("c1")
    assert (records.failures(None), records.failures(["c1"])) == ([], [])
    assert "The record of loop c1 can't be written" in caplog.text


def test_a_failed_start_is_recorded_with_all_that_explains_it():
    error = LoopFailed("It exited.", exit_code=3, log_tail=["last words"])
    record = failed(StartLoop(conversation_id="c1", owner=owner_of("alice")), error, "docker")
    assert (record.status, record.owner, record.strategy) == (LoopStatus.FAILED, owner_of("alice"), "docker")
    assert (record.reason, record.message, record.exit_code) == ("exited-early", "It exited.", 3)
    assert record.log_tail == ("last words",)
