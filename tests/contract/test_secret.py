"""The host's secret is made once, for this user only, whoever asks first."""

from __future__ import annotations

import stat
import subprocess
import sys

import pytest
from pydantic import SecretStr

from loopnest import ConfigurationError, LoopnestSettings
from loopnest.secret import host_secret


@pytest.fixture
def settings(tmp_path):
    return LoopnestSettings(state_dir=tmp_path / "state")


def read(settings):
    return host_secret(settings).get_secret_value()


def test_a_configured_secret_is_taken_and_not_written(tmp_path):
    configured = SecretStr("a secret from the configuration")
    assert host_secret(LoopnestSettings(state_dir=tmp_path, secret=configured)) is configured
    assert list(tmp_path.iterdir()) == []


def test_a_secret_is_made_and_kept(settings):
    assert len(read(settings)) >= 43
    assert read(settings) == read(settings)


def test_each_host_has_its_own(settings, tmp_path):
    assert read(settings) != read(LoopnestSettings(state_dir=tmp_path / "other"))


def test_only_this_user_may_read_it(settings):
    read(settings)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (settings.state_dir, settings.state_dir / "secret")]
    assert modes == [0o700, 0o600]


def test_nothing_else_is_left_in_the_directory(settings):
    read(settings)
    assert [path.name for path in settings.state_dir.iterdir()] == ["secret"]


def test_processes_that_start_at_once_agree(settings):
    program = (
        "from loopnest import LoopnestSettings; from loopnest.secret import host_secret; "
        f"print(host_secret(LoopnestSettings(state_dir={str(settings.state_dir)!r})).get_secret_value())"
    )
    command = [sys.executable, "-c", program]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in running} == {read(settings)}


def test_one_that_was_cut_short_is_refused(settings):
    settings.state_dir.mkdir()
    (settings.state_dir / "secret").write_text("")
    with pytest.raises(ConfigurationError, match=r"is cut short\. Remove the file"):
        host_secret(settings)


def test_one_that_can_t_be_kept_is_explained(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match=r"can't be kept in .*file/state/secret.*set 'loopnest\.secret'"):
        host_secret(LoopnestSettings(state_dir=tmp_path / "file" / "state"))
