"""Errors are an interface: their tree, their reasons and their facts."""

from __future__ import annotations

import inspect
import re

import pytest

from loopnest import errors
from loopnest.errors import LoopFailed, LoopnestError, LoopNotFound, NestedError, Reason

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, LoopnestError)]
REASONS = {name: value for name, value in vars(Reason).items() if name.isupper()}


def test_the_tree_in_the_docstring_is_the_tree():
    drawn, path = {}, []
    for line in errors.__doc__.splitlines():
        if found := re.match(r"\s{4}([│├└─ ]*)(\w+)", line):
            depth = len(found[1]) // 4
            path[depth:] = [found[2]]
            drawn[found[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {one.__name__: one.__base__.__name__ for one in CLASSES}


def test_reasons_are_the_same_strings_for_ever():
    # Operators alert on them: add to this list, never change it.
    assert set(REASONS.values()) >= {
        *("configuration", "invalid-request", "not-found", "quota", "hook-timeout", "no-answer", "internal"),
        *("engine-unreachable", "engine-timeout", "engine-refused", "engine-full"),
        *("image-missing", "image-pull-failed", "image-build-failed", "isolation-failed"),
        *("exited-early", "exited", "killed", "oom-killed", "start-timeout", "server-missing"),
        *("interrupted", "foreign-secret"),
        *("nested-unreachable", "nested-timeout", "nested-refused", "not-running"),
    }


@pytest.mark.parametrize(("name", "value"), REASONS.items())
def test_reasons_are_called_what_they_say(name, value):
    assert value == name.lower().replace("_", "-")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_reason(kind):
    assert kind.reason in REASONS.values()


def test_an_error_carries_what_is_known():
    error = LoopFailed("It died.", reason="oom-killed", conversation_id="c1", exit_code=137, log_tail=["a", "b"])
    assert (str(error), error.message, error.reason) == ("It died.", "It died.", "oom-killed")
    assert (error.conversation_id, error.exit_code, error.log_tail) == ("c1", 137, ("a", "b"))
    assert NestedError("No.", http_status=401).http_status == 401


def test_not_found_tells_nothing_but_the_id():
    error = LoopNotFound("c1")
    assert (str(error), error.reason, error.conversation_id) == ("No loop for conversation 'c1'.", "not-found", "c1")
