"""What a loop's container looks like.

Hardened by default: all capabilities dropped, no new privileges, an init process, no core dumps, bounded memory,
processors, processes and logs, and the port published on the configured address only.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import SecretStr

from loopnest import StartLoop, hookspec
from loopnest_docker.image import Image
from loopnest_docker.secret_file import ENTRY_POINT
from loopnest_docker.settings import DockerSettings
from loopnest_nested.dialects import Dialect, Place


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
            secret: the host's, without which the secret variables can't be guessed from the digits.
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
            "Entrypoint": ENTRY_POINT,
            "Cmd": self.command,
            "Env": [f"{key}={value}" for key, value in self.environment.items()],
            "Labels": self.labels,
            "ExposedPorts": {f"{port}/tcp": {} for port in (self.port, *self.extra_ports)},
            **({"User": self.user} if self.user else {}),
            "HostConfig": {**self._host_config(), **self.host_config},
        }

    def _host_config(self) -> dict[str, Any]:
        ports = (self.port, *self.extra_ports)
        config: dict[str, Any] = {
            "NetworkMode": self.network,
            "PortBindings": {f"{port}/tcp": [{"HostIp": self.publish_address, "HostPort": ""}] for port in ports},
            "ExtraHosts": [f"{name}:{address}" for name, address in self.extra_hosts.items()],
            "Binds": self.binds,
            "Devices": [_device(device) for device in self.devices],
            "Init": True,
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            **self._limits(),
            **self._privileges(),
        }
        if self.runtime:
            config["Runtime"] = self.runtime
        if self.gpus:
            config["DeviceRequests"] = [{"Driver": "", "Count": self.gpus, "Capabilities": [["gpu"]]}]
        return config

    def _limits(self) -> dict[str, Any]:
        return {
            "Memory": self.memory,
            "MemorySwap": self.memory,
            "NanoCpus": int(self.cpus * 1e9),
            "PidsLimit": self.pids,
            "ShmSize": self.shm_size,
            "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        }

    def _privileges(self) -> dict[str, Any]:
        return {
            "CapDrop": ["ALL"],
            "CapAdd": self.cap_add,
            "SecurityOpt": [] if self.privilege_escalation else ["no-new-privileges"],
        }


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
    names = {"conversation_id": request.conversation_id, "owner": owner}
    return ContainerSpec(
        image=image.name,
        image_id=image.id,
        command=list(settings.command or image.command),
        port=settings.port,
        environment={**dialect.environment(place_of(settings), settings.port), **settings.environment},
        secret_environment={**settings.secret_environment, **request.environment},
        labels=dict(settings.labels),
        memory=int(settings.memory),
        cpus=settings.cpus,
        pids=settings.pids,
        shm_size=int(settings.shm_size),
        network=network,
        publish_address=settings.publish_address,
        extra_ports=list(settings.extra_ports),
        binds=[f"{m.source.format(**names)}:{m.target}{':ro' if m.read_only else ''}" for m in settings.mounts],
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


def _device(text: str) -> dict[str, str]:
    host, _, rest = text.partition(":")
    inside, _, access = rest.partition(":")
    return {"PathOnHost": host, "PathInContainer": inside or host, "CgroupPermissions": access or "rwm"}
