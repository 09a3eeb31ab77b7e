"""What became of loops that are gone is kept for a while, and shared by all processes of a namespace."""

from __future__ import annotations

import os
import stat
import time

import pytest
from pydantic import SecretStr

from loopnest import Loop, LoopFailed, LoopStatus, StartLoop, owner_of
from loopnest.records import REMOVED, Records, failed, removed


def loop(conversation_id="c1", **facts):
    return Loop(conversation_id=conversation_id, status=LoopStatus.FAILED, **facts)


@pytest.fixture
def records(tmp_path):
    return Records(tmp_path / "records", 60)


def test_nothing_is_known_at_first(records):
    assert records.all() == {}
    records.forget("c1")


def test_what_is_kept_is_seen_at_once_and_by_others(records, tmp_path):
    other = Records(tmp_path / "records", 60)
    for number in range(20):  # faster than the clock of directories ticks
        records.keep(loop(f"c{number}"))
        assert len(records.all()) == len(other.all()) == number + 1


def test_what_is_forgotten_is_gone_at_once_and_for_others(records, tmp_path):
    other = Records(tmp_path / "records", 60)
    for _ in range(5):
        records.keep(loop())
        assert other.all() == records.all() != {}
        other.forget("c1")
        assert other.all() == records.all() == {}


def test_an_old_directory_is_not_read_again(records, monkeypatch):
    records.keep(loop())
    long_ago = time.time() - 10
    os.utime(records._directory, (long_ago, long_ago))
    first = records.all()
    monkeypatch.setattr("loopnest.records._read", lambda path: pytest.fail("read again"))
    assert records.all() == first


def test_records_expire(records):
    records.keep(loop())
    long_ago = time.time() - 100
    os.utime(records._directory / "c1.json", (long_ago, long_ago))
    assert records.all() == {}
    assert list(records._directory.iterdir()) == []


def test_keys_and_urls_are_not_kept(records):
    records.keep(loop(session_key=SecretStr("sk-1234"), url="http://127.0.0.1:1"))
    (kept,) = records.all().values()
    assert (kept.session_key, kept.url) == (None, None)
    assert "sk-1234" not in (records._directory / "c1.json").read_text()


def test_only_this_user_may_read_them(records):
    records.keep(loop())
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (records._directory, records._directory / "c1.json")]
    assert modes == [0o700, 0o600]


def test_a_record_of_another_version_is_ignored(records, caplog):
    records.keep(loop())
    (records._directory / "c2.json").write_text('{"from": "the future"}')
    assert list(records.all()) == ["c1"]
    assert "which another version may have written" in caplog.text


def test_a_disk_that_takes_no_records_costs_explanations_only(tmp_path, caplog):
    (tmp_path / "file").touch()
    records = Records(tmp_path / "file" / "records", 60)
    records.keep(loop())
    records.forget("c1")
    assert records.all() == {}
    assert "Can't keep what became of loop c1" in caplog.text


def test_a_failed_start_is_recorded_with_all_that_explains_it():
    error = LoopFailed("It exited.", exit_code=3, log_tail=["last words"])
    record = failed(StartLoop(conversation_id="c1", user_id="alice"), error, "docker")
    assert (record.status, record.owner, record.strategy) == (LoopStatus.FAILED, owner_of("alice"), "docker")
    assert (record.reason, record.message, record.exit_code) == ("exited-early", "It exited.", 3)
    assert record.log_tail == ("last words",)


def test_a_removed_loop_is_recorded_without_its_facts():
    record = removed(loop(url="http://127.0.0.1:1", session_key=SecretStr("sk-1234"), owner="0123"))
    assert (record.phase, record.owner, record.url, record.session_key) == (REMOVED, "0123", None, None)
