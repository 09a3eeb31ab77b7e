"""What the Docker strategy is made of while it is open."""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import SecretStr

from loopnest.specs import HostContext
from loopnest_docker.engine import Engine
from loopnest_docker.facts import Facts
from loopnest_docker.image import ImageStore
from loopnest_docker.inventory import Inventory
from loopnest_docker.network import Network
from loopnest_docker.settings import DockerSettings
from loopnest_docker.view import View
from loopnest_nested.dialects import Dialect
from loopnest_nested.redaction import RequestSecrets


@dataclass(frozen=True)
class Parts:
    """One of each; they know nothing of each other but what they are given here."""

    settings: DockerSettings
    context: HostContext
    dialect: Dialect
    engine: Engine
    images: ImageStore
    network: Network
    inventory: Inventory
    view: View
    requested: RequestSecrets = field(default_factory=RequestSecrets, repr=False)

    def secrets(self, container: Facts) -> tuple[SecretStr, ...]:
        """The secrets of the nested server, which must not appear in its log."""
        keys = self.view.keys(container)
        requested = self.requested.of(container.loop.conversation_id)
        return (keys.session, keys.at_rest, *self.settings.secret_environment.values(), *requested)
