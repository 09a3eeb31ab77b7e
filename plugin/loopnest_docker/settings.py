"""The ``[loopnest.docker]`` table."""

from __future__ import annotations

import ipaddress
import string
from typing import Annotated, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
)

from loopnest.validation import VariableName
from loopnest_nested.client import MAX_ANSWER

MEBIBYTE: Final = 1024 * 1024
Port = Annotated[int, Field(ge=1, le=65535)]
AbsolutePath = Annotated[str, StringConstraints(pattern=r"^/")]


class Table(BaseModel):
    """Base of the tables: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Build(Table):
    """How the image is built from the packaged Dockerfile of the dialect.

    Attributes:
        base_image: a Debian-based image with Python 3.12 or newer.
        version: of the nested server; None means the one this release of loopnest was tested with.
        args: more build arguments, such as ``CA_BUNDLE`` or ``PIP_INDEX_URL``.
        network: of the build's containers (``host`` where only the host reaches the package index).
        timeout: seconds.
    """

    base_image: str | None = None
    version: str | None = None
    args: dict[str, str] = {}
    network: str | None = None
    timeout: float = Field(default=1800, gt=0)


class Engine(Table):
    """How the engine is reached.

    Attributes:
        url: ``unix:///var/run/docker.sock``, ``tcp://...``; None means ``DOCKER_HOST``, else the local socket.
        timeout: seconds the engine may take to answer one call.
        threads: calls in flight at once, as the SDK is synchronous.
        max_age: how old the cached listing may become before everything is listed again, event stream or not.
        starts: containers being created and started at once; more than a few buys nothing on one engine.
    """

    url: str | None = None
    timeout: float = Field(default=30, gt=0)
    threads: int = Field(default=16, ge=2, le=128)
    max_age: float = Field(default=30, ge=0)
    starts: int = Field(default=4, ge=1, le=64)


class Pool(Table):
    """Containers booted ahead, so that a start takes a tenth of a second instead of seconds.

    Attributes:
        size: how many wait at any time, for all hosts of the namespace together; 0 turns the pool off.
        memory: what they may be allowed to use together; fewer wait where ``size`` times ``memory`` would exceed it.
        pause: freeze them while they wait: they use no processor time, and a start takes 10 ms longer.
        drain_after: seconds after which containers that wait for another configuration, image or secret are removed.
    """

    size: int = Field(default=0, ge=0, le=500)
    memory: ByteSize | None = None
    pause: bool = False
    drain_after: float = Field(default=60, ge=0)


class Mount(Table):
    """A bind mount (an absolute ``source``) or a named volume; both may name ``{conversation_id}`` and ``{owner}``."""

    source: str
    target: AbsolutePath
    read_only: bool = False

    @field_validator("source")
    @classmethod
    def _known_placeholders(cls, source: str) -> str:
        return _checked(source, {"conversation_id", "owner"})


def _address(text: str) -> str:
    """An IP address as the engine takes it: of a name, and of no address at all, it publishes at all addresses."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"must be an IP address, such as 127.0.0.1 or ::1, not {text!r}") from None


class DockerSettings(Table):
    """Settings of the Docker-nested strategy. Sizes are bytes or text such as ``2GiB``; times are seconds.

    Attributes:
        dialect: the kind of nested server: ``agent-server`` or ``openhands-v0``.
        image: None means the image that is built from the packaged Dockerfile.
        image_source: ``build`` from the packaged Dockerfile, or ``pull`` from a registry.
        pull_policy: pull (or build) when the image is ``missing``, ``always``, or ``never``.
        command: instead of the image's own; it is run in ``/``, and must listen on all addresses of the container.
        port: the nested server's port inside the container.
        extra_ports: further ports inside that are published, for servers that the agent starts.
        workspace: the agent's directory inside the container.
        data: the nested server's own directory inside the container: conversations, settings.
        memory: hard limit, swap included.
        cpus: how many processors the container may use.
        pids: how many processes and threads it may have.
        shm_size: of ``/dev/shm``; browsers need more than the engine's default.
        user: instead of the image's own.
        runtime: an OCI runtime the engine knows, such as ``runsc``.
        gpus: how many GPUs, -1 for all.
        devices: host devices, ``/dev/x`` or ``/dev/x:/dev/y:rwm``.
        environment: variables for every nested server, which all users of the engine can see.
        secret_environment: variables for every nested server that only its process sees.
        mounts: bind mounts and volumes.
        extra_hosts: lines for ``/etc/hosts``: name to address, or to ``host-gateway``.
        labels: more labels for every container.
        network: an existing network to use as it is; None means a bridge of our own on which loops can't reach each
            other.
        host_access: whether loops may reach services that listen on this host's addresses: False, True, or a list of
            TCP ports. Effective on a network of our own.
        blocked_networks: destinations that loops may not reach, on a network of our own: by default the link-local
            range, where clouds serve credentials.
        firewall_image: an image with ``iptables``; None means the nested server's.
        publish_address: the IP address at which nested servers' ports are published; ``0.0.0.0`` or ``::`` publish them
            at all addresses of the engine's machine.
        url_template: how the host reaches a nested server; may use ``{host}``, ``{port}`` (published) and
            ``{container_ip}``, ``{container_port}``, ``{container_name}``.
        cap_add: capabilities given back after all are dropped.
        privilege_escalation: allow set-uid programs such as sudo inside.
        start_timeout: from the container's start until the nested server has the conversation.
        close_timeout: for the agent to stop by itself, then again for the container.
        probe_timeout: for one nested server to say what it does, in listings.
        max_answer: bytes of an answer of a nested server that is not streamed; a longer one is an error.
        keep_failed: keep the container of a failed start for inspection.
        retention: remove stopped loops, with their workspaces, after this time; None keeps them.
        sweep_interval: how often retention and interrupted starts are looked after.
    """

    dialect: str = "agent-server"
    image: str | None = None
    image_source: Literal["build", "pull"] = "build"
    pull_policy: Literal["missing", "always", "never"] = "missing"
    build: Build = Build()
    engine: Engine = Engine()
    pool: Pool = Pool()

    command: tuple[str, ...] | None = None
    port: Port = 8000
    extra_ports: tuple[Port, ...] = ()
    workspace: AbsolutePath = "/workspace/project"
    data: AbsolutePath = "/workspace/.openhands"

    memory: Annotated[ByteSize, Field(ge=64 * MEBIBYTE)] = ByteSize(2048 * MEBIBYTE)
    cpus: float = Field(default=2, gt=0)
    pids: int = Field(default=1024, ge=16)
    shm_size: ByteSize = ByteSize(256 * MEBIBYTE)
    user: str | None = None
    runtime: str | None = None
    gpus: int = Field(default=0, ge=-1)
    devices: tuple[str, ...] = ()

    environment: dict[VariableName, str] = {}
    secret_environment: dict[VariableName, SecretStr] = {}
    mounts: tuple[Mount, ...] = ()
    extra_hosts: dict[str, str] = {}
    labels: dict[str, str] = {}

    network: str | None = None
    host_access: bool | tuple[Port, ...] = False
    blocked_networks: tuple[str, ...] = ("169.254.0.0/16",)
    firewall_image: str | None = None
    publish_address: Annotated[str, AfterValidator(_address)] = "127.0.0.1"
    url_template: str = "http://{host}:{port}"

    cap_add: tuple[str, ...] = ()
    privilege_escalation: bool = False

    start_timeout: float = Field(default=120, gt=0)
    close_timeout: float = Field(default=10, gt=0)
    probe_timeout: float = Field(default=2, gt=0)
    max_answer: Annotated[ByteSize, Field(ge=1024 * 1024)] = ByteSize(MAX_ANSWER)
    keep_failed: bool = False
    retention: float | None = Field(default=None, gt=0)
    sweep_interval: float = Field(default=60, gt=0)

    @field_validator("url_template")
    @classmethod
    def _known_placeholders(cls, template: str) -> str:
        return _checked(template, {"host", "port", "container_ip", "container_port", "container_name"})

    @field_validator("blocked_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(ipaddress.IPv4Network(network)) for network in networks)

    @field_validator("labels")
    @classmethod
    def _not_ours(cls, labels: dict[str, str]) -> dict[str, str]:
        if ours := [key for key in labels if key.startswith("dev.loopnest.")]:
            raise ValueError(f"labels that begin with 'dev.loopnest.' are loopnest's own: {', '.join(ours)}")
        return labels


def _checked(template: str, known: set[str]) -> str:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise ValueError(f"is not a template: {error}") from None
    if unknown := sorted(names - known):
        raise ValueError(f"has unknown placeholders {unknown}; known are {sorted(known)}")
    return template
