"""Sandbox specs that leave the image to loopnest's own configuration."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from fastapi import Request
from openhands.app_server.sandbox.preset_sandbox_spec_service import PresetSandboxSpecService
from openhands.app_server.sandbox.sandbox_spec_models import SandboxSpecInfo
from openhands.app_server.sandbox.sandbox_spec_service import (
    SandboxSpecService,
    get_agent_server_env,
)
from openhands.app_server.sandbox.sandbox_spec_service import (
    SandboxSpecServiceInjector as _SandboxSpecServiceInjector,
)
from openhands.app_server.services.injector import InjectorState
from pydantic import Field

#: The spec that says nothing about the image. The id of any other spec is the image's name.
CONFIGURED: Final = "loopnest"


def _configured() -> list[SandboxSpecInfo]:
    spec = SandboxSpecInfo(
        id=CONFIGURED, command=None, initial_env=get_agent_server_env(), working_dir="/workspace/project"
    )
    return [spec]


class SandboxSpecServiceInjector(_SandboxSpecServiceInjector):
    """``OH_SANDBOX_SPEC_KIND=loopnest_openhands.SandboxSpecServiceInjector``."""

    specs: list[SandboxSpecInfo] = Field(
        default_factory=_configured,
        description="The specs on offer; the first is the default. An id other than 'loopnest' is an image's name.",
    )

    async def inject(
        self,
        state: InjectorState,  # noqa: ARG002 - as the app server calls it
        request: Request | None = None,  # noqa: ARG002
    ) -> AsyncGenerator[SandboxSpecService, None]:
        """Offer the specs; nothing is pulled here."""
        yield PresetSandboxSpecService(specs=self.specs)
