"""The closed list of error reasons."""

from __future__ import annotations

import errno

import pytest

from agent import errors
from agent.core.entries import Reason
from agent.observe.reasons import ErrorReason, of_problem, reason_of


def all_errors(base: type[errors.JetsyncError] = errors.JetsyncError) -> list[type[errors.JetsyncError]]:
    return [base, *(each for kind in base.__subclasses__() for each in all_errors(kind))]


def test_every_problem_of_a_path_is_a_reason_and_nothing_skipped_on_purpose_is() -> None:
    for reason in Reason:
        assert (of_problem(reason) is ErrorReason.INTERNAL) is reason.skipped
        assert (reason.value in set(ErrorReason)) is not reason.skipped


def test_every_error_of_ours_about_store_directory_and_state_has_a_reason_of_its_own() -> None:
    rooms = (errors.ConnectError, errors.StoreError, errors.DirectoryError, errors.StateError, errors.LockedError)
    for kind in all_errors():
        if kind.__module__ != "agent.errors" or not issubclass(kind, rooms) or kind is errors.PathError:
            continue
        assert reason_of(kind("x")) is not ErrorReason.INTERNAL, kind


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (errors.PathError("x", reason="case_clash"), "case_clash"),
        (errors.PathError("x", reason="what?"), "internal"),
        (errors.NotAllowedError("x"), "not_allowed"),
        (errors.UnknownOutcomeError("x"), "unknown_outcome"),
        (errors.StoreUnavailableError("x"), "unavailable"),
        (errors.StoreFullError("x"), "bucket_full"),
        (errors.SpaceError("x"), "no_space"),
        (errors.DigestError("x"), "bad_digest"),
        (TimeoutError(), "unavailable"),
        (OSError(errno.EDQUOT, "quota"), "no_space"),
        (PermissionError(errno.EACCES, "denied"), "unreadable"),
        (ZeroDivisionError(), "internal"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value),
)
def test_an_exception_counts_as_its_most_special_reason(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
