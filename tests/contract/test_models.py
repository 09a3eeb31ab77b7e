"""Models validate at the edge, and tell no secrets."""

from __future__ import annotations

import json

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from loopnest import (
    EVERYONE,
    NOBODY,
    Conversation,
    Event,
    InvalidRequest,
    Llm,
    Loop,
    LoopChange,
    LoopQuery,
    LoopStatus,
    Message,
    ProviderToken,
    RawEvent,
    Secret,
    StartLoop,
    owner_of,
)
from loopnest.owners import new_owner, owns

from ..start_requests import start_request

SECRET = "sk-very-secret"


def test_requests_can_t_be_changed_and_have_no_unknown_fields():
    request = StartLoop(conversation_id="c1")
    with pytest.raises(ValidationError):
        request.owner = "mallory"
    with pytest.raises(ValidationError):
        StartLoop(conversation_id="c1", usr_id="alice")


@pytest.mark.parametrize("good", ["a", "7", "a-b_c", "x" * 64, "01890a5d-ac96-774b-bcce-b302099a8057"])
def test_well_formed_ids_are_taken(good):
    assert StartLoop(conversation_id=good).conversation_id == good


@pytest.mark.parametrize("user_id", ["", "x" * 256, 7, EVERYONE])
def test_a_new_loop_needs_a_user_id_of_reasonable_length(user_id):
    with pytest.raises(InvalidRequest, match="'user_id' must be a text of 1 to 255 characters"):
        new_owner(user_id)


def test_a_user_who_is_called_everyone_is_not_everyone():
    for query in (LoopQuery(user_id="everyone"), LoopQuery.model_validate_json('{"user_id": "everyone"}')):
        assert query.user_id == "everyone"
        assert not owns(query.user_id, owner_of("alice"))
    assert owns(LoopQuery(user_id=EVERYONE).user_id, owner_of("alice"))


def test_owners_are_digests_that_never_change():
    assert owner_of("alice@example.com") == "db8567ef8f616dd9"
    assert owner_of(None) == NOBODY
    assert owner_of(NOBODY) != NOBODY


@pytest.mark.parametrize(
    ("user_id", "owner", "expected"),
    [
        ("alice", owner_of("alice"), True),
        ("bob", owner_of("alice"), False),
        (None, owner_of("alice"), False),
        (None, NOBODY, True),
        ("alice", NOBODY, False),
        (owner_of("alice"), owner_of("alice"), False),
        (EVERYONE, owner_of("alice"), True),
        (EVERYONE, NOBODY, True),
    ],
)
def test_who_owns_what(user_id, owner, expected):
    assert owns(user_id, owner) is expected


@pytest.mark.parametrize("name", ["", "a.b", "A-B", "1A", "A B", "A=B", "A;id", "A\n", "ä"])
def test_a_variable_whose_name_no_shell_takes_is_refused_by_name(name):
    with pytest.raises(ValidationError) as caught:
        StartLoop(conversation_id="c1", environment={name: "value"})
    [error] = caught.value.errors()
    assert error["loc"][:2] == ("environment", name)
    assert error["msg"].startswith(f"{name!r} is no name of a variable")


@pytest.mark.parametrize("name", ["A", "_", "lower_case2"])
def test_a_variable_may_have_any_name_that_shells_take(name):
    assert list(StartLoop(conversation_id="c1", environment={name: "value"}).environment) == [name]


def test_no_secret_of_a_request_is_in_any_text_of_it():
    request = start_request(
        llm=Llm(model="openai/gpt", api_key=SecretStr(SECRET)),
        secrets={"A": Secret(value=SecretStr(SECRET))},
        provider_tokens={"github": ProviderToken(token=SecretStr(SECRET))},
        environment={"B": SecretStr(SECRET)},
        settings={"llm": {"api_key": SECRET}},
        replay=[{"text": SECRET}],
    )
    assert SECRET not in f"{request!r} {request}"
    assert SECRET not in repr(RawEvent(payload={"token": SECRET}))


def test_validation_errors_do_not_repeat_what_was_given():
    with pytest.raises(ValidationError) as caught:
        start_request(llm={"model": "", "api_key": [SECRET]})
    assert SECRET not in str(caught.value)


def test_a_loop_s_key_is_in_no_text_of_it():
    loop = Loop(conversation_id="c1", status=LoopStatus.RUNNING, session_key=SecretStr(SECRET))
    assert SECRET not in f"{loop!r} {loop} {loop.model_dump_json()}"


def test_events_are_told_apart_by_their_kind():
    adapter = TypeAdapter(Event)
    assert adapter.validate_python({"kind": "message", "text": "hi"}) == Message(text="hi")
    assert adapter.validate_python({"kind": "control", "action": "pause"}).action == "pause"
    assert adapter.validate_python({"kind": "raw", "payload": {"x": 1}}).payload == {"x": 1}
    with pytest.raises(ValidationError):
        adapter.validate_python({"kind": "control", "action": "explode"})


def test_statuses_read_alike_everywhere():
    assert f"{LoopStatus.RUNNING}" == str(LoopStatus.RUNNING) == "running"
    assert json.dumps(LoopStatus.RUNNING) == '"running"'


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (LoopQuery(user_id="alice"), True),
        (LoopQuery(), False),
        (LoopQuery(user_id="alice", conversation_ids=frozenset({"c1"})), True),
        (LoopQuery(user_id="alice", conversation_ids=frozenset({"c2"})), False),
        (LoopQuery(user_id="alice", conversation_ids=frozenset()), False),
        (LoopQuery(user_id="alice", statuses=frozenset({LoopStatus.RUNNING})), True),
        (LoopQuery(user_id="alice", statuses=frozenset({LoopStatus.FAILED})), False),
    ],
)
def test_a_query_matches_what_it_asks_for(query, expected):
    assert query.matches(Loop(conversation_id="c1", owner=owner_of("alice"), status=LoopStatus.RUNNING)) is expected


def test_times_are_in_utc():
    starting = Loop(conversation_id="c1", status="starting")
    assert LoopChange(loop=starting, phase="booting").at.utcoffset().total_seconds() == 0


@pytest.mark.parametrize(
    ("repository", "shown"),
    [
        ("https://alice:hunter2@example.com/a/b", "https://**********@example.com/a/b"),
        ("https://hunter2@example.com/a/b", "https://**********@example.com/a/b"),
        ("ssh://alice:hunter@2@example.com/a/b", "ssh://**********@example.com/a/b"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("a/b", "a/b"),
        (None, "None"),
    ],
)
def test_a_password_in_a_repository_is_not_shown(repository, shown):
    request = StartLoop(conversation_id="c1", conversation=Conversation(repository=repository))
    assert shown in repr(request)
    assert "hunter" not in repr(request)
    assert "hunter" not in str(request)
