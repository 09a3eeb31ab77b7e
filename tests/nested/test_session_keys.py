from __future__ import annotations

import re

from pydantic import SecretStr

from loopnest_nested.session_keys import derive, fingerprint, new_nonce

SECRET = SecretStr("the host's secret")


def test_every_server_has_keys_of_its_own_and_every_replica_derives_the_same():
    one, other = new_nonce(), new_nonce()
    assert derive(SECRET, one) == derive(SECRET, one)
    keys = [derive(SECRET, one), derive(SECRET, other), derive(SecretStr("another"), one)]
    assert len({key.get_secret_value() for pair in keys for key in (pair.session, pair.at_rest)}) == 6


def test_keys_stay_the_same_for_ever_as_stored_secrets_depend_on_them():
    keys = derive(SecretStr("s"), "0" * 32)
    assert keys.session.get_secret_value() == "C-xB9gqDdX1aRcbHQZ7Xh4fWaTHw1JSTqaNBe5qevfo"
    assert keys.at_rest.get_secret_value() == "IVx1_AcG-RzQxu_AGVlRbnWJ1SvB2H-jMr7w8yLYEJU"
    assert fingerprint(SecretStr("s")) == "6e96df43"


def test_keys_can_stand_in_headers_and_variables_and_are_not_shown():
    keys = derive(SECRET, new_nonce())
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", keys.session.get_secret_value())
    assert keys.session.get_secret_value() not in repr(keys)


def test_a_fingerprint_tells_secrets_apart_and_is_part_of_no_key():
    assert fingerprint(SECRET) != fingerprint(SecretStr("another"))
    assert fingerprint(SECRET) not in derive(SECRET, "0" * 32).session.get_secret_value()
