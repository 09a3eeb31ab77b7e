"""The app server's sandbox service, for one request: each method is one or two calls of the `LoopManager`."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import httpx
from openhands.app_server.errors import SandboxError
from openhands.app_server.sandbox.sandbox_models import SandboxInfo, SandboxPage, SandboxRecord
from openhands.app_server.sandbox.sandbox_service import SandboxService
from openhands.app_server.sandbox.sandbox_spec_models import SandboxSpecInfo
from openhands.app_server.sandbox.sandbox_spec_service import SandboxSpecService, resolve_sandbox_spec
from pydantic import SecretStr

from loopnest import Loop, LoopChange, LoopStatus
from loopnest_openhands.app_server.loops import Loops
from loopnest_openhands.app_server.paging import page_of
from loopnest_openhands.app_server.sandboxes import FOLDER, OWNER, SPEC, Sandboxes
from loopnest_openhands.app_server.scope import Scope
from loopnest_openhands.app_server.specs import CONFIGURED

_log = logging.getLogger(__name__)


@dataclass
class LoopSandboxService(SandboxService):
    """Sandboxes as bare loops.

    Attributes:
        scope: the loops that the user may see.
        user_id: who asks; None for an administrator, and on an app server without users.
        preferred_spec: the user's, where a request names none.
        environment: more variables for every sandbox.
    """

    loops: Loops
    scope: Scope
    sandboxes: Sandboxes
    specs: SandboxSpecService
    user_id: str | None
    preferred_spec: str | None
    environment: Mapping[str, str]
    max_num_sandboxes: int

    async def search_sandboxes(self, page_id: str | None = None, limit: int = 100) -> SandboxPage:
        """List the user's sandboxes, newest first."""
        return page_of([self._info(loop) for loop in await self.scope.list()], page_id, limit)

    async def get_sandbox(self, sandbox_id: str) -> SandboxInfo | None:
        """Return one sandbox."""
        loop = await self.scope.find(sandbox_id)
        return self._info(loop) if loop else None

    async def batch_get_sandboxes(self, sandbox_ids: list[str]) -> list[SandboxInfo | None]:
        """Return these sandboxes, in one listing."""
        found = {loop.conversation_id: loop for loop in await self.scope.list(frozenset(sandbox_ids))}
        return [self._info(found[it]) if it in found else None for it in sandbox_ids]

    async def get_sandbox_by_session_api_key(self, session_api_key: str) -> SandboxInfo | None:
        """Return the running sandbox that the key opens."""
        loop = await self._opened_by(session_api_key)
        return self._info(loop) if loop else None

    async def get_sandbox_record_by_session_api_key(self, session_api_key: str) -> SandboxRecord | None:
        """Return whose running sandbox the key opens."""
        loop = await self._opened_by(session_api_key)
        return self.sandboxes.record(loop) if loop else None

    async def start_sandbox(self, sandbox_spec_id: str | None = None, sandbox_id: str | None = None) -> SandboxInfo:
        """Begin to start a sandbox; `get_sandbox` returns how the start ends."""
        spec = await resolve_sandbox_spec(sandbox_spec_id, self.preferred_spec, self.specs, _log)
        await self.pause_old_sandboxes(self.max_num_sandboxes - 1)
        notes = {SPEC: spec.id, FOLDER: spec.working_dir}
        if self.user_id:
            notes[OWNER] = self.loops.owners.seal(self.user_id)
        return self._info(await self._start(sandbox_id or uuid.uuid4().hex, self.user_id, spec, notes))

    async def resume_sandbox(self, sandbox_id: str) -> bool:
        """Begin to start a paused sandbox again."""
        loop = await self.scope.find(sandbox_id)
        if loop is None:
            return False
        if loop.status not in (LoopStatus.RUNNING, LoopStatus.STARTING):
            await self.pause_old_sandboxes(self.max_num_sandboxes - 1)
            sandbox = self._info(loop)
            spec = await self.specs.get_sandbox_spec(sandbox.sandbox_spec_id)
            await self._start(sandbox_id, sandbox.created_by_user_id, spec, loop.notes)
        return True

    async def pause_sandbox(self, sandbox_id: str) -> bool:
        """Stop a sandbox: it keeps its files and conversations, and frees its memory."""
        return await self.scope.close(sandbox_id, remove=False)

    async def delete_sandbox(self, sandbox_id: str) -> bool:
        """Remove a sandbox and its workspace."""
        return await self.scope.close(sandbox_id, remove=True)

    async def pause_old_sandboxes(self, max_num_sandboxes: int) -> list[str]:
        """Pause the oldest running sandboxes beyond ``max_num_sandboxes``; 0 pauses all, which upstream refuses."""
        running = [loop for loop in await self.scope.list() if loop.status is LoopStatus.RUNNING]
        running.sort(key=lambda loop: self._info(loop).created_at)
        surplus = [loop.conversation_id for loop in running[: max(0, len(running) - max_num_sandboxes)]]
        return [sandbox_id for sandbox_id in surplus if await self.pause_sandbox(sandbox_id)]

    async def wait_for_sandbox_running(
        self,
        sandbox_id: str,
        timeout: int = 120,
        poll_interval: int = 2,
        httpx_client: httpx.AsyncClient | None = None,
    ) -> SandboxInfo:
        """Wait for the end of the start; it is noticed at once where the start goes on in this process.

        Raises:
            SandboxError: it failed, with the reason; or it is not there, or takes too long.
        """
        async with self.loops.manager.watch() as changes:
            settled = asyncio.ensure_future(_until_settled(changes, sandbox_id))
            try:
                await self._until_started(sandbox_id, settled, timeout, poll_interval)
            finally:
                settled.cancel()
        return await super().wait_for_sandbox_running(sandbox_id, timeout, poll_interval, httpx_client)

    async def _until_started(
        self, sandbox_id: str, settled: asyncio.Future[None], timeout: float, poll_interval: float
    ) -> None:
        deadline = asyncio.get_running_loop().time() + timeout
        while (loop := await self.scope.find(sandbox_id)) and asyncio.get_running_loop().time() < deadline:
            if loop.status is LoopStatus.FAILED:
                raise SandboxError(f"Sandbox {sandbox_id} could not be started ({loop.reason}): {loop.message}")
            if loop.status is not LoopStatus.STARTING:
                return
            await asyncio.wait({settled}, timeout=poll_interval)

    async def _start(
        self, sandbox_id: str, user_id: str | None, spec: SandboxSpecInfo | None, notes: Mapping[str, str]
    ) -> Loop:
        variables = {**(spec.initial_env if spec else {}), **self.environment}
        return await self.scope.start(
            user_id,
            conversation_id=sandbox_id,
            conversation=None,
            image=spec.id if spec and spec.id != CONFIGURED else None,
            environment={name: SecretStr(value) for name, value in variables.items()},
            notes=notes,
        )

    async def _opened_by(self, key: str) -> Loop | None:
        loop = await self.loops.keys.find(key)
        return loop if loop and self.scope.has(loop) else None

    def _info(self, loop: Loop) -> SandboxInfo:
        return self.sandboxes.info(loop, self.user_id, CONFIGURED)


async def _until_settled(changes: AsyncIterator[LoopChange], sandbox_id: str) -> None:
    async for change in changes:
        if change.conversation_id == sandbox_id and change.status is not LoopStatus.STARTING:
            return
