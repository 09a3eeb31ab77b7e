from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from loopnest import Llm, ProviderToken, Secret, StartLoop
from loopnest_nested.redaction import MASK, RequestSecrets, redacted, secrets_of

from ..start_requests import start_request


def values(request: StartLoop) -> set[str]:
    return {secret.get_secret_value() for secret in secrets_of(request)}


def test_every_secret_of_a_request_is_found_wherever_it_stands():
    request = start_request(
        conversation_id="c",
        llm=Llm(model="m", api_key=SecretStr("llm-key")),
        secrets={"A": Secret(value=SecretStr("custom"))},
        provider_tokens={"github": ProviderToken(token=SecretStr("token"))},
        environment={"B": SecretStr("variable"), "B_PASS": SecretStr("word"), "B_FLAG": SecretStr("true")},
        settings={
            "agent": {"llm": {"api_key": "in-settings"}, "mcp": [{"headers": {"Authorization": "bearer"}}]},
            "x": SecretStr("wrapped"),
            "y": "open",
        },
        repository="https://user:pass%20word@example.org/a/b",
    )
    expected = {
        "llm-key",
        "custom",
        "token",
        "variable",
        "word",
        "in-settings",
        "bearer",
        "wrapped",
        "pass%20word",
        "pass word",
    }
    assert values(request) == expected


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://ghp_token@github.com/a/b", {"ghp_token"}),
        ("ssh://git@github.com/a/b", set()),
        ("a/b", set()),
        ("https://[broken", set()),
    ],
)
def test_a_lone_user_of_a_url_may_be_a_token(url, found):
    assert values(start_request("c", repository=url)) == found


@pytest.mark.parametrize("quoting", [str, json.dumps, repr, lambda value: quote(value, safe="")])
@pytest.mark.parametrize("secret", ["all plain", 'with "quotes"', "two\nlines", "ünïcode/slash"])
def test_a_secret_is_found_in_every_quoting(quoting, secret):
    text = redacted(f"before {quoting(secret)} after", [SecretStr(secret)])
    assert MASK in text
    for part in ("plain", "quotes", "lines", "slash"):
        assert part not in text


def test_a_secret_that_begins_with_another_one_goes_whole():
    assert redacted("abcdefghijkl", [SecretStr("abcdefgh"), SecretStr("abcdefghijkl")]) == MASK


@pytest.mark.parametrize("value", ["", "1", "all", "tru", "431"])
def test_a_value_too_short_to_be_a_secret_garbles_nothing(value):
    text = "exit code 1: true of all at port 4317"
    assert redacted(text, [SecretStr(value)]) == text


@pytest.mark.parametrize(
    "text", ["p:\\nhunter2", "\x1b[1;36mhunter2\x1b[0m", "token%3Dhunter2", "a_hunter2", "xhunter2x"]
)
def test_a_short_secret_is_masked_whatever_it_stands_beside(text):
    assert redacted(text, [SecretStr("hunter2")]) == text.replace("hunter2", MASK)


def test_the_rest_of_a_long_secret_is_masked_where_a_log_begins_in_its_middle():
    key = "\n".join(f"line-{number:02}-of-a-key" for number in range(28))
    assert redacted(f"{key[-250:]}\nend", [SecretStr(key)]).count("-of-a-key") == 1  # of half a line


def test_secrets_of_all_starts_are_remembered_until_the_loop_is_removed():
    secrets = RequestSecrets()
    for word in ("first-start", "next-start"):
        secrets.keep(StartLoop(conversation_id="c", environment={"A": SecretStr(word)}))
    secrets.keep(StartLoop(conversation_id="c"))
    assert [it.get_secret_value() for it in secrets.of("c")] == ["first-start", "next-start"]
    assert secrets.of("d") == ()
    secrets.forget("c")
    assert secrets.of("c") == ()
