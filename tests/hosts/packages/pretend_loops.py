"""A strategy whose loops run nothing, but look to the app server as if they did."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import SecretStr

from loopnest import (
    Closed,
    Finding,
    HostContext,
    Loop,
    LoopFailed,
    LoopNotFound,
    LoopStatus,
    Reason,
    StartLoop,
    hookimpl,
)
from loopnest.models import utcnow

_DOWN = {"status": LoopStatus.STOPPED, "url": None, "session_key": None}


class Pretend:
    """Keeps what each start asked for in a file, for the test to read."""

    CAPABILITIES = frozenset({"image"})

    def __init__(self) -> None:
        self.loops: dict[str, Loop] = {}

    @hookimpl
    def open_strategy(self, context: HostContext) -> None:
        self.directory: Path = context.state_dir
        self.directory.mkdir(parents=True, exist_ok=True)

    @hookimpl
    def start_loop(self, request: StartLoop) -> Loop:
        if request.image == "missing":
            raise LoopFailed("There is no image 'missing'.", reason=Reason.IMAGE_MISSING)
        known = self.loops.get(request.conversation_id)
        asked = {"bare": request.conversation is None, "image": request.image}
        asked["environment"] = {key: value.get_secret_value() for key, value in request.environment.items()}
        (self.directory / f"{request.conversation_id}.asked").write_text(json.dumps(asked))
        self.loops[request.conversation_id] = loop = Loop(
            conversation_id=request.conversation_id,
            owner=known.owner if known else request.owner,
            status=LoopStatus.RUNNING,
            url="http://127.0.0.1:9",
            urls={8001: "http://127.0.0.1:10", 8011: "http://127.0.0.1:11"},
            session_key=SecretStr(f"key-of-{request.conversation_id}"),
            notes=known.notes if known else request.notes,
            created_at=known.created_at if known else utcnow(),
        )
        return loop

    @hookimpl
    def close_session(self, conversation_id: str, remove: bool) -> Closed:
        if conversation_id not in self.loops:
            raise LoopNotFound(conversation_id)
        if remove:
            del self.loops[conversation_id]
        else:
            self.loops[conversation_id] = self.loops[conversation_id].model_copy(update=_DOWN)
        return Closed(conversation_id=conversation_id, removed=remove)

    @hookimpl
    def list_loops(self) -> list[Loop]:
        return list(self.loops.values())

    @hookimpl
    def send_event(self) -> None:
        return None

    @hookimpl
    def diagnose(self) -> list[Finding]:
        return [Finding(check="host", level="warning", message="The image is of another host.", advice="Build it.")]
