"""Values with a cheap constructor are the values that they were."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from agent.core.values import light


@dataclass(frozen=True, slots=True)
class Plain:
    name: str
    size: int = 0
    target: str | None = None


@light
@dataclass(frozen=True, slots=True)
class Light:
    name: str
    size: int = 0
    target: str | None = None


@light
@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    name: str
    size: int = 0


def test_they_are_made_compared_hashed_replaced_and_shown_as_others_are():
    for given in ({"name": "a"}, {"name": "a", "size": 2, "target": "t"}):
        plain, made = Plain(**given), Light(**given)
        same: object = plain

        assert repr(made) == repr(plain).replace("Plain", "Light")
        assert made == Light(**given)
        assert made != same
        assert hash(made) == hash(plain)
        assert replace(made, size=7) == Light(made.name, 7, made.target)
    assert {Light("a"), Light("a", 0), Light("b")} == {Light("a"), Light("b")}


def test_what_must_be_named_must_be_named_and_nothing_may_be_missing():
    assert Named(name="a") == Named(name="a", size=0)
    with pytest.raises(TypeError):
        Named("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Light()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Light("a", other=1)  # type: ignore[call-arg]
