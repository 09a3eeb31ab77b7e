"""What scripted models do in tests, beside the demo's script."""

from __future__ import annotations

from collections.abc import Sequence

from loopnest_cli import scripted_model


def insistent(asked: scripted_model.Asked) -> Sequence[scripted_model.Turn]:
    """The demo's script, with a command run again as often as its output was lost; for commands that print something.

    Where the machine is busy, the legacy server's terminal takes the prompt before a command for the one after it: it
    returns no output, but the notes in brackets that end every output.
    """
    lost = sum(result.lstrip().startswith("[") for result in asked.results)
    turns = scripted_model.demo(asked)
    return [*turns[:1] * lost, *turns]
