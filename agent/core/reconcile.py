"""Reconcile: what to do about one path, from its three sides. The whole of DESIGN section 4 that needs only one path.

`reconcile(row, rules)` is a pure function: no IO, no clock, no other path. It reads like the table of section 4:

    an obstacle on either side      nothing is done to either, and the ancestor is dropped: never a deletion
                                    (a file that is being written only waits, and keeps it: else it would be in
                                    conflict with its own earlier version when it is read at last)
    both sides absent               nothing is left of the path
    both sides, equal content       only the ancestor changes ("both changed, equal"); this one rule gives crash
                                    recovery, first contact of equal trees, and makes our own echo nothing to do.
                                    Then the executable bit and the mtime, which travel as metadata alone
    two-way                         one side changed: it goes to the other. Deleted and edited: the edit wins.
                                    Both changed, or no ancestor and different: by policy
    push-safe, pull-safe            the sender's changes go; the receiver's creations and edits stay (diverged), its
                                    deletions are undone; where both have a claim: conflict, both left
    push-mirror, pull-mirror        the sender's state, always; needs no ancestor

Invariants, each proved in tests/core/test_reconcile.py: outside mirror modes nothing is deleted without an ancestor
that the deleted version equals; in two-way no version that only one side holds is overwritten, except that a policy
prefers the other; the result of carrying a decision out reconciles to nothing.

What needs more than one path (file against directory, renames, names of copies) is `core.plan`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from agent.core.entries import Ancestor, Entry, Gone, Kind, Mode, Obstacle, Policy, Reason, Row
from agent.core.values import light


class Do(Enum):
    NOTHING = "nothing"  # the row stays as it is
    AGREE = "agree"  # only the ancestor changes, to Decision.ancestor
    FORGET = "forget"  # the ancestor is dropped: the path is a problem, skipped, or not ours
    UPLOAD = "upload"
    DOWNLOAD = "download"
    DELETE_LOCAL = "delete local"
    DELETE_REMOTE = "delete remote"
    SET_REMOTE_METADATA = "set remote metadata"
    SET_LOCAL_METADATA = "set local metadata"
    KEEP_BOTH = "keep both"  # the local version becomes a conflict copy, the remote one takes the name
    CONFLICT = "conflict"  # both are left; a person resolves it
    DIVERGED = "diverged"  # safe modes: the receiver's own version stays


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a mapping's configuration says about deciding.

    agent: this agent's name, for conflict copies. prefix_bytes: UTF-8 length of the mapping's prefix, which has to fit
    in an object's name too. permissions: False = the executable bit and mtime are neither compared nor sent.
    """

    mode: Mode
    policy: Policy = Policy.KEEP_BOTH
    permissions: bool = True
    agent: str = ""
    empty_directories: bool = False
    prefix_bytes: int = 0


@light
@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with one path.

    ancestor: the ancestor to keep in the row when nothing is carried out. reason: short words for people ("created
    locally"). entry: what the receiving side shall hold afterwards (UPLOAD, DOWNLOAD, KEEP_BOTH, SET_*); its
    `executable` None means keep what is there, or not executable when nothing is; its `mtime_ns` None means don't set.
    """

    do: Do
    ancestor: Ancestor | None
    reason: str = ""
    entry: Entry | None = None


def reconcile(row: Row, rules: Rules) -> Decision:
    """Decide about one path. Never raises; the same row and rules always give the same decision."""
    local, remote = row.local_side, row.remote_side
    if row.path.endswith("/") and not rules.empty_directories:
        return _forget(row, "empty directories don't travel")
    if isinstance(remote, Obstacle):
        return _forget(row, f"{remote.reason.value} remotely")
    if isinstance(local, Obstacle):
        if local.reason is Reason.CHANGING:
            return Decision(Do.NOTHING, row.ancestor, "changing locally")
        return _forget(row, f"{local.reason.value} locally")
    # An ancestor beside a remote that was never seen says nothing: an object that was agreed on and is gone has a
    # marker, or `gone` once a full listing has confirmed it. Until then its absence is not a deletion.
    ancestor = row.ancestor if row.remote else None
    if local is None and remote is None:
        return Decision(Do.AGREE, None, "gone on both sides") if row.ancestor else Decision(Do.NOTHING, None)
    three = _Three(
        row=row,
        rules=rules,
        ancestor=ancestor,
        local=local,
        remote=remote,
        local_word=_word(local, ancestor, rules),
        remote_word=_word(remote, ancestor, rules),
        expired=ancestor is not None and remote is None and _expired(row, rules),
    )
    if local and remote and local.same_content(remote):
        return three.same_content(local, remote)
    if local and three.expired and not three.local_word:
        return Decision(Do.NOTHING, ancestor, "expired remotely")
    if rules.mode is Mode.TWO_WAY:
        return three.two_way()
    if rules.mode.mirrors:
        return three.mirror()
    return three.safe()


def agreed(local: Entry, remote: Entry, rules: Rules) -> Ancestor:
    """The ancestor when both sides hold the same content: to be stored by AGREE, and after an action succeeded.

    local, remote: as read back from each side. The bit is the local one, since an object may not tell; without
    `permissions` it is unknown, so that it counts for nothing if they are switched on later. It is unknown too where
    they still differ, on a file system that can't hold it: else the other side would count as edited for ever.
    """
    executable = local.executable if local.executable is not None else remote.executable
    if None not in (local.executable, remote.executable) and local.executable != remote.executable:
        executable = None
    entry = Entry(local.kind, local.digest, local.size, executable if rules.permissions else None, None, local.target)
    return Ancestor(entry, local.mtime_ns, remote.mtime_ns)


def _forget(row: Row, reason: str) -> Decision:
    return Decision(Do.FORGET if row.ancestor else Do.NOTHING, None, reason)


def _word(side: Entry | None, ancestor: Ancestor | None, rules: Rules) -> str:
    """How a side differs from the ancestor; "" = not at all."""
    if ancestor is None:
        return "created" if side else ""
    if side is None:
        return "deleted"
    equal = side.same(ancestor.entry) if rules.permissions else side.same_content(ancestor.entry)
    return "" if equal else "edited"


def _expired(row: Row, rules: Rules) -> bool:
    """The object's time is over, which isn't a deletion; only pull-mirror follows it."""
    return row.remote is not None and row.remote.gone is Gone.EXPIRED and rules.mode is not Mode.PULL_MIRROR


@dataclass(slots=True, eq=False)
class _Three:
    """The three sides of one path, without obstacles; at least one of local and remote is there. Never changed.

    local_word, remote_word: how each differs from the ancestor. expired: the object that was agreed on is gone, which
    doesn't count as deleted.
    """

    row: Row
    rules: Rules
    ancestor: Ancestor | None
    local: Entry | None
    remote: Entry | None
    local_word: str
    remote_word: str
    expired: bool

    def _reason(self) -> str:
        local, remote = self.local_word, "expired" if self.expired else self.remote_word
        if local and local == remote:
            return f"{local} on both sides"
        words = [f"{local} locally"] if local else []
        words += [f"{remote} remotely"] if remote else []
        return ", ".join(words)

    # ---- decisions ----

    def _decide(self, do: Do) -> Decision:
        return Decision(do, self.ancestor, self._reason())

    def _upload(self) -> Decision:
        assert self.local
        entry = self.local
        before = self.ancestor.entry if self.ancestor else None
        unknown = before is not None and before.kind is Kind.FILE and before.executable is None
        if self.rules.mode is Mode.TWO_WAY and unknown and self.remote and self.remote.executable:
            entry = replace(entry, executable=True)  # never agreed on: set wins, also beside a new content
        return Decision(Do.UPLOAD, self.ancestor, self._reason(), self._stripped(entry))

    def _download(self, do: Do = Do.DOWNLOAD) -> Decision:
        assert self.remote
        return Decision(do, self.ancestor, self._reason(), self._applied(self.remote))

    def _send(self) -> Decision:
        """Make the receiver of a one-way mode hold what the sender holds."""
        if self.rules.mode.pushes:
            return self._upload() if self.local else self._decide(Do.DELETE_REMOTE)
        return self._download() if self.remote else self._decide(Do.DELETE_LOCAL)

    def _stripped(self, entry: Entry) -> Entry:
        return entry if self.rules.permissions else replace(entry, executable=None, mtime_ns=None)

    def _applied(self, remote: Entry) -> Entry:
        """The remote entry as the local side shall hold it: a bit that it doesn't tell stays as it is locally."""
        entry = self._stripped(remote)
        if entry.executable is None and self.local and self.local.kind is Kind.FILE and entry.kind is Kind.FILE:
            return replace(entry, executable=self.local.executable)
        return entry

    # ---- the modes ----

    def two_way(self) -> Decision:
        local, remote = self.local_word, self.remote_word
        if self.remote is None:
            if remote == "deleted" and not local:
                return self._decide(Do.DELETE_LOCAL)
            return self._upload()  # created, or edited: the edit wins
        if self.local is None:
            if local == "deleted" and not remote:
                return self._decide(Do.DELETE_REMOTE)
            return self._download()
        if not remote:
            return self._upload()
        if not local:
            return self._download()
        return self._by_policy(self.local, self.remote)

    def _by_policy(self, local: Entry, remote: Entry) -> Decision:
        policy = self.rules.policy
        if policy is Policy.NEWER:
            if local.mtime_ns is None or remote.mtime_ns is None or local.mtime_ns == remote.mtime_ns:
                policy = Policy.KEEP_BOTH
            else:
                policy = Policy.PREFER_LOCAL if local.mtime_ns > remote.mtime_ns else Policy.PREFER_REMOTE
        if policy is Policy.PREFER_LOCAL:
            return self._upload()
        if policy is Policy.PREFER_REMOTE:
            return self._download()
        if policy is Policy.REPORT:
            return self._decide(Do.CONFLICT)
        return self._download(Do.KEEP_BOTH)

    def safe(self) -> Decision:
        pushes = self.rules.mode.pushes
        sender, receiver = (self.local, self.remote) if pushes else (self.remote, self.local)
        sent, received = (self.local_word, self.remote_word) if pushes else (self.remote_word, self.local_word)
        if receiver is None:
            return self._send()  # the sender has it: created, edited, or deleted by the receiver, which is undone
        if sender is None and (not sent or self.expired):
            return self._decide(Do.DIVERGED)  # it never was the sender's, or its time is over
        if not sent:
            return self._decide(Do.DIVERGED)
        if not received:
            return self._send()
        return self._decide(Do.CONFLICT)

    def mirror(self) -> Decision:
        return self._send()

    # ---- equal content: the executable bit and the mtime ----

    def same_content(self, local: Entry, remote: Entry) -> Decision:
        """Both sides hold the same content. What is left is metadata, where that is compared at all."""
        agree = agreed(local, remote, self.rules)
        if not self.rules.permissions or local.kind is not Kind.FILE:
            return self._agree(agree)
        bit, settled = self._bit(local, remote)
        mtime = self._mtime(local, remote)
        if bit is None and not settled:
            return Decision(Do.DIVERGED, self.ancestor, "executable bit differs")
        # Where both sides would have to change, the bit decides the direction and the other side's mtime stays as it
        # is, recorded in the ancestor: mtime only follows along.
        if not settled and remote.executable != bit:
            entry = replace(local, executable=bit, mtime_ns=local.mtime_ns if mtime == "local" else remote.mtime_ns)
            return Decision(Do.SET_REMOTE_METADATA, self.ancestor, "executable bit changed", entry)
        if not settled and local.executable != bit:
            entry = replace(remote, executable=bit, mtime_ns=remote.mtime_ns if mtime == "remote" else local.mtime_ns)
            return Decision(Do.SET_LOCAL_METADATA, self.ancestor, "executable bit changed", entry)
        if mtime == "local":
            return Decision(Do.SET_REMOTE_METADATA, self.ancestor, "mtime changed", local)
        if mtime == "remote":
            entry = replace(remote, executable=local.executable)
            return Decision(Do.SET_LOCAL_METADATA, self.ancestor, "mtime changed", entry)
        return self._agree(agree)

    def _agree(self, ancestor: Ancestor) -> Decision:
        if ancestor == self.row.ancestor:
            return Decision(Do.NOTHING, ancestor)
        return Decision(Do.AGREE, ancestor, "equal on both sides")

    def _bit(self, local: Entry, remote: Entry) -> tuple[bool | None, bool]:
        """The executable bit that both sides shall have, and whether they already count as equal.

        (None, False): they differ and both stay, since the difference is the receiver's own.
        """
        mine, theirs, mode = local.executable, remote.executable, self.rules.mode
        before = None
        if self.ancestor and self.ancestor.entry.same_content(local):
            before = self.ancestor.entry.executable
        if mine is None or theirs is None:
            # Unknown equals anything. But where it was agreed on once, a bit that was changed here is told there.
            if theirs is None and mine is not None and before is not None and mine != before and mode.pushes:
                return mine, False
            return mine if mine is not None else theirs, True
        if mine == theirs:
            return mine, True
        if mode is Mode.PUSH_MIRROR:
            return mine, False
        if mode is Mode.PULL_MIRROR:
            return theirs, False
        # Without a common ground set wins; else the one of the two that changed.
        winner = True if before is None else not before
        if mode is Mode.TWO_WAY:
            return winner, False
        sender = mine if mode.pushes else theirs
        return (winner, False) if sender == winner else (None, False)

    def _mtime(self, local: Entry, remote: Entry) -> str:
        """Which side's mtime is to be set on the other: "local", "remote" or "" (none).

        Each is compared with its own value in the ancestor, never across sides; without an ancestor of this content
        they are recorded: an agent that was stopped right after a download would take the new time for an edit.
        """
        if self.ancestor is None or not self.ancestor.entry.same_content(local):
            return ""
        before = self.ancestor
        mode = self.rules.mode
        mine = (
            mode.pushes
            and None not in (local.mtime_ns, before.local_mtime_ns)
            and (local.mtime_ns != before.local_mtime_ns)
        )
        theirs = mode.pulls and remote.mtime_ns is not None and remote.mtime_ns != before.remote_mtime_ns
        if mine and theirs:
            assert local.mtime_ns is not None
            assert remote.mtime_ns is not None
            if local.mtime_ns == remote.mtime_ns:
                return ""
            return "local" if local.mtime_ns > remote.mtime_ns else "remote"
        return "local" if mine else "remote" if theirs else ""
