"""The pieces of a log in an answer of the engine; tests/e2e/test_docker_failures.py reads real ones."""

from __future__ import annotations

import pytest

from loopnest_docker.logs import _output


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 1000])
def test_pieces_may_be_cut_anywhere(size):
    pieces = [b"one\n", b"", b"x" * 300, b"\n", b"last"]
    answer = b"".join(
        bytes((stream % 2 + 1, 0, 0, 0)) + len(it).to_bytes(4, "big") + it for stream, it in enumerate(pieces)
    )
    chunks = (answer[start : start + size] for start in range(0, len(answer), size))
    assert b"".join(_output(chunks)) == b"".join(pieces)


def test_an_answer_that_breaks_off_gives_what_came():
    assert list(_output(iter([b"\1\0\0\0\0\0\0\x09half"]))) == [b"half"]
    assert list(_output(iter([b"\1\0\0"]))) == []
