"""Reconcile: what the table of modes doesn't show: bits, mtimes, obstacles, expiry, and what holds for every row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.entries import Ancestor, Entry, Gone, Kind, Local, Mode, Obstacle, Policy, Reason, Remote, Row
from agent.core.reconcile import Do, Rules, agreed, reconcile

F1 = Entry(Kind.FILE, b"1" * 32, 1, False, 1_000)
F1X = replace(F1, executable=True)
F1_UNKNOWN = replace(F1, executable=None, mtime_ns=None)
F2 = Entry(Kind.FILE, b"2" * 32, 2, False, 2_000)
L1 = Entry(Kind.LINK, target="a")
BAD = Obstacle(Reason.UNREADABLE)
TWO_WAY = Rules(mode=Mode.TWO_WAY, agent="edge")
NOTHING = "nothing"


def row(ancestor=None, local=None, remote=None, *, gone=None, path="f", mtimes=None):
    """`gone` for an absent remote; mtimes: (local, remote) of the ancestor, else those of its entry."""
    made = None
    if ancestor:
        local_mtime, remote_mtime = mtimes or (ancestor.mtime_ns, ancestor.mtime_ns)
        made = Ancestor(replace(ancestor, mtime_ns=None), local_mtime, remote_mtime)
    there = Remote(remote, 7, gone=gone) if remote or gone else None
    return Row(path, made, Local(local) if local else None, there)


def rules(mode: Mode, **changes) -> Rules:
    return replace(Rules(mode=mode, agent="edge"), **changes)


# ---- the executable bit ----


@pytest.mark.parametrize(
    ("mode", "ancestor", "local", "remote", "do"),
    [
        (Mode.TWO_WAY, F1, F1X, F1, Do.SET_REMOTE_METADATA),
        (Mode.TWO_WAY, F1, F1, F1X, Do.SET_LOCAL_METADATA),
        (Mode.TWO_WAY, F1X, F1, F1X, Do.SET_REMOTE_METADATA),
        (Mode.TWO_WAY, F1X, F1X, F1, Do.SET_LOCAL_METADATA),
        (Mode.TWO_WAY, None, F1X, F1, Do.SET_REMOTE_METADATA),
        (Mode.TWO_WAY, None, F1, F1X, Do.SET_LOCAL_METADATA),
        (Mode.TWO_WAY, F2, F1, F1X, Do.SET_LOCAL_METADATA),
        (Mode.TWO_WAY, F1, F1X, F1_UNKNOWN, Do.SET_REMOTE_METADATA),
        (Mode.TWO_WAY, None, F1X, F1_UNKNOWN, Do.AGREE),
        (Mode.PUSH_SAFE, F1, F1X, F1, Do.SET_REMOTE_METADATA),
        (Mode.PUSH_SAFE, F1, F1, F1X, Do.DIVERGED),
        (Mode.PUSH_SAFE, None, F1, F1X, Do.DIVERGED),
        (Mode.PULL_SAFE, F1, F1X, F1, Do.DIVERGED),
        (Mode.PULL_SAFE, F1, F1, F1X, Do.SET_LOCAL_METADATA),
        (Mode.PULL_SAFE, F1, F1X, F1_UNKNOWN, Do.AGREE),
        (Mode.PUSH_MIRROR, F1, F1, F1X, Do.SET_REMOTE_METADATA),
        (Mode.PUSH_MIRROR, None, F1, F1X, Do.SET_REMOTE_METADATA),
        (Mode.PULL_MIRROR, None, F1X, F1, Do.SET_LOCAL_METADATA),
    ],
)
def test_a_bit_alone_travels_as_metadata(mode, ancestor, local, remote, do):
    decision = reconcile(row(ancestor, local, remote), rules(mode))
    assert decision.do is do
    if do in (Do.SET_REMOTE_METADATA, Do.SET_LOCAL_METADATA):
        sent = local if do is Do.SET_REMOTE_METADATA else remote
        assert decision.entry
        assert decision.entry.executable == sent.executable


def test_when_only_the_bit_differs_and_nothing_is_known_set_wins():
    decision = reconcile(row(None, F1, F1X), TWO_WAY)
    assert decision.entry
    assert decision.entry.executable is True


def test_without_permissions_neither_the_bit_nor_the_mtime_counts_or_is_sent():
    plain = rules(Mode.TWO_WAY, permissions=False)
    equal = reconcile(row(None, F1X, replace(F1, mtime_ns=9)), plain)
    sent = reconcile(row(None, F1X), plain)
    fetched = reconcile(row(F2, F2, F1X, mtimes=(2_000, 2_000)), plain)

    assert equal.do is Do.AGREE
    assert equal.ancestor
    assert equal.ancestor.entry.executable is None
    assert sent.entry
    assert (sent.entry.executable, sent.entry.mtime_ns) == (None, None)
    assert fetched.do is Do.DOWNLOAD
    assert fetched.entry
    assert (fetched.entry.executable, fetched.entry.mtime_ns) == (False, None)


def test_an_unknown_bit_keeps_the_local_one():
    fetched = reconcile(row(replace(F2, executable=True), replace(F2, executable=True), F1_UNKNOWN), TWO_WAY)
    assert fetched.do is Do.DOWNLOAD
    assert fetched.entry
    assert fetched.entry.executable is True


# ---- mtime ----


@pytest.mark.parametrize(
    ("mode", "local_mtime", "remote_mtime", "do", "mtime"),
    [
        (Mode.TWO_WAY, 10, 20, NOTHING, None),
        (Mode.TWO_WAY, 15, 20, Do.SET_REMOTE_METADATA, 15),
        (Mode.TWO_WAY, 10, 25, Do.SET_LOCAL_METADATA, 25),
        (Mode.TWO_WAY, 30, 25, Do.SET_REMOTE_METADATA, 30),
        (Mode.TWO_WAY, 15, 25, Do.SET_LOCAL_METADATA, 25),
        (Mode.TWO_WAY, 25, 25, Do.AGREE, None),
        (Mode.TWO_WAY, 10, None, Do.AGREE, None),
        (Mode.PUSH_SAFE, 15, 25, Do.SET_REMOTE_METADATA, 15),
        (Mode.PUSH_MIRROR, 10, 25, Do.AGREE, None),
        (Mode.PULL_SAFE, 30, 25, Do.SET_LOCAL_METADATA, 25),
        (Mode.PULL_MIRROR, 30, 20, Do.AGREE, None),
    ],
)
def test_an_mtime_is_compared_with_its_own_sides_ancestor_only(mode, local_mtime, remote_mtime, do, mtime):
    given_row = row(F1, replace(F1, mtime_ns=local_mtime), replace(F1, mtime_ns=remote_mtime), mtimes=(10, 20))
    decision = reconcile(given_row, rules(mode))
    assert decision.do is (Do.NOTHING if do == NOTHING else do)
    if mtime:
        assert decision.entry
        assert decision.entry.mtime_ns == mtime


def test_different_mtimes_at_first_contact_are_recorded_and_left():
    decision = reconcile(row(None, F1, replace(F1, mtime_ns=5)), TWO_WAY)
    assert decision.do is Do.AGREE
    assert decision.ancestor == Ancestor(replace(F1, mtime_ns=None), 1_000, 5)


def test_mtimes_of_a_content_that_is_new_on_both_sides_are_recorded_and_left():
    """As after a download whose agent was stopped before it could write that down: the new file has its own time."""
    decision = reconcile(row(F2, replace(F1, mtime_ns=9_000), replace(F1, mtime_ns=None), mtimes=(10, 20)), TWO_WAY)
    assert decision.do is Do.AGREE
    assert decision.ancestor == Ancestor(replace(F1, mtime_ns=None), 9_000, None)


def test_an_mtime_alone_is_no_edit():
    touched = replace(F1, mtime_ns=9_000)
    assert reconcile(row(F1, None, touched), TWO_WAY).do is Do.DELETE_REMOTE
    assert reconcile(row(F1, touched, F2), TWO_WAY).do is Do.DOWNLOAD


# ---- obstacles ----


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("ancestor", [None, F1])
@pytest.mark.parametrize(
    ("local", "remote"), [(BAD, None), (BAD, F1), (BAD, F2), (None, BAD), (F1, BAD), (F2, BAD), (BAD, BAD)]
)
def test_an_obstacle_is_left_alone_and_costs_the_ancestor(mode, ancestor, local, remote):
    decision = reconcile(row(ancestor, local, remote), rules(mode))
    assert decision.do is (Do.FORGET if ancestor else Do.NOTHING)
    assert decision.ancestor is None


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("remote", [None, F1, F2])
def test_a_file_that_is_being_written_is_left_alone_and_keeps_its_ancestor(mode, remote):
    agreed_on = row(F1, Obstacle(Reason.CHANGING), remote)

    decision = reconcile(agreed_on, rules(mode))

    assert (decision.do, decision.ancestor) == (Do.NOTHING, agreed_on.ancestor)


def test_entries_of_empty_directories_are_left_alone_unless_they_travel():
    entry = Entry(Kind.DIRECTORY)
    assert reconcile(row(None, entry, path="d/"), TWO_WAY).do is Do.NOTHING
    assert reconcile(row(None, None, entry, path="d/"), rules(Mode.PUSH_MIRROR)).do is Do.NOTHING
    assert reconcile(row(None, entry, path="d/"), rules(Mode.TWO_WAY, empty_directories=True)).do is Do.UPLOAD


# ---- gone without a marker ----


@pytest.mark.parametrize(
    ("mode", "local", "do"),
    [
        (Mode.TWO_WAY, F1, Do.NOTHING),
        (Mode.TWO_WAY, replace(F1, mtime_ns=5), Do.NOTHING),
        (Mode.TWO_WAY, F2, Do.UPLOAD),
        (Mode.TWO_WAY, F1X, Do.UPLOAD),
        (Mode.PUSH_SAFE, F1, Do.NOTHING),
        (Mode.PUSH_SAFE, F2, Do.UPLOAD),
        (Mode.PUSH_MIRROR, F1, Do.NOTHING),
        (Mode.PULL_SAFE, F1, Do.NOTHING),
        (Mode.PULL_SAFE, F2, Do.DIVERGED),
        (Mode.PULL_MIRROR, F1, Do.DELETE_LOCAL),
        (Mode.PULL_MIRROR, F2, Do.DELETE_LOCAL),
    ],
)
def test_an_expired_object_is_kept_here_until_it_is_edited_but_in_pull_mirror(mode, local, do):
    given_row = row(F1, local, gone=Gone.EXPIRED)
    decision = reconcile(given_row, rules(mode))
    assert decision.do is do
    if do is Do.NOTHING:
        assert decision.ancestor == given_row.ancestor


def test_a_vanished_object_counts_as_deleted_and_one_never_seen_does_not():
    assert reconcile(row(F1, F1, gone=Gone.VANISHED), TWO_WAY).do is Do.DELETE_LOCAL
    assert reconcile(row(F1, F1, gone=Gone.DELETED), TWO_WAY).do is Do.DELETE_LOCAL
    assert reconcile(row(F1, F1), TWO_WAY).do is Do.UPLOAD


# ---- kinds ----


@pytest.mark.parametrize(
    ("local", "remote", "do"),
    [
        (L1, F1, Do.UPLOAD),
        (F1, L1, Do.DOWNLOAD),
        (L1, F2, Do.KEEP_BOTH),
        (L1, L1, Do.AGREE),
        (L1, replace(L1, target="b"), Do.KEEP_BOTH),
    ],
)
def test_a_change_of_kind_is_an_edit(local, remote, do):
    assert reconcile(row(F1, local, remote), TWO_WAY).do is do


# ---- what holds for every row ----

entries = st.builds(
    Entry,
    kind=st.just(Kind.FILE),
    digest=st.sampled_from([b"1" * 32, b"2" * 32, b"3" * 32]),
    size=st.just(3),
    executable=st.sampled_from([True, False]),
    mtime_ns=st.integers(1, 3),
) | st.sampled_from([L1, replace(L1, target="b")])
remote_entries = entries.flatmap(
    lambda entry: st.sampled_from(
        [entry, replace(entry, executable=None), replace(entry, executable=None, mtime_ns=None)]
    )
)
obstacles = st.just(BAD)
ancestors = st.none() | st.builds(
    lambda entry, local, remote: Ancestor(replace(entry, mtime_ns=None), local, remote),
    entries,
    st.integers(1, 3),
    st.none() | st.integers(1, 3),
)
remotes = (
    st.none()
    | st.builds(Remote, side=remote_entries | obstacles, revision=st.just(7))
    | st.builds(Remote, side=st.none(), revision=st.sampled_from([0, 7]), gone=st.sampled_from(list(Gone)))
)
rows = st.builds(
    Row, path=st.just("f"), ancestor=ancestors, local=st.none() | st.builds(Local, entries | obstacles), remote=remotes
)
all_rules = st.builds(
    Rules,
    mode=st.sampled_from(list(Mode)),
    policy=st.sampled_from(list(Policy)),
    permissions=st.booleans(),
    agent=st.just("edge"),
)
MIRRORS = (Mode.PUSH_MIRROR, Mode.PULL_MIRROR)


def equal(one: Entry, other: Entry, rules: Rules) -> bool:
    return one.same(other) if rules.permissions else one.same_content(other)


def carried_out(row: Row, rules: Rules) -> Row:
    """The row after its decision has been carried out."""
    decision = reconcile(row, rules)
    local, remote = row.local_side, row.remote_side
    marker = Remote(None, 8, gone=Gone.DELETED)
    match decision.do:
        case Do.UPLOAD | Do.SET_REMOTE_METADATA:
            remote = decision.entry
        case Do.DOWNLOAD | Do.SET_LOCAL_METADATA | Do.KEEP_BOTH:
            assert decision.entry
            held = decision.entry.executable if decision.entry.executable is not None else False
            local = replace(decision.entry, executable=held if decision.entry.kind is Kind.FILE else None)
        case Do.DELETE_LOCAL:
            return Row(row.path, None, None, row.remote)
        case Do.DELETE_REMOTE:
            return Row(row.path, None, None, marker)
        case _:
            return replace(row, ancestor=decision.ancestor)
    assert isinstance(local, Entry)
    assert isinstance(remote, Entry)
    return Row(row.path, agreed(local, remote, rules), Local(local), Remote(remote, 8))


@given(rows, all_rules)
def test_a_decision_that_was_carried_out_leaves_nothing_to_do(row, rules):
    after = carried_out(row, rules)
    again = reconcile(after, rules)
    assert again.do in (Do.NOTHING, Do.CONFLICT, Do.DIVERGED)
    assert again.ancestor == after.ancestor


@given(rows, all_rules)
def test_nothing_is_deleted_that_was_not_agreed_on_but_in_mirror_modes(row, rules):
    decision = reconcile(row, rules)
    if rules.mode in MIRRORS or decision.do not in (Do.DELETE_LOCAL, Do.DELETE_REMOTE):
        return
    lost = row.local_side if decision.do is Do.DELETE_LOCAL else row.remote_side
    assert row.ancestor
    assert isinstance(lost, Entry)
    assert equal(lost, row.ancestor.entry, rules)


@given(rows, all_rules)
def test_in_two_way_only_a_preference_overwrites_what_one_side_alone_holds(row, rules):
    if rules.mode is not Mode.TWO_WAY or rules.policy not in (Policy.KEEP_BOTH, Policy.REPORT):
        return
    decision = reconcile(row, rules)
    overwritten = {Do.UPLOAD: row.remote_side, Do.DOWNLOAD: row.local_side}.get(decision.do)
    if isinstance(overwritten, Entry):
        assert row.ancestor
        assert equal(overwritten, row.ancestor.entry, rules)


@given(rows, all_rules)
def test_a_one_way_mode_never_touches_the_sender(row, rules):
    if rules.mode is Mode.TWO_WAY:
        return
    local = {Do.DOWNLOAD, Do.DELETE_LOCAL, Do.SET_LOCAL_METADATA}
    remote = {Do.UPLOAD, Do.DELETE_REMOTE, Do.SET_REMOTE_METADATA}
    decision = reconcile(row, rules)
    assert decision.do not in (local if rules.mode.pushes else remote)
    assert decision.do is not Do.KEEP_BOTH


@given(rows, all_rules)
def test_mirror_modes_leave_both_sides_equal(row, rules):
    if rules.mode not in MIRRORS:
        return
    after = carried_out(row, rules)
    local, remote = after.local_side, after.remote_side
    if isinstance(local, Obstacle) or isinstance(remote, Obstacle):
        return
    if local is None or remote is None:
        expired = after.remote and after.remote.gone is Gone.EXPIRED and rules.mode is Mode.PUSH_MIRROR
        assert expired or local is remote
    else:
        assert equal(local, remote, rules)


@given(rows, all_rules)
def test_every_action_says_why(row, rules):
    decision = reconcile(row, rules)
    if decision.do is not Do.NOTHING:
        assert decision.reason


# ---- a file system that can't hold the bit ----


def after_a_failed_set(**sides) -> Row:
    """The row after SET_LOCAL_METADATA came back without the bit, then with other sides."""
    failed = agreed(F1, F1X, TWO_WAY)
    there = row(None, F1, F1X)
    return replace(there, ancestor=failed, **sides)


def test_a_bit_that_could_not_be_set_makes_no_conflict_of_an_edit_and_stays_in_the_bucket():
    decision = reconcile(after_a_failed_set(local=Local(F2)), TWO_WAY)

    assert decision.do is Do.UPLOAD
    assert decision.entry is not None
    assert decision.entry.executable is True
    assert reconcile(after_a_failed_set(remote=Remote(replace(F2, executable=True), 8)), TWO_WAY).do is Do.DOWNLOAD


def test_a_bit_that_could_not_be_set_undoes_no_deletion():
    assert reconcile(after_a_failed_set(local=None), TWO_WAY).do is Do.DELETE_REMOTE
    gone = Remote(None, 8, gone=Gone.DELETED)
    assert reconcile(after_a_failed_set(remote=gone), TWO_WAY).do is Do.DELETE_LOCAL
