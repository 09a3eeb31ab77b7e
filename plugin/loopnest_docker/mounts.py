"""The host directories that a stopped container needs before it starts again."""

from __future__ import annotations

from typing import Any

from loopnest import EngineError, LoopFailed, Reason
from loopnest_docker.facts import Facts
from loopnest_docker.helpers import Helpers
from loopnest_docker.parts import Parts


async def check_mounts(parts: Parts, container: Facts) -> None:
    """Check that the sources of the container's bind mounts exist on the engine's machine.

    The engine would create a missing one, empty and owned by root, and the agent would find its work gone. Only the
    engine can look, as this process may run elsewhere: it refuses to create a container whose mounts (unlike binds)
    have no source.

    Raises:
        LoopFailed: ``mount-missing``.
        NotOnEngine: the container is gone.
    """
    found: dict[str, Any] = await parts.engine.call("inspect_container", container.id)
    sources = [mount["Source"] for mount in found["Mounts"] if mount["Type"] == "bind"]
    if not sources:
        return
    mounts = [
        {"Type": "bind", "Source": source, "Target": f"/mounts/{number}", "ReadOnly": True}
        for number, source in enumerate(sources)
    ]
    # The command is never run; the engine refuses to create a container without one.
    body = {"Image": found["Image"], "Cmd": ["mounts"], "HostConfig": {"Mounts": mounts, "NetworkMode": "none"}}
    try:
        await Helpers(parts.engine, parts.context.namespace).create(body)
    except EngineError as error:
        if "bind source path does not exist" not in error.message:
            raise
        raise LoopFailed(
            f"A directory that the loop's container mounts is gone from the engine's machine. {error.message} Bring it "
            f"back, then start the loop again.",
            reason=Reason.MOUNT_MISSING,
        ) from error
