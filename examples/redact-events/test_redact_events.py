from __future__ import annotations

import pytest
import redact_events


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nothing to hide", "nothing to hide"),
        ("sk-proj-abcdefgh1234", "sk-[redacted]"),
        ("ghp_abcdefgh1234 and glpat-abcdefgh1234.", "ghp_[redacted] and glpat-[redacted]."),
        ("AKIAABCDEFGH1234", "AKIA[redacted]"),
        ("ask-me-anything-you-like", "ask-me-anything-you-like"),
        ("sk-short", "sk-short"),
    ],
)
def test_keys_are_redacted_and_nothing_else(text, expected):
    assert redact_events.redacted(text) == expected
