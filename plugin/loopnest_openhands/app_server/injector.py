"""What the app server loads: ``OH_SANDBOX_KIND=loopnest_openhands.SandboxServiceInjector``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from openhands.app_server.sandbox.sandbox_models import VSCODE, WORKER_1, WORKER_2
from openhands.app_server.sandbox.sandbox_service import (
    ALLOW_CORS_ORIGINS_VARIABLE,
    WEBHOOK_CALLBACK_VARIABLE,
    SandboxService,
)
from openhands.app_server.sandbox.sandbox_service import SandboxServiceInjector as _SandboxServiceInjector
from openhands.app_server.services.injector import InjectorState
from pydantic import Field, PrivateAttr

from loopnest import LoopManager
from loopnest_openhands.app_server.loops import Loops
from loopnest_openhands.app_server.sandboxes import Sandboxes
from loopnest_openhands.app_server.scope import Scope
from loopnest_openhands.app_server.service import LoopSandboxService


class SandboxServiceInjector(_SandboxServiceInjector):
    """Makes a sandbox service for each request, all on one `LoopManager`.

    Its fields are set by ``OH_SANDBOX_<FIELD>``; those that upstream's Docker service has too mean the same. How loops
    run is loopnest's own configuration (see `loopnest.settings`), which is validated when the app server starts.

    Raises:
        ConfigurationError: the app server must not start.
    """

    config: str | None = Field(
        default=None, description="Path of loopnest's configuration file; without it LOOPNEST_CONFIG, or loopnest.toml."
    )
    strategy: str | None = Field(default=None, description="Name of the strategy, instead of the configured one.")
    host_name: str = Field(
        default="host.docker.internal", description="The name or address by which sandboxes reach this app server."
    )
    host_port: int = Field(default=3000, description="The port on which this app server listens.")
    max_num_sandboxes: int = Field(
        default=5, description="Running sandboxes that a user may have; a further one pauses the oldest."
    )
    exposed_ports: dict[str, int] = Field(
        default={VSCODE: 8001, WORKER_1: 8011, WORKER_2: 8012},
        description="What ports inside a sandbox are called. Those that the strategy makes reachable are shown.",
    )
    _loops: Loops = PrivateAttr()

    def model_post_init(self, context: Any, /) -> None:
        """Read loopnest's configuration, so that a wrong one stops the app server while it starts."""
        super().model_post_init(context)
        self._loops = Loops(LoopManager.from_config(self.config, strategy=self.strategy))

    async def inject(
        self,
        state: InjectorState,
        request: Request | None = None,
    ) -> AsyncGenerator[SandboxService, None]:
        """Make the service for one request, in the name of its user."""
        from openhands.app_server.config import (  # noqa: PLC0415 - it imports this module
            get_global_config,
            get_sandbox_spec_service,
            get_user_context,
        )

        await self._loops.ready()
        config = get_global_config()
        async with (
            get_user_context(state, request) as user_context,
            get_sandbox_spec_service(state, request) as specs,
        ):
            user_id = await user_context.get_user_id()
            yield LoopSandboxService(
                loops=self._loops,
                scope=Scope(self._loops.manager, user_id),
                sandboxes=Sandboxes(self._loops.owners, self.exposed_ports),
                specs=specs,
                user_id=user_id,
                preferred_spec=await user_context.get_default_sandbox_spec_id(),
                environment=self._environment([config.web_url, *config.permitted_cors_origins]),
                max_num_sandboxes=self.max_num_sandboxes,
            )

    def _environment(self, origins: list[str | None]) -> dict[str, str]:
        """What every sandbox's agent server must know: where to send events, which browsers may talk to it, and which
        ports are for the agent's own servers."""
        cors = ALLOW_CORS_ORIGINS_VARIABLE.removesuffix("0")
        allowed = dict.fromkeys(origin for origin in origins if origin)
        return {
            WEBHOOK_CALLBACK_VARIABLE: f"http://{self.host_name}:{self.host_port}/api/v1/webhooks",
            **{f"{cors}{index}": origin for index, origin in enumerate(allowed)},
            **{name: str(port) for name, port in self.exposed_ports.items()},
        }
