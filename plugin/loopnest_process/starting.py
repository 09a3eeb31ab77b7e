"""From a record to a nested server that runs and has its conversation; or to the reason why not."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from pathlib import Path
from typing import Final

from loopnest import LoopFailed, LoopStatus, NestedError, Phase, Reason, StartLoop
from loopnest.deadline import limited
from loopnest_nested.client import NestedServer
from loopnest_nested.ending import ending
from loopnest_nested.readiness import until_alive
from loopnest_process.child import Run
from loopnest_process.logs import last_lines
from loopnest_process.parts import Parts
from loopnest_process.registry import Record
from loopnest_process.server_python import ISOLATED

_LINES: Final = 20
#: Tries with another port where somebody takes the one that was free a moment ago.
_PORTS: Final = 3


class Boot:
    """One start of one nested server for one request; ``start_timeout`` counts from here."""

    def __init__(self, parts: Parts, python: Path, request: StartLoop) -> None:
        self._parts, self._python, self._request = parts, python, request
        self._deadline = time.monotonic() + parts.settings.start_timeout
        parts.requested.keep(request)

    async def run(self, record: Record) -> Record:
        """Start the nested server, wait for it, and make sure that it has the conversation.

        Raises:
            LoopFailed: it ended, or was not ready in time.
            NestedError: it refused the conversation.
        """
        self._check_workspace(record)
        for _ in range(_PORTS):
            record = self._spawn(record)
            if await self._is_up(record):
                break
        else:
            raise self._explained(record)
        if not record.bare:
            await self._converse(record)
        return self._parts.registry.write(record.model_copy(update={"state": "running", "proven": True}))

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

    async def _is_up(self, record: Record) -> bool:
        """Wait until the nested server answers; False where its port was taken."""
        server, run = self._parts.server(record), self._run(record)

        async def alive() -> bool:
            return await self._parts.dialect.alive(server) and await asyncio.to_thread(run.listens, record.port or 0)

        async def died() -> bool:
            await run.ended()
            return True

        try:
            dead = await until_alive(alive, died(), self._left())
        except asyncio.TimeoutError as error:
            raise self._late(record, "was not ready") from error
        if not dead:
            return True
        if _port_was_taken(run):
            return False
        raise self._explained(record)

    async def _converse(self, record: Record) -> None:
        server = self._parts.server(record).hiding(self._parts.secrets(record))
        try:
            await limited(self._ensure_conversation(server, record), self._left())
        except asyncio.TimeoutError as error:
            raise self._late(record, "did not create the conversation") from error
        except NestedError:
            if not self._run(record).alive():
                raise self._explained(record) from None
            raise

    async def _ensure_conversation(self, server: NestedServer, record: Record) -> None:
        dialect, conversation_id = self._parts.dialect, record.conversation_id
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

    def _explained(self, record: Record) -> LoopFailed:
        """Why the nested server ended before it was ready."""
        closing = self._parts.registry.is_closing(record.conversation_id)
        end = ending(self._run(record).exit_code, stop_requested=closing, ready=False)
        return LoopFailed(
            end.message or "", reason=end.reason, exit_code=end.exit_code, log_tail=self._log_tail(record)
        )

    def _late(self, record: Record, what: str) -> LoopFailed:
        limit = self._parts.settings.start_timeout
        return LoopFailed(
            f"The nested server {what} within {limit:g} s ('start_timeout' in [loopnest.process]).",
            reason=Reason.START_TIMEOUT,
            log_tail=self._log_tail(record),
        )

    def _log_tail(self, record: Record) -> list[str]:
        return last_lines(self._run(record).log, _LINES, self._parts.secrets(record))

    def _run(self, record: Record) -> Run:
        run = self._parts.registry.run(record)
        assert run is not None
        return run

    def _left(self) -> float:
        return max(1.0, self._deadline - time.monotonic())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _port_was_taken(run: Run) -> bool:
    return any("address already in use" in line.lower() for line in last_lines(run.log, _LINES))
