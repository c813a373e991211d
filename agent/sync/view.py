"""How a mapping looks from outside: its report for `sync` and `plan`, its status for `status`, /readyz and metrics."""

from __future__ import annotations

from dataclasses import dataclass

from agent.core.entries import Ancestor, Obstacle, Reason, Row
from agent.errors import NotAllowedError
from agent.observe.status import PROBLEMS_SHOWN, Pending, Problem, Tree
from agent.state import Counts, StateStore
from agent.sync import ages
from agent.sync.report import Report
from agent.sync.retry import Holds

# What a person can do about a problem, when the obstacle's own text doesn't say.
REMEDIES = {
    Reason.UNREADABLE: "make it readable for the agent's user",
    Reason.UNWRITABLE: "make its directory writable for the agent's user",
    Reason.NOT_UTF8: "rename the file to a name in UTF-8",
    Reason.INVALID_NAME: "rename it: it can't be a path on every system",
    Reason.NAME_TOO_LONG: "shorten the name",
    Reason.CASE_CLASH: "rename one of the names that differ by case only",
    Reason.STRUCTURE_CLASH: "rename or delete one of the objects that are a file and a directory of one name",
    Reason.LINK_OUTSIDE: "let the link point inside the directory, or set `symlinks: skip`",
    Reason.OTHER_FILE_SYSTEM: "give the mounted file system a mapping of its own",
    Reason.CHANGING: "it is read when it has been quiet for `settle`",
    Reason.BAD_META: "put or delete the object with a client that follows ADR-20",
    Reason.BAD_DIGEST: "put the object again from a good copy",
    Reason.MISSING_CHUNKS: "put the object again from a good copy",
    Reason.BROKEN_LINK: "put the link's target back, or delete the link",
    Reason.BUCKET_FULL: "raise the bucket's max_bytes or delete objects",
    Reason.NO_SPACE: "free space on the directory's file system",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the rows say, read in one go."""

    counts: Counts
    problems: list[tuple[str, Obstacle]]
    dirty: list[Row]


def read(store: StateStore, *, limit: int = PROBLEMS_SHOWN) -> Snapshot:
    counts = store.counts()
    return Snapshot(counts, store.problems(limit), store.dirty(ages.LIMIT) if counts.dirty else [])


def waiting(snapshot: Snapshot) -> tuple[dict[str, Ancestor | None], bool]:
    """For `Ages.look`: paths that wait with their ancestors, and whether that is all of them."""
    return {row.path: row.ancestor for row in snapshot.dirty}, snapshot.counts.dirty <= len(snapshot.dirty)


def fill_report(
    report: Report, store: StateStore, *, strays: dict[str, Obstacle], holds: Holds, limit: int = 100_000
) -> None:
    """Conflicts, problems, skips and failures as they stand now."""
    counts = store.counts()
    report.conflicts = store.conflicts()
    report.diverged = counts.diverged
    report.skipped = {str(reason): number for reason, number in counts.skipped.items()}
    problems = dict([*store.problems(limit), *strays.items()])
    for path, obstacle in problems.items():
        if obstacle.reason.skipped:
            if path in strays:
                report.skipped[obstacle.reason] = report.skipped.get(obstacle.reason, 0) + 1
        else:
            report.problems.append((path, obstacle.reason.value, obstacle.detail or REMEDIES.get(obstacle.reason, "")))
    for path, hold in holds.items():
        if path in problems:
            continue
        if hold.reason:
            report.problems.append((path, hold.reason, hold.message))
        else:
            report.errors.append(f"{path}: {hold.message}")
            if hold.refused:
                report.exit_code = NotAllowedError.exit_code
    report.settle()


def problem_counts(snapshot: Snapshot, strays: dict[str, Obstacle], holds: Holds) -> dict[str, int]:
    counts = {str(reason): number for reason, number in snapshot.counts.problems.items()}
    for obstacle in strays.values():
        if not obstacle.reason.skipped:
            counts[obstacle.reason.value] = counts.get(obstacle.reason.value, 0) + 1
    for hold in holds.values():
        if hold.reason:
            counts[hold.reason] = counts.get(hold.reason, 0) + 1
    return counts


def problem_paths(snapshot: Snapshot, strays: dict[str, Obstacle], holds: Holds) -> tuple[Problem, ...]:
    found = [
        Problem(path, obstacle.reason.value, obstacle.detail or REMEDIES.get(obstacle.reason, ""))
        for path, obstacle in [*snapshot.problems, *strays.items()]
        if not obstacle.reason.skipped
    ]
    found += [Problem(path, hold.reason, hold.message) for path, hold in holds.items() if hold.reason]
    return tuple(found[:PROBLEMS_SHOWN])


def trees(counts: Counts) -> tuple[Tree, Tree]:
    return Tree(counts.local_objects, counts.local_bytes), Tree(counts.remote_objects, counts.remote_bytes)


def pending(counts: Counts, since: float | None) -> Pending:
    return Pending(counts.dirty, counts.dirty_bytes, since if counts.dirty else None)
