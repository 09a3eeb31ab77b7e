"""What is known of each loop: one small file, which all host processes of this machine share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from loopnest.files import SmallFiles
from loopnest.models import Model, utcnow
from loopnest.validation import ConversationId, is_conversation_id
from loopnest_nested.dialects import Place
from loopnest_process.child import Run

#: The states of a record in which its nested server should be alive, and has failed where it is not.
WANTED_ALIVE: Final = frozenset({"running", "paused"})


class Record(Model):
    """One loop.

    Attributes:
        state: what was wanted last: ``starting`` until the nested server has the conversation, ``running`` or
            ``paused`` from then on, also after the process died by itself, ``stopping`` and ``stopped`` once it was
            closed.
        proven: it was running once, so that there is a workspace to come back to.
        nonce: what its keys are derived from; kept for its whole life, as secrets at rest are encrypted with one.
        fingerprint: of the secret of the host that made it.
        run: the name of the current or last run of its nested server.
    """

    conversation_id: ConversationId
    owner: str
    dialect: str
    nonce: str
    fingerprint: str
    state: Literal["starting", "running", "paused", "stopping", "stopped"] = "starting"
    proven: bool = False
    bare: bool = False
    notes: Mapping[str, str] = Field(default_factory=dict)
    run: str | None = None
    port: int | None = None
    created_at: datetime = Field(default_factory=utcnow)
    changed_at: datetime = Field(default_factory=utcnow)


class Registry:
    """The records below ``directory``, each in a directory with the loop's other files.

    Args:
        workspaces: where the agents' working directories are; None means with the loops' other files.
    """

    def __init__(self, directory: Path, workspaces: Path | None = None) -> None:
        self._directory, self._workspaces = directory, workspaces
        self._files: SmallFiles[Record] = SmallFiles(directory, Record.model_validate_json, _dump, "{}/record.json")

    def all(self, conversation_ids: Iterable[str] | None = None) -> list[Record]:
        """All records, or those of ``conversation_ids`` that there are."""
        if conversation_ids is None:
            conversation_ids = self._files.ids()
        return [record for name in conversation_ids if (record := self.read(name))]

    def read(self, conversation_id: str) -> Record | None:
        """The record of a conversation; None where there is none."""
        return self._files.get(conversation_id) if is_conversation_id(conversation_id) else None

    def write(self, record: Record) -> Record:
        """Keep ``record``, now."""
        record = record.model_copy(update={"changed_at": utcnow()})
        self._files.put(record.conversation_id, record)
        return record

    def remove(self, record: Record) -> None:
        """Forget the loop, and remove its workspace and all its files."""
        self._files.drop(record.conversation_id)
        for path in (self.directory(record.conversation_id), Path(self.place(record.conversation_id).workspace)):
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)

    def mark_closing(self, conversation_id: str, closing: bool) -> None:
        """Note for the process that starts the loop that it is being closed."""
        mark = self._mark(conversation_id)
        with contextlib.suppress(FileNotFoundError):  # the loop may be going away meanwhile
            mark.touch() if closing else mark.unlink()

    def is_closing(self, conversation_id: str) -> bool:
        """Whether the loop is being closed while it is starting."""
        return self._mark(conversation_id).exists()

    def directory(self, conversation_id: str) -> Path:
        """Where the loop's files are."""
        return self._directory / conversation_id

    def place(self, conversation_id: str) -> Place:
        """The directories of the nested server."""
        own = self.directory(conversation_id)
        workspace = self._workspaces / conversation_id if self._workspaces else own / "workspace"
        return Place(workspace=str(workspace), data=str(own / "data"))

    def run(self, record: Record) -> Run | None:
        """The current or last run of the loop's nested server."""
        return Run(self.directory(record.conversation_id), record.run) if record.run else None

    def _mark(self, conversation_id: str) -> Path:
        return self.directory(conversation_id) / "closing"


def _dump(record: Record) -> bytes:
    return record.model_dump_json().encode()
