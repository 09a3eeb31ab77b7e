"""A strategy whose loops are lines in a file: what the command line needs to be tried, and all its ways to fail."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from loopnest import (
    Closed,
    Delivery,
    EngineError,
    Finding,
    Loop,
    LoopChange,
    LoopFailed,
    LoopStatus,
    Phase,
    Reason,
    hookimpl,
)
from loopnest.models import utcnow


class Shelving(BaseModel, frozen=True, extra="forbid", hide_input_in_errors=True):
    """Settings of the shelf.

    Attributes:
        depth: how deep it is, in
            books.
        token: for the librarian.
    """

    depth: int = 3
    token: SecretStr | None = None
    index: str | None = None


class Shelf:
    """Runs nothing."""

    CAPABILITIES = frozenset({"image", "logs", "shared", "survives-host"})

    Settings = Shelving

    def __init__(self, settings: Shelving) -> None:
        self.settings = settings

    @hookimpl
    def open_strategy(self, context):
        self.context = context
        self.file: Path = context.state_dir / "shelf.json"
        self.file.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, dict[str, Any]]:
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def write(self, loops: dict[str, dict[str, Any]]) -> None:
        self.file.write_text(json.dumps(loops))

    def publish(self, request, phase, message=None, progress=None):
        name, owner = request.conversation_id, request.owner
        loop = Loop(conversation_id=name, owner=owner, status=LoopStatus.STARTING, message=message)
        self.context.emit(LoopChange(loop=loop, phase=phase, progress=progress))

    @hookimpl
    async def start_loop(self, request):
        self.publish(request, Phase.PULLING_IMAGE, "layer 1", 0.5)
        self.publish(request, Phase.BOOTING)
        if request.conversation_id == "slow":
            await self.hang()
        if request.conversation_id == "doomed":
            tail = ("importing", "\x1b[31mMemoryError\x1b[0m")
            raise LoopFailed("It ran out of memory.", reason=Reason.OOM_KILLED, exit_code=137, log_tail=tail)
        if request.conversation_id == "unplugged":
            raise EngineError("The engine is off.", reason=Reason.ENGINE_UNREACHABLE)
        loops, llm = self.read(), request.conversation.llm
        loops[request.conversation_id] = {
            "owner": request.owner,
            "status": "running",
            "request": json.loads(request.model_dump_json()),
            "secrets": {name: it.value.get_secret_value() for name, it in request.conversation.secrets.items()},
            "environment": {name: it.get_secret_value() for name, it in request.environment.items()},
            "api_key": llm and llm.api_key and llm.api_key.get_secret_value(),
        }
        self.write(loops)
        return self.as_loop(request.conversation_id, loops[request.conversation_id])

    async def hang(self):
        marker = self.file.with_name("hanging")
        marker.touch()
        try:
            await asyncio.Event().wait()
        finally:
            marker.unlink()

    def as_loop(self, conversation_id, kept):
        running = kept["status"] == "running"
        return Loop(
            conversation_id=conversation_id,
            owner=kept["owner"],
            status=LoopStatus(kept["status"]),
            strategy="shelf",
            dialect="shelf" if running else None,
            url="http://127.0.0.1:9" if running else None,
            session_key=SecretStr("key-of-" + conversation_id) if running else None,
            created_at=utcnow(),
        )

    @hookimpl
    def list_loops(self, query):
        loops = [self.as_loop(name, kept) for name, kept in self.read().items()]
        if query.probe:
            loops = [loop.model_copy(update={"agent_status": "idle"}) for loop in loops]
        return [loop for loop in loops if query.matches(loop)]

    @hookimpl
    def send_event(self, conversation_id, event):
        if getattr(event, "text", "") == "bug":
            raise RuntimeError("a plugin's mistake")
        return Delivery(conversation_id=conversation_id, response=event.model_dump(mode="json"))

    @hookimpl
    def close_session(self, conversation_id, remove):
        loops = self.read()
        already = loops[conversation_id]["status"] == "stopped"
        loops[conversation_id]["status"] = "stopped"
        if remove:
            del loops[conversation_id]
        self.write(loops)
        return Closed(conversation_id=conversation_id, graceful=not already, already=already, removed=remove)

    @hookimpl
    def loop_logs(self, conversation_id, tail):
        async def lines():
            for line in ["one", "\x1b]0;title\x07two", "three"][-tail:]:
                yield line

        return lines()

    @hookimpl
    def diagnose(self):
        level = "ok" if self.settings.depth > 0 else "error"
        return [Finding(check="shelf", level=level, message=f"{self.settings.depth} deep", advice="Put it up.")]


class Redact:
    """An override."""

    @hookimpl
    def send_event(self, event):
        return None
