"""The options that several commands share, and what the global ones were set to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer


@dataclass(frozen=True)
class Options:
    """The global options; every command finds them in ``ctx.obj``."""

    config: Path | None = None
    strategy: str | None = None
    verbosity: int = 0


#: Where the error report finds out whether the command was given ``--json``.
JSON_MARK: Final = "loopnest.json"


def _mark(ctx: typer.Context, value: bool) -> bool:
    ctx.meta[JSON_MARK] = value
    return value


ConversationId = Annotated[str, typer.Argument(metavar="CONVERSATION_ID", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", callback=_mark, help="One JSON document, for programs.")]
AsJsonLines = Annotated[bool, typer.Option("--json", callback=_mark, help="One JSON document a line, for programs.")]
ShowKeys = Annotated[bool, typer.Option("--show-keys", help="Also print session keys; they open the nested servers.")]
User = Annotated[
    str | None,
    typer.Option("--user", metavar="ID", help="Act as this user, who sees no loops of others.  [default: everyone]"),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")]


def new_app(**options: object) -> typer.Typer:
    """Return a typer app whose help is plain text: rich's takes as long to import as all the rest."""
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,  # they show local variables, and so secrets
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **options,  # type: ignore[arg-type]
    )
