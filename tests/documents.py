"""The code blocks of the documents, as their readers see them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_FENCED: Final = re.compile(
    r"^(?P<margin> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=margin)```$", re.MULTILINE | re.DOTALL
)
_PROMPT: Final = "$ "


@dataclass(frozen=True)
class Block:
    """A code block; ``line`` is where its first line stands."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def commands(self) -> list[str]:
        """Its commands: the lines behind a prompt where there are prompts, as all others are output; else all lines."""
        lines = self.text.splitlines()
        prompted = [line.removeprefix(_PROMPT) for line in lines if line.startswith(_PROMPT)]
        return prompted or lines


def blocks() -> list[Block]:
    """All blocks of the README and of the guides."""
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [block for document in documents for block in _blocks(document)]


def _blocks(document: Path) -> list[Block]:
    content, name = document.read_text(encoding="utf-8"), str(document.relative_to(ROOT))
    return [
        Block(name, content.count("\n", 0, found.start("text")) + 1, found["language"], textwrap.dedent(found["text"]))
        for found in _FENCED.finditer(content)
    ]
