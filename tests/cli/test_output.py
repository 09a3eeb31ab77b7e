from __future__ import annotations

import io
import json
import sys
from datetime import timedelta

import pytest

from loopnest.models import utcnow
from loopnest_cli import output, progress
from loopnest_cli.output import Column, age, print_table, printable


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal of a given width for standard output and error."""

    def of(width: int) -> Terminal:
        stream = Terminal()
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        return stream

    return of


COLUMNS = [Column("conversation"), Column("owner", spare=1), Column("status"), Column("url", spare=2), Column("reason")]
ID = "3fa85f64-5717-4562-b3fc-2c963f66afa6"
ROW = [ID, "bdaa088e84c7c729", "running", "http://127.0.0.1:32785", None]


def test_a_table_that_no_terminal_reads_is_never_cut(capsys):
    print_table(COLUMNS, [[ID, "o" * 300, "running", "u" * 300, "r"]])
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == [ID, "o" * 300, "running", "u" * 300, "r"]


def test_columns_without_anything_in_them_are_left_out(capsys):
    print_table(COLUMNS, [ROW])
    assert "REASON" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("width", "titles"),
    [(120, {"OWNER", "URL"}), (80, {"URL"}), (50, set()), (20, set())],
)
def test_on_a_narrow_terminal_columns_give_way_and_the_id_stays_whole(terminal, width, titles):
    stream = terminal(width)
    print_table(COLUMNS, [ROW])
    text = stream.getvalue()
    assert ID in text
    assert {it for it in ("OWNER", "URL") if it in text} == titles


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\tb\nc", "a\tb\nc"),
        ("bell\x07 back\x08 c1\x9b31m", "bell back c131m"),
    ],
)
def test_text_of_agents_does_not_drive_the_terminal(given, shown):
    assert printable(given) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(5, "5s"), (60, "1m"), (7200, "2h"), (90000, "1d"), (-5, "0s")])
def test_ages_are_told_in_their_largest_unit(seconds, shown):
    assert age(utcnow() - timedelta(seconds=seconds)) == shown


def test_json_keeps_letters_readable(capsys):
    output.print_json({"name": "Žofie"})
    text = capsys.readouterr().out
    assert "Žofie" in text
    assert json.loads(text) == {"name": "Žofie"}


def test_progress_is_animated_on_a_terminal_and_gone_afterwards(terminal):
    stream = terminal(100)
    with progress.shown("c1") as show:
        show("pulling-image", "layer [1]", 0.5)
        show("booting")
    assert "c1: booting" in stream.getvalue()
    assert "\x1b[2K" in stream.getvalue()  # the line is erased


def test_progress_is_one_line_for_each_phase_elsewhere(capsys):
    with progress.shown("c1") as show:
        for done in (0.1, 0.2, 0.3):
            show("pulling-image", "layer", done)
        show("booting")
    assert capsys.readouterr().err == "c1: pulling-image\nc1: booting\n"
