"""The modes table of DESIGN section 4 as data: what one path comes to, for every mode, policy and change of each side.

Written from the document and not from the code. Two tests read it: tests/core/test_modes.py against the pure core, and
the end-to-end test against a real bucket and directory. Words:

    start     "agreed": both sides held BASE and a sync has run. "absent": neither side had the path
    change    what happened since on a side: nothing, created, edited, deleted; same = both got the same content
    outcome   base, local, remote, same, gone    what both sides hold in the end
              copy        both hold the remote version, and the local version under a conflict copy's name
              conflict    each side still holds what it held, and the path is reported as a conflict
              diverged    each side still holds what it held, and the path is counted as diverged
              policy      two-way, both changed differently: see POLICIES
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.entries import Mode, Policy

BASE = b"base\n"
LOCAL = b"written locally\n"
REMOTE = b"written remotely, and longer\n"
SAME = b"the same edit on both sides\n"

# start, local change, remote change: outcome in two-way, push-safe, pull-safe, push-mirror, pull-mirror
TABLE = """
start   local    remote    two-way  push-safe  pull-safe  push-mirror  pull-mirror
agreed  nothing  nothing   base     base       base       base         base
agreed  nothing  edited    remote   diverged   remote     base         remote
agreed  nothing  deleted   gone     base       gone       base         gone
agreed  edited   nothing   local    local      diverged   local        base
agreed  edited   edited    policy   conflict   conflict   local        remote
agreed  edited   deleted   local    local      conflict   local        gone
agreed  deleted  nothing   gone     gone       base       gone         base
agreed  deleted  edited    remote   conflict   remote     gone         remote
agreed  deleted  deleted   gone     gone       gone       gone         gone
agreed  same     same      same     same       same       same         same
absent  nothing  nothing   gone     gone       gone       gone         gone
absent  nothing  created   remote   diverged   remote     gone         remote
absent  created  nothing   local    local      diverged   local        gone
absent  created  created   policy   conflict   conflict   local        remote
absent  same     same      same     same       same       same         same
"""

# Both changed, or no ancestor and different: by policy, and for `newer` by which side's mtime is later.
POLICIES = {
    (Policy.KEEP_BOTH, "local"): "copy",
    (Policy.KEEP_BOTH, "remote"): "copy",
    (Policy.KEEP_BOTH, "tie"): "copy",
    (Policy.REPORT, "local"): "conflict",
    (Policy.REPORT, "remote"): "conflict",
    (Policy.REPORT, "tie"): "conflict",
    (Policy.PREFER_LOCAL, "local"): "local",
    (Policy.PREFER_LOCAL, "remote"): "local",
    (Policy.PREFER_LOCAL, "tie"): "local",
    (Policy.PREFER_REMOTE, "local"): "remote",
    (Policy.PREFER_REMOTE, "remote"): "remote",
    (Policy.PREFER_REMOTE, "tie"): "remote",
    (Policy.NEWER, "local"): "local",
    (Policy.NEWER, "remote"): "remote",
    (Policy.NEWER, "tie"): "copy",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table for one mode and policy.

    newer: which side's version has the later mtime ("local", "remote", "tie"); it matters for policy `newer` alone.
    before, local_now, remote_now: what the path holds when both sides agree, and on each side before the sync (None =
    absent). expected_*: what it holds afterwards. copy: the content of the conflict copy, on both sides, or None.
    """

    mode: Mode
    policy: Policy
    start: str
    local_change: str
    remote_change: str
    newer: str
    outcome: str
    before: bytes | None
    local_now: bytes | None
    remote_now: bytes | None
    expected_local: bytes | None
    expected_remote: bytes | None
    copy: bytes | None

    @property
    def expect_conflict(self) -> bool:
        return self.outcome == "conflict"

    @property
    def expect_diverged(self) -> bool:
        return self.outcome == "diverged"

    @property
    def id(self) -> str:
        words = [self.mode, self.policy, self.start, self.local_change, self.remote_change]
        return "-".join([*words, f"newer:{self.newer}"] if self.newer != "local" else words)


def _cases() -> list[Case]:
    header, *lines = (line.split() for line in TABLE.strip().splitlines())
    found = []
    for start, local_change, remote_change, *outcomes in lines:
        for name, outcome in zip(header[3:], outcomes, strict=True):
            for policy in Policy:
                both_differ = outcome == "policy"
                for newer in ("local", "remote", "tie") if both_differ else ("local",):
                    word = POLICIES[policy, newer] if both_differ else outcome
                    found.append(_case(Mode(name), policy, (start, local_change, remote_change), newer, word))
    return found


def _case(mode: Mode, policy: Policy, row: tuple[str, str, str], newer: str, outcome: str) -> Case:
    start, local_change, remote_change = row
    before = BASE if start == "agreed" else None
    now = {"nothing": before, "deleted": None, "same": SAME}
    local_now = now.get(local_change, LOCAL)
    remote_now = now.get(remote_change, REMOTE)
    left = outcome in ("conflict", "diverged")
    both = {"base": BASE, "local": LOCAL, "remote": REMOTE, "copy": REMOTE, "same": SAME, "gone": None}.get(outcome)
    return Case(
        mode=mode,
        policy=policy,
        start=start,
        local_change=local_change,
        remote_change=remote_change,
        newer=newer,
        outcome=outcome,
        before=before,
        local_now=local_now,
        remote_now=remote_now,
        expected_local=local_now if left else both,
        expected_remote=remote_now if left else both,
        copy=LOCAL if outcome == "copy" else None,
    )


CASES = _cases()
"""Every combination: mode x policy x changes. One-way modes ignore the policy, and are in it with each."""

CONFIGURABLE = [case for case in CASES if case.mode is Mode.TWO_WAY or case.policy is Policy.KEEP_BOTH]
"""Those that a configuration can ask for without naming a policy where it means nothing."""
