"""The real app server as a process of its own, in an interpreter that has it."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from ..processes import end, inherited

ROOT = Path(__file__).parents[2]
#: The tested versions.
VERSIONS = ("1.11.0", "1.9.3")


@dataclass
class AppServer:
    """A running server; ``http`` speaks to its ``/api/v1``."""

    http: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    def sandbox(self, sandbox_id: str, **options: object) -> dict[str, object] | None:
        (found,) = self.http.get("/sandboxes", params={"id": sandbox_id}, **options).json()  # type: ignore[arg-type]
        return found


def environment(directory: Path, **variables: str) -> dict[str, str]:
    """What the app server needs to run alone: no frontend, no network, files below ``directory``."""
    return {
        **inherited(directory),
        "OH_PERSISTENCE_DIR": str(directory / "app-server"),
        "OH_SECRET_KEY": secrets.token_hex(16),
        "SERVE_FRONTEND": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "OPENHANDS_SUPPRESS_BANNER": "1",
        "LOG_LEVEL": "WARNING",
        "OH_SANDBOX_KIND": "loopnest_openhands.SandboxServiceInjector",
        "OH_SANDBOX_SPEC_KIND": "loopnest_openhands.SandboxSpecServiceInjector",
        **variables,
    }


@contextmanager
def app_server(python: str, host: str, port: int, variables: Mapping[str, str], log: Path) -> Iterator[AppServer]:
    """Run it until the block ends, and then ask it to stop."""
    command = [python, "-m", "uvicorn", "openhands.app_server.app:app", "--host", host, "--port", str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=dict(variables), cwd=log.parent, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://{host}:{port}/api/v1", timeout=60, trust_env=False) as http:
            _await(http, process, log)
            yield AppServer(http, process, log)
    finally:
        end(process, log)


def _await(http: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        try:
            http.get(str(http.base_url.copy_with(path="/alive")))
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"The app server did not start:\n{log.read_text()[-4000:]}")
