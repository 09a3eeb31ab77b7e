"""The network of our loops, and what it keeps them from.

A bridge on which containers can't reach each other. Every bridge has an address on the host, through which containers
reach whatever listens on all of the host's addresses: rules on the host close that door. They are set by a short-lived
container with the host's network and the one capability it takes, so that it works where the host process may not
touch the firewall, or runs on another machine than the engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from typing import Any

from loopnest import EngineError, LoopFailed, Reason
from loopnest_docker import naming
from loopnest_docker.engine import Engine, EngineConflict, NotOnEngine
from loopnest_docker.helpers import Helpers
from loopnest_docker.settings import DockerSettings


class Network:
    """Makes sure that the network exists and is closed; each at most once for each process, when first needed."""

    def __init__(self, engine: Engine, settings: DockerSettings, namespace: str) -> None:
        self._engine, self._settings, self._namespace = engine, settings, namespace
        self._helpers = Helpers(engine, namespace)
        self._lock = asyncio.Lock()
        self._known = False
        self._closed: asyncio.Task[None] | None = None

    @property
    def ours(self) -> bool:
        """Whether we manage the network, or use one that was there."""
        return self._settings.network is None

    @property
    def name(self) -> str:
        """The network's name on the engine."""
        return self._settings.network or naming.network_name(self._namespace)

    async def ensure(self) -> str:
        """Make sure that the network exists, and return its name."""
        async with self._lock:
            if self.ours and not self._known:
                await self._find_or_create()
                self._known = True
        return self.name

    async def reattach(self, container_id: str) -> None:
        """Attach a stopped container to the network that has our name now.

        A container refers to its network by an id. Once that network was removed (``docker network prune``, a reset of
        the engine), the engine refuses to start the container, also when a network of the same name exists again.

        Raises:
            EngineError: the network can't be created, or the engine refuses.
        """
        self.forget()
        name = await self.ensure()
        with contextlib.suppress(EngineError):  # the engine may have dropped the old network already
            await self._engine.call("disconnect_container_from_network", container_id, name, force=True)
        await self._engine.call("connect_container_to_network", container_id, name)

    async def ensure_closed(self, image: str) -> None:
        """Set the rules that keep loops from the host's services, unless the settings open everything.

        Args:
            image: has ``iptables``.

        Raises:
            LoopFailed: ``isolation-failed``; a loop without the isolation that was asked for must not run.
        """
        if not self.ours:
            return
        if self._closed is None or (self._closed.done() and self._closed.exception()):
            self._closed = asyncio.ensure_future(self._apply(image))
        await asyncio.shield(self._closed)  # all starts share it, and one that is cancelled doesn't end it

    async def aclose(self) -> None:
        """Let what goes on end, so that nothing is left of it."""
        if self._closed:
            await asyncio.gather(self._closed, return_exceptions=True)

    def forget(self) -> None:
        """Look again when next needed: the engine was restarted, or the network is gone."""
        self._known, self._closed = False, None

    async def remove(self, image: str) -> None:
        """Remove the network and its rules, once no container of the namespace is left; for hosts that clean up.

        Args:
            image: has ``iptables``.
        """
        if self.ours:
            self.forget()
            with contextlib.suppress(NotOnEngine):
                await self._engine.call("remove_network", self.name)
            await self._helpers.run(self._helper(removal(naming.bridge_name(self._namespace)), image))
            await self._helpers.remove_old(age=0)

    async def gateway(self) -> str:
        """The address under which loops see this host."""
        await self.ensure()
        network = await self._engine.call("inspect_network", self.name)
        return str(network["IPAM"]["Config"][0]["Gateway"])

    async def _find_or_create(self) -> None:
        try:
            await self._engine.call("inspect_network", self.name)
        except NotOnEngine:
            await self._create()

    async def _create(self) -> None:
        options = {
            "com.docker.network.bridge.enable_icc": "false",
            # A known bridge name is what the rules need, and makes two networks of one name impossible.
            "com.docker.network.bridge.name": naming.bridge_name(self._namespace),
        }
        labels = {naming.NAMESPACE: self._namespace, naming.SCHEMA: "1"}
        try:
            await self._engine.call(
                "create_network", self.name, driver="bridge", options=options, labels=labels, check_duplicate=True
            )
        except (EngineConflict, EngineError):
            await self._engine.call("inspect_network", self.name)  # another process was faster, or the error stands

    async def _apply(self, image: str) -> None:
        script = _rules(naming.bridge_name(self._namespace), self._settings)
        try:
            await self._helpers.remove_old()
            exit_code, output = await self._helpers.run(self._helper(script, image))
        except NotOnEngine as error:
            exit_code, output = -1, error.message
        wanted = self._settings.host_access is not True or self._settings.blocked_networks
        if exit_code != 0 and wanted:
            raise LoopFailed(
                f"Loops can't be kept from this host's services: the firewall container ended with {exit_code}: "
                f"{output.strip()[-300:]}. Use a 'firewall_image' that has iptables, or accept the risk with "
                f"'host_access = true' and 'blocked_networks = []' in [loopnest.docker].",
                reason=Reason.ISOLATION_FAILED,
            )

    def _helper(self, script: str, image: str) -> dict[str, Any]:
        """A container that runs ``script`` in the host's network, and may change nothing but that."""
        return {
            "Image": self._settings.firewall_image or image,
            "Entrypoint": ["/bin/sh", "-c", script],
            "Cmd": [],
            "User": "0",
            "HostConfig": {
                "NetworkMode": "host",
                "CapDrop": ["ALL"],
                "CapAdd": ["NET_ADMIN", "NET_RAW"],
                "SecurityOpt": ["no-new-privileges"],
            },
        }


def _rules(bridge: str, settings: DockerSettings) -> str:
    """A shell script that puts the rules of ``bridge`` in place, whatever was there.

    Chains of our own are replaced as a whole, so that there is no moment without rules; jumps into them are added
    where they are missing.
    """
    accept = [f"-p tcp --dport {port} -j RETURN" for port in _open_ports(settings)]
    close = [] if settings.host_access is True else ["-m conntrack --ctstate NEW -j DROP"]
    blocked = [f"-d {ipaddress.ip_network(network)} -j DROP" for network in settings.blocked_networks]
    chains = {"INPUT": (f"{bridge}-in", [*accept, *close]), "DOCKER-USER": (f"{bridge}-fwd", blocked)}
    table = ["*filter"]
    for chain, rules in chains.values():
        table += [f":{chain} - [0:0]", *(f"-A {chain} {rule}" for rule in rules)]
    lines = ["set -e", "iptables-restore -w 10 --noflush <<'RULES'", *table, "COMMIT", "RULES"]
    for parent, (chain, _) in chains.items():
        jump = f"{parent} -i {bridge} -j {chain}"
        lines.append(f"iptables -w 10 -C {jump} 2>/dev/null || iptables -w 10 -I {jump}")
    return "\n".join(lines)


def removal(bridge: str) -> str:
    """A shell script that removes the rules of ``bridge``, whether they are there or not."""
    lines = []
    for parent, suffix in (("INPUT", "in"), ("DOCKER-USER", "fwd")):
        chain = f"{bridge}-{suffix}"
        lines.append(f"iptables -w 10 -D {parent} -i {bridge} -j {chain} 2>/dev/null")
        lines.append(f"iptables -w 10 -F {chain} 2>/dev/null && iptables -w 10 -X {chain}")
    return "\n".join([*lines, "true"])


def _open_ports(settings: DockerSettings) -> tuple[int, ...]:
    return () if isinstance(settings.host_access, bool) else settings.host_access
