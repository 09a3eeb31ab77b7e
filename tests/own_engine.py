"""An engine of a test's own, in namespaces of its own, for what would disturb the other users of an engine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: A mount namespace with a /run of its own, or the engine would take the pid files of the machine's for its own; and a
#: pid namespace, so that all its processes end with the first one.
_UNSHARE = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
_BOOT = """
set -e
mount -t tmpfs tmpfs /run
mount -t proc proc /proc
mkdir -p /run/lock
ip link set lo up
echo 1 >/proc/sys/net/ipv4/ip_forward
exec dockerd --data-root "$0/data" --exec-root /run/docker --pidfile /run/docker.pid -H "unix://$0/docker.sock" \\
  --cgroup-parent "/$1" >"$0/log" 2>&1 </dev/null
"""
_PATIENCE = 60.0


@dataclass
class OwnEngine:
    """A Docker engine that nothing else uses; published ports are reachable in its network namespace only."""

    directory: Path
    group: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.directory}/docker.sock"

    @property
    def daemon(self) -> int:
        """The process id of the engine itself."""
        [child] = (
            (Path("/proc") / str(self.process.pid) / "task" / str(self.process.pid) / "children").read_text().split()
        )
        return int(child)

    def shut_down(self) -> None:
        """End the engine as a shutdown of its machine does: it stops its containers."""
        os.kill(self.daemon, signal.SIGTERM)
        self.process.wait(_PATIENCE)
        _unmount_below(self.directory)

    def crash(self) -> None:
        """End the engine and all that runs on it as a loss of power does."""
        self.process.send_signal(signal.SIGKILL)  # --kill-child: the first process of the pid namespace, so all others
        self.process.wait()
        _unmount_below(self.directory)

    def boot(self) -> None:
        """Start the engine again."""
        self.process = _booted(self.directory, self.group)
        _wait_for(self)

    def run(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command in the engine's network namespace, with DOCKER_HOST set; it may fail."""
        enter = ["nsenter", f"--net=/proc/{self.daemon}/ns/net", *command]
        environment = {**os.environ, "DOCKER_HOST": self.url, **(env or {})}
        return subprocess.run(enter, env=environment, capture_output=True, text=True, timeout=120, check=False)

    def docker(self, *arguments: str) -> str:
        """Run the docker command, which must succeed; return what it prints."""
        done = self.run("docker", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def take_image(self, image: str) -> None:
        """Copy an image from the machine's engine."""
        with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
            subprocess.run(
                ["docker", "load", "--quiet"],
                stdin=saving.stdout,
                env={**os.environ, "DOCKER_HOST": self.url},
                check=True,
            )
        assert saving.returncode == 0


@contextlib.contextmanager
def own_engine(directory: Path, *options: str) -> Iterator[OwnEngine]:
    """Start an engine below ``directory``; it and its containers end with the block."""
    directory.mkdir(parents=True, exist_ok=True)
    group = f"loopnest-test-{directory.name}-{os.getpid()}"
    engine = OwnEngine(directory, group, _booted(directory, group))
    try:
        _wait_for(engine)
        yield engine
    finally:
        engine.crash()
        _remove_groups(group)


def _booted(directory: Path, group: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*_UNSHARE, "sh", "-c", _BOOT, str(directory), group], start_new_session=True)


def _wait_for(engine: OwnEngine) -> None:
    deadline = time.monotonic() + _PATIENCE
    while subprocess.run(["docker", "-H", engine.url, "version"], capture_output=True, check=False).returncode:
        log = engine.directory / "log"
        said = log.read_text()[-2000:] if log.exists() else ""
        assert engine.process.poll() is None, f"dockerd ended: {said}"
        assert time.monotonic() < deadline, f"dockerd did not answer: {said}"
        time.sleep(0.1)


def _unmount_below(directory: Path) -> None:
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in sorted((it for it in mounts if it.startswith(f"{directory}/")), reverse=True):
        subprocess.run(["umount", "-l", mount], check=False)


def _remove_groups(group: str) -> None:
    """Remove the engine's cgroups, each as soon as the last process in it is gone."""
    directories = [path for path in Path("/sys/fs/cgroup").glob(f"**/{group}/**/") if path.is_dir()]
    for directory in sorted(directories, reverse=True):
        deadline = time.monotonic() + _PATIENCE
        while (directory / "cgroup.procs").exists() and (directory / "cgroup.procs").read_text():
            assert time.monotonic() < deadline, f"processes are left in {directory}"
            time.sleep(0.05)
        directory.rmdir()
