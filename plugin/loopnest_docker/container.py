"""What a loop's container looks like.

Hardened by default: all capabilities dropped, no new privileges, an init process, no core dumps, bounded memory,
processors, processes and logs, and the port published on the configured address only.

What the nested server's process must know and nobody else may see is no part of the container's configuration, which
anybody who may ask the engine can read: it is copied into the container before each start as a file, which the
entry point reads and removes.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import shlex
import tarfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic import SecretStr

from loopnest import StartLoop, hookspec
from loopnest_docker.image import Image
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import Dialect, Place

_DIRECTORY: Final = "run/loopnest"
_FILE: Final = "env"
#: Reads the secret variables, and makes sure that the file is gone before the nested server runs.
_ENTRY: Final = (
    'f=/run/loopnest/env; [ -r "$f" ] || { echo "loopnest: started without its keys; start it through loopnest" >&2; '
    'exit 78; }; . "$f"; rm -f "$f"; exec "$@"'
)


@dataclass
class ContainerSpec:
    """A container to be created. Plugins may change it in ``configure_container``.

    ``host_config`` holds further keys of the Engine API's HostConfig, which win over what the other fields give.
    """

    image: str
    image_id: str
    command: list[str]
    port: int
    environment: dict[str, str]
    secret_environment: dict[str, SecretStr] = field(repr=False)
    labels: dict[str, str]
    memory: int
    cpus: float
    pids: int
    shm_size: int
    network: str
    publish_address: str
    binds: list[str]
    extra_ports: list[int] = field(default_factory=list)
    user: str | None = None
    runtime: str | None = None
    gpus: int = 0
    devices: list[str] = field(default_factory=list)
    extra_hosts: dict[str, str] = field(default_factory=dict)
    cap_add: list[str] = field(default_factory=list)
    privilege_escalation: bool = False
    host_config: dict[str, Any] = field(default_factory=dict)

    def digest(self, secret: SecretStr) -> str:
        """Tell containers apart that were made from different specifications: 12 hex digits, public.

        Args:
            secret: the host's, without which nobody can guess the secret variables from the digits.
        """
        facts = asdict(self)
        facts["secret_environment"] = {key: it.get_secret_value() for key, it in self.secret_environment.items()}
        facts["labels"] = {key: value for key, value in self.labels.items() if not key.startswith("dev.loopnest.")}
        text = json.dumps(facts, sort_keys=True, default=str)
        return hmac.new(secret.get_secret_value().encode(), text.encode(), hashlib.sha256).hexdigest()[:12]

    def body(self) -> dict[str, Any]:
        """The body of the Engine API's create call."""
        return {
            "Image": self.image,
            "Entrypoint": ["/bin/sh", "-c", _ENTRY, "loopnest"],
            "Cmd": self.command,
            "Env": [f"{key}={value}" for key, value in self.environment.items()],
            "Labels": self.labels,
            "ExposedPorts": {f"{port}/tcp": {} for port in (self.port, *self.extra_ports)},
            **({"User": self.user} if self.user else {}),
            "HostConfig": {**self._host_config(), **self.host_config},
        }

    def _host_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "NetworkMode": self.network,
            "PortBindings": {
                f"{port}/tcp": [{"HostIp": self.publish_address, "HostPort": ""}]
                for port in (self.port, *self.extra_ports)
            },
            "Binds": self.binds,
            "Memory": self.memory,
            "MemorySwap": self.memory,
            "NanoCpus": int(self.cpus * 1e9),
            "PidsLimit": self.pids,
            "ShmSize": self.shm_size,
            "CapDrop": ["ALL"],
            "CapAdd": self.cap_add,
            "SecurityOpt": [] if self.privilege_escalation else ["no-new-privileges"],
            "Init": True,
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            "ExtraHosts": [f"{name}:{address}" for name, address in self.extra_hosts.items()],
            "Devices": [_device(device) for device in self.devices],
        }
        if self.runtime:
            config["Runtime"] = self.runtime
        if self.gpus:
            config["DeviceRequests"] = [{"Driver": "", "Count": self.gpus, "Capabilities": [["gpu"]]}]
        return config


class Specs:
    """Hooks that the Docker strategy specifies itself."""

    @hookspec
    async def configure_container(self, request: StartLoop, spec: ContainerSpec) -> None:
        """Change a loop's container before it is created.

        Called on every plugin, last registered first. A container's facts are fixed once it exists: a stopped loop
        that is started again keeps them.

        Example::

            @hookimpl
            def configure_container(request, spec):
                if request.tags.get("size") == "large":
                    spec.memory, spec.cpus = 8 * 2**30, 4
        """


def new_spec(
    settings: DockerSettings, dialect: Dialect, request: StartLoop, *, image: Image, network: str, owner: str
) -> ContainerSpec:
    """Return the container that ``settings`` and ``request`` ask for; labels and keys come with its creation."""
    place = place_of(settings)
    values = {"conversation_id": request.conversation_id, "owner": owner}
    return ContainerSpec(
        image=image.name,
        image_id=image.id,
        command=list(settings.command or image.command),
        port=settings.port,
        environment={**dialect.environment(place, settings.port), **settings.environment},
        secret_environment={**settings.secret_environment, **request.environment},
        labels=dict(settings.labels),
        memory=int(settings.memory),
        cpus=settings.cpus,
        pids=settings.pids,
        shm_size=int(settings.shm_size),
        network=network,
        publish_address=settings.publish_address,
        extra_ports=list(settings.extra_ports),
        binds=[f"{m.source.format(**values)}:{m.target}{':ro' if m.read_only else ''}" for m in settings.mounts],
        user=settings.user,
        runtime=settings.runtime,
        gpus=settings.gpus,
        devices=list(settings.devices),
        extra_hosts=dict(settings.extra_hosts),
        cap_add=list(settings.cap_add),
        privilege_escalation=settings.privilege_escalation,
    )


def place_of(settings: DockerSettings) -> Place:
    """Where a nested server keeps its files inside its container."""
    return Place(workspace=settings.workspace, data=settings.data)


def secret_archive(variables: Mapping[str, SecretStr]) -> bytes:
    """The file of secret variables as a tar archive, to be unpacked at the container's root.

    Any user may read and remove it, as the image's user is not known here; it is gone before anything else runs.
    """
    lines = [f"export {name}={shlex.quote(value.get_secret_value())}\n" for name, value in variables.items()]
    content = "".join(lines).encode()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        directory = tarfile.TarInfo(_DIRECTORY)
        directory.type, directory.mode = tarfile.DIRTYPE, 0o777
        tar.addfile(directory)
        file = tarfile.TarInfo(f"{_DIRECTORY}/{_FILE}")
        file.size, file.mode = len(content), 0o444
        tar.addfile(file, io.BytesIO(content))
    return archive.getvalue()


def _device(text: str) -> dict[str, str]:
    host, _, rest = text.partition(":")
    inside, _, access = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": access or "rwm"}
