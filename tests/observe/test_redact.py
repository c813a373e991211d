"""Secrets out of whatever is shown."""

from __future__ import annotations

import pytest

from agent.observe.redact import HIDDEN, hide, hide_fields, hide_value, printable

SEED = "SUA" + "B2" * 27 + "C"
JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJYIn0.c2ln_bmF-0dXJl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nats://edge:s3cret@hub:4222", "nats://***@hub:4222"),
        ("nats://t0ken@hub:4222", "nats://***@hub:4222"),
        ("nats://edge:p@ss@hub:4222", "nats://***@hub:4222"),
        ("tried nats://a:b@x:1,tls://c:d@y:2 twice", "tried nats://***@x:1,tls://***@y:2 twice"),
        ("tried nats://a:b@x:1 and wss://c:d@y:2", "tried nats://***@x:1 and wss://***@y:2"),
        (f"the seed {SEED}.", "the seed ***."),
        (f"jwt={JWT}", "jwt=***"),
        ("nats://hub:4222/a@b", "nats://hub:4222/a@b"),
        ("mail@example.org wrote a/b@2.txt", "mail@example.org wrote a/b@2.txt"),
        ("SUABLE", "SUABLE"),
        ("", ""),
    ],
)
def test_what_has_the_form_of_a_secret_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hide(text) == shown


def test_fields_are_hidden_by_name_at_any_depth() -> None:
    fields = {
        "password": "x",
        "auth_token": "y",
        "nkey_seed": b"z",
        "password_file": "/run/secrets/p",
        "tokens": 3,
        "nats": {"token": "t", "servers": ["nats://u:p@h"], "n": 1},
        "secret": None,
    }
    assert hide_fields(fields) == {
        "password": HIDDEN,
        "auth_token": HIDDEN,
        "nkey_seed": HIDDEN,
        "password_file": "/run/secrets/p",
        "tokens": 3,
        "nats": {"token": HIDDEN, "servers": ["nats://***@h"], "n": 1},
        "secret": None,
    }
    assert fields["password"] == "x", "the caller's own are not changed"
    assert hide_value(("nats://u:p@h", 2)) == ["nats://***@h", 2]


def test_nothing_that_a_file_name_holds_reaches_a_terminal_as_control() -> None:
    assert printable("a b/ü/日本") == "a b/ü/日本"
    assert printable("a\x1b[31m\r\nb\x7f\udcff\u202e") == "a\\x1b[31m\\r\\nb\\x7f\\udcff\\u202e"
