"""The host's ``[sandbox]`` table, applied to a loop's container."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from docker.types import HostConfig

#: What containers have been able to have since long before the oldest engine that is supported.
_API: Final = "1.41"
_DEFAULT_BASE: Final = "nikolaik/python-nodejs"


def nested_store(spec: Any) -> str:
    """Where the nested server keeps its conversations."""
    return str(spec.environment["FILE_STORE_PATH"]).rstrip("/")


def apply(sandbox: Any, spec: Any) -> None:
    """Apply volumes, GPUs and ``docker_runtime_kwargs`` to a container's specification."""
    for volume in (sandbox.volumes or "").split(","):
        if volume.strip():
            spec.binds.append(_bind(volume.strip()))
    if sandbox.enable_gpu:
        spec.gpus = -1
    _apply_kwargs(dict(sandbox.docker_runtime_kwargs or {}), spec)


def docker_defaults(sandbox: Any) -> dict[str, Any]:
    """What the table says of all containers, as defaults for ``[loopnest.docker]``."""
    defaults: dict[str, Any] = {"dialect": "openhands-v0"}
    if sandbox.local_runtime_url != "http://localhost":
        defaults["url_template"] = f"{sandbox.local_runtime_url.rstrip('/')}:{{port}}"
    if sandbox.runtime_container_image:
        defaults |= {"image": sandbox.runtime_container_image, "image_source": "pull"}
    elif sandbox.base_container_image and not sandbox.base_container_image.startswith(_DEFAULT_BASE):
        defaults["build"] = {"base_image": sandbox.base_container_image}
    return defaults


def _bind(volume: str) -> str:
    """``host:container`` or ``host:container:mode``, as the engine wants it; its overlay modes are read-only."""
    parts = volume.split(":")
    mode = parts[2] if len(parts) > 2 else "rw"
    return f"{parts[0]}:{parts[1]}:{'ro' if 'overlay' in mode else mode}"


def _apply_kwargs(kwargs: dict[str, Any], spec: Any) -> None:
    """Apply the arguments of the docker SDK's ``containers.run``."""
    environment = kwargs.pop("environment", {})
    if not isinstance(environment, Mapping):
        environment = dict(line.partition("=")[::2] for line in environment)
    spec.environment |= environment
    spec.labels |= kwargs.pop("labels", {})
    spec.user = kwargs.pop("user", spec.user)
    for source, target in kwargs.pop("volumes", {}).items():
        spec.binds.append(f"{source}:{target['bind']}:{target.get('mode', 'rw')}")
    for name in ("detach", "name", "command", "entrypoint", "ports", "remove", "auto_remove"):
        kwargs.pop(name, None)  # what a loop's container is made of
    if kwargs:
        spec.host_config |= {key: value for key, value in HostConfig(_API, **kwargs).items() if _given(value)}


def _given(value: Any) -> bool:
    return value is not None and value != "default"
