"""Serve the legacy OpenHands server, with its action server booting beside it instead of after it.

The legacy server starts a second process, the action server, that runs the agent's commands: upstream's way is to begin
with it only when a conversation asks for it, or to wait for it before serving anything, and to look in steps of two
seconds whether it is there. Both processes spend their boot importing, so here they do that at the same time, and the
action server is handed over as one that was kept warm.
"""

import os
import socket
import subprocess
import sys
import sysconfig
import threading

PORT_OF_ACTION_SERVER = 30000


def free_port(first: int) -> int:
    for port in range(first, 65535):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
    raise SystemExit("loopnest: no port is free for the action server")


def start_action_server(port: int) -> "subprocess.Popen[bytes]":
    """Start it as LocalRuntime would, but in the agent's directory and without what only the server must know."""
    packages = sysconfig.get_path("purelib")
    environment = {
        **os.environ,
        "PYTHONPATH": packages,
        "OPENHANDS_REPO_PATH": packages,
        "LOCAL_RUNTIME_MODE": "1",
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("JWT_SECRET", None)
    workspace = os.environ["WORKSPACE_BASE"]
    os.makedirs(workspace, exist_ok=True)
    command = [sys.executable, "-u", "-m", "openhands.runtime.action_execution_server", str(port)]
    command += ["--working-dir", workspace, "--plugins", "agent_skills", "jupyter", "--no-enable-browser"]
    command += ["--username", os.environ["USER"], "--user-id", str(os.getuid())]
    return subprocess.Popen(command, env=environment, cwd=packages)


def hand_over(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Make it the warm server that the next conversation takes, unless it ended meanwhile."""
    import tenacity
    from openhands.runtime.impl.local import local_runtime

    watcher = threading.Thread(target=lambda: watch(), daemon=True)
    server = local_runtime.ActionExecutionServerInfo(
        process=process,
        execution_server_port=port,
        vscode_port=port + 1,
        app_ports=[int(os.environ.get("APP_PORT_1", 50000)), int(os.environ.get("APP_PORT_2", 55000))],
        log_thread=watcher,
        log_thread_exit_event=threading.Event(),
        temp_workspace=None,
        workspace_mount_path=os.environ["WORKSPACE_BASE"],
    )

    def watch() -> None:
        process.wait()
        if server in local_runtime._WARM_SERVERS:
            local_runtime._WARM_SERVERS.remove(server)

    local_runtime._WARM_SERVERS.append(server)
    watcher.start()
    local_runtime.LocalRuntime._wait_until_alive.retry.wait = tenacity.wait_fixed(0.05)


def main() -> None:
    port = free_port(PORT_OF_ACTION_SERVER)
    process = start_action_server(port)
    import openhands.server.__main__ as server

    hand_over(process, port)
    server.main()


if __name__ == "__main__":
    main()
