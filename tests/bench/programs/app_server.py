"""DockerSandboxService of openhands-ai 1.11.0, the app server."""

from __future__ import annotations

import httpx
from openhands.app_server.sandbox.docker_sandbox_service import DockerSandboxService, ExposedPort
from openhands.app_server.sandbox.preset_sandbox_spec_service import PresetSandboxSpecService
from openhands.app_server.sandbox.sandbox_models import AGENT_SERVER
from openhands.app_server.sandbox.sandbox_spec_models import SandboxSpecInfo

import docker
from bench.programs import line


class Driver:
    """One service with its own defaults, but limits that are never met: on sandboxes, and on how long one may boot.

    By default it gives those up that take more than 15 s.
    """

    async def open(self, image: str, port: int, prefix: str, environment: dict[str, str], engine: str | None) -> None:
        spec = SandboxSpecInfo(id=image, command=None, initial_env=environment, working_dir="/workspace/project")
        self._http = httpx.AsyncClient()
        self._service = DockerSandboxService(
            sandbox_spec_service=PresetSandboxSpecService(specs=[spec]),
            container_name_prefix=prefix,
            host_port=3000,
            # Not localhost: it would be another name's address where this machine looks like a container.
            container_url_pattern="http://127.0.0.1:{port}",
            mounts=[],
            exposed_ports=[ExposedPort(name=AGENT_SERVER, description="", container_port=port)],
            health_check_path="/health",
            httpx_client=self._http,
            max_num_sandboxes=1_000_000,
            startup_grace_seconds=300,
            docker_client=docker.DockerClient(base_url=engine) if engine else docker.from_env(),
        )
        self._prefix = prefix

    async def list(self) -> int:
        return len((await self._service.search_sandboxes(limit=10_000)).items)

    async def get(self, session_key: str) -> bool:
        return await self._service.get_sandbox_by_session_api_key(session_key) is not None

    async def start(self, key: str) -> str:
        """Until it is running, as the app server waits for it before it creates the conversation."""
        await self._service.start_sandbox(sandbox_id=key)
        found = await self._service.wait_for_sandbox_running(f"{self._prefix}{key}", httpx_client=self._http)
        return str(found.status)

    async def close(self, key: str) -> bool:
        return await self._service.delete_sandbox(f"{self._prefix}{key}")


if __name__ == "__main__":
    line.run(Driver)
