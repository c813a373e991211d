"""`${VAR}` expansion, and the types of scalars without quotes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config.scalars import Scalar, expand, resolve

ENVIRON = {"HOST": "example", "PORT": "4222", "EMPTY": "", "TRICK": "${HOST}", "LINES": "a\nb: c"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("nothing", "nothing"),
        ("${HOST}", "example"),
        ("nats://${HOST}:${PORT}/", "nats://example:4222/"),
        ("${UNSET:-fallback}", "fallback"),
        ("${UNSET:-}", ""),
        ("${EMPTY:-fallback}", "fallback"),
        ("${EMPTY}", ""),
        ("${HOST:-fallback}", "example"),
        ("${UNSET:-a:-b}", "a:-b"),
        ("$${HOST}", "${HOST}"),
        ("$$${HOST}", "$${HOST}"),
        ("$HOST $1 $ $$", "$HOST $1 $ $$"),
        ("${TRICK}", "${HOST}"),
        ("${LINES}", "a\nb: c"),
        ("${UNSET:-$HOST}", "$HOST"),
    ],
)
def test_references_are_replaced_once(text: str, expanded: str):
    assert expand(text, ENVIRON) == expanded


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("${UNSET}", ["UNSET", "${UNSET:-default}"]),
        ("${A}${B}${A}", ["A isn't", "B isn't"]),
        ("${}", ["${NAME}", "$${"]),
        ("${1A}", ["${NAME}"]),
        ("${HOST", ["${NAME}"]),
        ("${HOST-x}", ["${NAME}"]),
        ("${HOST:?message}", ["${NAME}"]),
        ("${ HOST }", ["${NAME}"]),
        ("${HOST:-never closed", ["${NAME}"]),
    ],
)
def test_what_is_not_a_reference_or_not_set_is_refused(text: str, names: list[str]):
    with pytest.raises(ValueError) as caught:
        expand(text, ENVIRON)

    assert all(name in str(caught.value) for name in names)
    assert str(caught.value).count("A isn't") <= 1


def test_a_variable_that_is_not_utf8_is_refused():
    with pytest.raises(ValueError, match="UTF-8"):
        expand("${BYTES}", {"BYTES": "caf\udce9"})


@settings(deadline=None)
@given(st.text())
def test_escaping_makes_any_text_come_out_as_it_is(text: str):
    text = text.encode("utf-8", "ignore").decode()

    assert expand(text.replace("${", "$${"), {}) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("false", False),
        ("0", 0),
        ("-3", -3),
        ("+3", 3),
        ("42", 42),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        # What YAML 1.1 would make something else of.
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("True", "True"),
        ("FALSE", "FALSE"),
        ("y", "y"),
        ("n", "n"),
        ("Null", "Null"),
        ("010", "010"),
        ("0666", "0666"),
        ("0x1F", "0x1F"),
        ("0o17", "0o17"),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("=", "="),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_only_the_plain_forms_have_types(text: str, value: Scalar):
    resolved = resolve(text)

    assert resolved == value
    assert type(resolved) is type(value)
