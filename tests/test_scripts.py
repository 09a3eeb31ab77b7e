"""The script of models that insist on outputs."""

from __future__ import annotations

import pytest

from loopnest_cli.scripted_model import Asked, Call, next_turn

from .scripts import insistent

LOST = "\n[The command completed with exit code 0.]\n[Command finished with exit code 0]"


@pytest.mark.parametrize(
    ("words", "results", "again"),
    [
        ("run: echo one", (), True),
        ("run: echo one", (LOST,), True),
        ("run: echo one", (LOST, LOST), True),
        ("run: echo one", (LOST, f"one{LOST}"), False),
        ("run: echo one", (LOST,) * 6, False),
        ("Before.\nrun: echo one\nMore of the server's.", (LOST,), True),
        ("run: echo one > file", (LOST,), False),
        ("run: true", (LOST,), False),
    ],
)
def test_a_command_is_run_again_while_its_output_is_lost(words, results, again):
    turn = next_turn(insistent, Asked(words, len(results), frozenset({"terminal", "finish"}), results))
    assert isinstance(turn, Call)
    assert turn.name == ("terminal" if again else "finish")
