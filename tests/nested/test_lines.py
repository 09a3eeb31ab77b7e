"""Logs are split into lines of a bounded length."""

from __future__ import annotations

import pytest

from loopnest_nested.lines import LONGEST, Lines


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_may_be_cut_anywhere(size):
    data, lines = "one\r\n\ntwo é three\nlast".encode(), Lines()
    found = [line for start in range(0, len(data), size) for line in lines.feed(data[start : start + size])]
    assert [*found, *lines.end()] == ["one", "", "two é three", "last"]


def test_a_line_without_an_end_takes_constant_memory():
    lines = Lines()
    for _ in range(10_000):
        assert lines.feed(b"x" * 1024) == []
    assert len(lines._rest) == LONGEST
    [long, short] = lines.feed(b"\nshort\n")
    assert (len(long), short) == (LONGEST, "short")
    assert lines.end() == []


def test_a_long_line_within_one_chunk_is_cut():
    [long, short] = Lines().feed(b"x" * (LONGEST + 1) + b"\nshort\n")
    assert (len(long), short) == (LONGEST, "short")
