"""From a record to a nested server that runs and has its conversation; or to the reason why not."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from loopnest import LoopFailed, LoopStatus, Phase, Reason, StartLoop
from loopnest_nested.boot import Boot
from loopnest_nested.ending import ending
from loopnest_process.child import Run
from loopnest_process.logs import last_lines
from loopnest_process.parts import Parts
from loopnest_process.registry import Record
from loopnest_process.server_python import ISOLATED

_LINES: Final = 20
#: Tries with another port where another program takes the one that was free a moment ago.
_PORTS: Final = 3


class ProcessUnit:
    """One run of a nested server as its boot sees it (a `loopnest_nested.boot.Unit`)."""

    def __init__(self, parts: Parts, record: Record, run: Run) -> None:
        self._parts, self._record, self.run = parts, record, run

    async def alive(self) -> bool:
        """Whether the nested server answers, and not another program that took its port."""
        if not await self._parts.dialect.alive(self._parts.server(self._record)):
            return False
        return await asyncio.to_thread(self.run.listens, self._record.port or 0)

    async def until_ended(self) -> None:
        """Return once the process has ended."""
        await self.run.ended()

    async def has_ended(self) -> bool:
        """Whether the process has ended."""
        return not self.run.alive()

    async def why_ended(self) -> LoopFailed:
        """Read how the process ended."""
        closing = self._parts.registry.is_closing(self._record.conversation_id)
        end = ending(self.run.exit_code, stop_requested=closing, ready=False)
        log_tail = await self.log_tail()
        return LoopFailed(end.message or "", reason=end.reason, exit_code=end.exit_code, log_tail=log_tail)

    async def log_tail(self) -> Sequence[str]:
        """The last lines that the nested server printed."""
        return last_lines(self.run.log, _LINES, self._parts.secrets(self._record))

    def port_was_taken(self) -> bool:
        """Whether the nested server ended because another program had its port."""
        return any("address already in use" in line.lower() for line in last_lines(self.run.log, _LINES))


class ProcessBoot:
    """One start of one nested server for one request; ``start_timeout`` counts from here."""

    def __init__(self, parts: Parts, python: Path, request: StartLoop) -> None:
        self._parts, self._python, self._request = parts, python, request
        self._began = time.monotonic()
        parts.requested.keep(request)

    async def run(self, record: Record) -> Record:
        """Start the nested server, wait for it, and make sure that it has the conversation.

        Raises:
            LoopFailed: it ended, or was not ready in time.
            NestedError: it refused the conversation.
        """
        self._check_workspace(record)
        boot, record = await self._until_alive(record)
        if not record.bare:
            await boot.until_created(self._ensure_conversation(record))
        return self._parts.registry.write(record.model_copy(update={"state": "running", "proven": True}))

    async def _until_alive(self, record: Record) -> tuple[Boot, Record]:
        """Spawn the nested server until it has a port."""
        for attempts_left in reversed(range(_PORTS)):
            record = self._spawn(record)
            unit = ProcessUnit(self._parts, record, self._run(record))
            limit = self._parts.settings.start_timeout
            boot = Boot(unit, limit, "loopnest.process.start_timeout", began=self._began)
            try:
                await boot.until_alive()
                break
            except LoopFailed:
                if not (attempts_left and unit.port_was_taken()):
                    raise
        return boot, record

    def _spawn(self, record: Record) -> Record:
        """Write down what is about to run before it does, so that no process is ever without its record."""
        if previous := self._parts.registry.run(record):
            previous.forget()
        update = {"state": "starting", "run": secrets.token_hex(8), "port": _free_port()}
        record = self._parts.registry.write(record.model_copy(update=update))
        run, place = self._run(record), self._parts.registry.place(record.conversation_id)
        for directory in (place.workspace, place.data, run.cwd):
            Path(directory).mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [str(self._python), *ISOLATED, *self._parts.dialect.command("127.0.0.1", record.port or 0)]
        run.spawn(command, self._environment(record), str(run.cwd))
        self._parts.publish(record.conversation_id, record.owner, Phase.BOOTING, LoopStatus.STARTING)
        return record

    def _environment(self, record: Record) -> dict[str, str]:
        settings, dialect = self._parts.settings, self._parts.dialect
        place = self._parts.registry.place(record.conversation_id)
        secret = {
            **settings.secret_environment,
            **self._request.environment,
            **dialect.secret_environment(self._parts.keys(record)),
        }
        return {
            **{name: os.environ[name] for name in settings.inherit if name in os.environ},
            **dialect.environment(place, record.port or 0),
            **settings.environment,
            **{name: value.get_secret_value() for name, value in secret.items()},
        }

    async def _ensure_conversation(self, record: Record) -> None:
        dialect, conversation_id = self._parts.dialect, record.conversation_id
        server = self._parts.server(record).hiding(self._parts.secrets(record))
        place = self._parts.registry.place(conversation_id)
        if record.proven and not await dialect.has_conversation(server, conversation_id):
            raise LoopFailed(
                f"The nested server no longer has the conversation that it once had: its files in "
                f"{dialect.store(place, conversation_id)} are damaged or gone, as after a full disk. Nothing was "
                f"removed. Copy what you need out of {place.workspace}, then close the loop with 'remove' and start it "
                f"again.",
                reason=Reason.HISTORY_LOST,
            )
        await dialect.ensure_conversation(server, self._request, place)

    def _check_workspace(self, record: Record) -> None:
        """Refuse to give a loop that ran before an empty workspace, as where a disk is not mounted."""
        workspace = self._parts.registry.place(record.conversation_id).workspace
        if record.proven and not Path(workspace).is_dir():
            raise LoopFailed(
                f"The workspace of the loop, {workspace}, is gone. Bring it back (is its disk mounted?), then start "
                f"the loop again; or close the loop with 'remove' to start afresh.",
                reason=Reason.MOUNT_MISSING,
            )

    def _run(self, record: Record) -> Run:
        run = self._parts.registry.run(record)
        assert run is not None
        return run


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
