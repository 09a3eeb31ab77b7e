from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def until(condition, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)  # a file of another process: nothing tells when it appears


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_start_that_is_interrupted_is_undone(shelf: Path, number, code):
    site = os.pathsep.join(path for path in sys.path if path.endswith(("site", "packages")))
    environment = {**os.environ, "PYTHONPATH": site}
    program = [sys.executable, "-c", "from loopnest_cli.app import main; main()", "start", "slow"]
    process = subprocess.Popen(program, env=environment, stderr=subprocess.PIPE, text=True)
    until((shelf / "hanging").exists, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert errors.splitlines() == ["slow: requested", "slow: pulling-image", "slow: booting"]
    assert not (shelf / "hanging").exists()
