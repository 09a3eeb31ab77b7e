"""What the Docker strategy needs to work, looked at one by one, with advice for what is missing."""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any, Final

from loopnest import EngineError, Finding, Reason
from loopnest_docker import naming
from loopnest_docker.engine import Engine
from loopnest_docker.facts import read
from loopnest_docker.image import ImageStore
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import get_dialect

_OLDEST_API: Final = (1, 41)
#: The engine's word for a limit, the setting that needs it, and what happens without.
_LIMITS: Final = {
    "MemoryLimit": ("memory", "loops could use up the host's memory"),
    "CpuCfsQuota": ("cpus", "loops could use up the host's processors"),
    "PidsLimit": ("pids", "loops could use up the host's processes"),
}


async def examine(settings: DockerSettings) -> list[Finding]:
    """Return a finding for each thing that was looked at; stops early where the engine does not answer."""
    engine = Engine(settings.engine)
    try:
        version, info = await engine.call("version"), await engine.call("info")
        return [
            _engine(engine, version),
            *_limits(info),
            _restarts(info),
            await _prune(engine),
            _init(info),
            *_runtime(settings, info),
            *await _image(engine, settings),
            *_isolation(settings),
        ]
    except EngineError as error:
        return [_unreachable(engine, error)]
    finally:
        await engine.aclose()


def _unreachable(engine: Engine, error: EngineError) -> Finding:
    path = engine.url.removeprefix("unix://")
    advice = "Start the engine ('systemctl start docker'), or point DOCKER_HOST or 'loopnest.docker.engine.url' at it."
    if error.reason == Reason.ENGINE_TIMEOUT:
        advice = "The engine hangs: look at its log ('journalctl -u docker') and at the host's disk, and restart it."
    elif os.path.exists(path) and not os.access(path, os.W_OK):  # noqa: PTH110
        advice = "This user may not use the socket: add it to the group 'docker', which makes it root-equal."
    return Finding(check="engine", level="error", message=error.message, advice=advice)


def _engine(engine: Engine, version: dict[str, Any]) -> Finding:
    api = tuple(int(part) for part in str(version["ApiVersion"]).split("."))
    words = f"{version['Version']} (API {version['ApiVersion']}) at {engine.url}"
    if api < _OLDEST_API:
        return Finding(check="engine", level="error", message=words, advice="Upgrade it to 20.10 or newer.")
    return Finding(check="engine", level="ok", message=words)


def _limits(info: dict[str, Any]) -> list[Finding]:
    missing = [
        Finding(
            check="limits",
            level="error",
            message=f"The engine can't enforce '{setting}': {otherwise}.",
            advice="Mount the kernel's cgroup controllers and restart the engine ('docker info' shows warnings).",
        )
        for word, (setting, otherwise) in _LIMITS.items()
        if not info.get(word)
    ]
    return missing or [Finding(check="limits", level="ok", message="memory, cpus and pids are enforced")]


def _restarts(info: dict[str, Any]) -> Finding:
    if info.get("LiveRestoreEnabled"):
        return Finding(check="engine restart", level="ok", message="loops survive a restart of the engine")
    return Finding(
        check="engine restart",
        level="warning",
        message="A restart of the engine stops every loop.",
        advice='Set "live-restore": true in /etc/docker/daemon.json.',
    )


async def _prune(engine: Engine) -> Finding:
    """Warn of prunes while there are stopped loops, whose workspaces are in their containers.

    ``pruneFilters`` in the docker command's configuration is no cure: command 20.10 follows it, 28.2 ignores it.
    """
    filters = {"label": naming.NAMESPACE, "status": ["exited", "dead"]}
    listed = await engine.call("containers", all=True, filters=filters)
    stopped = sum(1 for container in listed if read(container))
    if not stopped:
        return Finding(check="prune", level="ok", message="no stopped loops that 'docker system prune' would remove")
    return Finding(
        check="prune",
        level="warning",
        message=f"'docker system prune' would remove the stopped loops ({stopped}) with their workspaces.",
        advice=f"Prune with --filter 'label!={naming.NAMESPACE}'.",
    )


def _init(info: dict[str, Any]) -> Finding:
    if info.get("InitBinary"):
        return Finding(check="init", level="ok", message=f"{info['InitBinary']} reaps processes in containers")
    return Finding(
        check="init", level="error", message="The engine has no init process.", advice="Install docker-init (tini)."
    )


def _runtime(settings: DockerSettings, info: dict[str, Any]) -> list[Finding]:
    known = sorted(info.get("Runtimes") or {})
    if settings.runtime is None or settings.runtime in known:
        return []
    return [
        Finding(
            check="runtime",
            level="error",
            message=f"The engine has no runtime {settings.runtime!r}; it has {', '.join(known)}.",
            advice="Register it in /etc/docker/daemon.json, or change 'loopnest.docker.runtime'.",
        )
    ]


async def _image(engine: Engine, settings: DockerSettings) -> list[Finding]:
    store = ImageStore(engine, settings)
    found = await store.find(store.default)
    if found:
        version = found.labels.get("dev.loopnest.nested-version", "of unknown version")
        fine = Finding(check="image", level="ok", message=f"{store.default} ({settings.dialect} {version})")
        return [fine, *_host(settings, version)]
    if settings.pull_policy == "never":
        advice = f"Run 'loopnest image {settings.image_source}', or change 'loopnest.docker.pull_policy'."
        return [Finding(check="image", level="error", message=f"The engine has no {store.default}.", advice=advice)]
    return [
        Finding(
            check="image",
            level="warning",
            message=f"The engine has no {store.default}: the first start will {settings.image_source} it.",
            advice=f"Run 'loopnest image {settings.image_source}' ahead.",
        )
    ]


def _host(settings: DockerSettings, nested: str) -> list[Finding]:
    """A host that speaks with the nested agent server has the same package, and means the models of its release."""
    distributions = get_dialect(settings.dialect).program.distributions
    try:
        host = importlib.metadata.version(distributions[0]) if distributions else nested
    except importlib.metadata.PackageNotFoundError:
        return []
    if host.split(".")[:2] == nested.split(".")[:2]:
        return []
    return [
        Finding(
            check="host",
            level="warning",
            message=f"The image has {distributions[0]} {nested}, but the host beside loopnest was made for {host}: "
            f"conversations may fail to start or be misread.",
            advice=f"Set 'version = \"{host}\"' in [loopnest.docker.build] and run 'loopnest image build'.",
        )
    ]


def _isolation(settings: DockerSettings) -> list[Finding]:
    """The loosenings that the settings ask for."""
    loose = {
        "host_access": settings.host_access is True,
        "privilege_escalation": settings.privilege_escalation,
        "cap_add": bool(settings.cap_add),
        "network": settings.network is not None,
        "publish_address": settings.publish_address not in {"127.0.0.1", "::1"},
    }
    if asked := [f"'{name}'" for name, is_loose in loose.items() if is_loose]:
        advice = "Make sure that it is meant; the defaults keep loops from each other and from this host."
        return [Finding(check="isolation", level="warning", message=f"Loosened by {', '.join(asked)}.", advice=advice)]
    return [Finding(check="isolation", level="ok", message="loops are kept from each other and from this host")]
