"""Serve the legacy OpenHands server, with its action server booting beside it instead of after it.

The legacy server has a second process, the action server, that runs the agent's commands. Upstream starts it when a
conversation asks for it, or serves nothing until it is up, and looks in steps of two seconds whether it is. Both spend
their boot importing, so here they do it at the same time, and the action server is handed over as one kept warm.
"""

import asyncio
import codecs
import os
import socket
import subprocess
import sys
import sysconfig
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

_FIRST_PORT = 30000
_BLOCK = 64 * 1024


def free_port() -> int:
    """Return a port for the action server, from the range that upstream takes it from."""
    for port in range(_FIRST_PORT, 2 * _FIRST_PORT):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise SystemExit("loopnest: no port is free for the action server")


def start_action_server(port: int) -> "subprocess.Popen[bytes]":
    """Start it as upstream's LocalRuntime would, but in the agent's directory and without a key it doesn't need."""
    packages, workspace = sysconfig.get_path("purelib"), os.environ["WORKSPACE_BASE"]
    environment = {
        **os.environ,
        "PYTHONPATH": packages,
        "OPENHANDS_REPO_PATH": packages,
        "LOCAL_RUNTIME_MODE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("JWT_SECRET", None)
    Path(workspace).mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-u", "-m", "openhands.runtime.action_execution_server", str(port)]
    command += ["--working-dir", workspace, "--plugins", "agent_skills", "jupyter", "--no-enable-browser"]
    command += ["--username", os.environ["USER"], "--user-id", str(os.getuid())]
    return subprocess.Popen(command, env=environment, cwd=packages)  # noqa: S603 - our own interpreter


def hand_over(process: "subprocess.Popen[bytes]", port: int, local_runtime: Any) -> None:
    """Make it the warm server that the first conversation takes, unless it ends before."""

    def watch() -> None:
        process.wait()
        if server in local_runtime._WARM_SERVERS:
            local_runtime._WARM_SERVERS.remove(server)

    server = local_runtime.ActionExecutionServerInfo(
        process=process,
        execution_server_port=port,
        vscode_port=port + 1,
        app_ports=[int(os.environ.get("APP_PORT_1") or 50000), int(os.environ.get("APP_PORT_2") or 55000)],
        log_thread=threading.Thread(target=watch, daemon=True),
        log_thread_exit_event=threading.Event(),
        temp_workspace=None,
        workspace_mount_path=os.environ["WORKSPACE_BASE"],
    )
    local_runtime._WARM_SERVERS.append(server)
    server.log_thread.start()


async def upload_files(
    manager: Any, sid: str, files: list[tuple[str, bytes]]
) -> tuple[list[str], list[dict[str, str]]]:
    """Store files as they are; upstream's own decodes every file as text, which mangles all others."""
    session = manager.get_agent_session(sid)
    if not session or not session.runtime:
        raise ValueError(f"Runtime not available for conversation {sid}")
    workspace, uploaded, skipped = Path(os.environ["WORKSPACE_BASE"]), list[str](), list[dict[str, str]]()
    for name, content in files:
        file = workspace / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            await asyncio.to_thread(file.write_bytes, content)
            uploaded.append(str(file))
        except OSError as error:
            skipped.append({"name": name, "reason": str(error)})
    return uploaded, skipped


def is_text(file: Path) -> bool:
    """Whether a file is text, or none that can be read, which upstream says in its own words."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        if not file.is_file():  # a device may have no end
            return True
        with file.open("rb") as opened:
            while block := opened.read(_BLOCK):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    except OSError:
        return True
    return True


def select_file(upstream: Any) -> Any:
    """Tell binary files by what is in them: upstream guesses, by a library that fails where it can't."""

    async def select(manager: Any, sid: str, file: str) -> tuple[str | None, str | None]:
        if not await asyncio.to_thread(is_text, Path(os.environ["WORKSPACE_BASE"], file)):
            return None, f"BINARY_FILE:{file}"
        selected: tuple[str | None, str | None] = await upstream(manager, sid, file)
        return selected

    return select


def mend_files(manager: Any) -> None:
    """Put ours in place of upstream's; in releases that have none, such as 1.0.0, the routes do it by themselves."""
    if hasattr(manager, "select_file"):
        manager.upload_files, manager.select_file = upload_files, select_file(manager.select_file)


def main() -> None:
    """Start the one, import the other meanwhile, and serve."""
    port = free_port()
    process = start_action_server(port)

    local_runtime: Any = import_module("openhands.runtime.impl.local.local_runtime")  # takes as long as its own boot
    server: Any = import_module("openhands.server.__main__")
    managers: Any = import_module("openhands.server.conversation_manager.standalone_conversation_manager")
    mend_files(managers.StandaloneConversationManager)
    hand_over(process, port, local_runtime)
    local_runtime.LocalRuntime._wait_until_alive.retry.wait = import_module("tenacity").wait_fixed(0.05)
    server.main()


if __name__ == "__main__":
    main()
