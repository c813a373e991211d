"""Reading a snapshot whole finds whatever is wrong with it."""

from __future__ import annotations

import pytest

from agent.core import manifest
from agent.errors import SnapshotError
from agent.objectstore import Link
from agent.snapshots.check import check
from tests.support.publisher import Publisher, name_of


async def test_a_whole_snapshot_has_no_problems(publisher: Publisher):
    report = await publisher.publish()
    seen: list[tuple[int, int]] = []

    checked = await check(await publisher.opened(), report.id, on_progress=lambda *now: seen.append(now))

    assert (checked.problems, checked.sealed, checked.signer, checked.files) == ([], True, "", 4)
    assert seen[-1] == (6, 6)


async def test_content_that_others_have_changed_or_removed_is_found_under_every_path(publisher: Publisher):
    report = await publisher.publish()
    bucket = (await publisher.opened()).bucket
    await bucket.put_bytes(name_of(b"one"), b"eno")
    await bucket.delete(name_of(b"two"))

    checked = await check(await publisher.opened(), report.id)

    assert [path for path, _ in checked.problems] == ["a", "deep/b", "deep/c"]
    assert "damaged or replaced" in checked.problems[0][1] and "not there" in checked.problems[1][1]


async def test_a_snapshot_that_was_never_completed_says_so(publisher: Publisher):
    await publisher.publish()
    repository = await publisher.opened()
    identity = "20990101T000000Z-0123456789ab"
    bucket = await repository.buckets.create(manifest.bucket_of(repository.name, identity))
    await bucket.add_link("a", Link(repository.name, name_of(b"one")))

    checked = await check(repository, identity)

    assert [words for _, words in checked.problems] == [
        "it isn't sealed: it was never completed, or is being published",
        f"snapshot {identity} has no manifest",
    ]


async def test_links_that_lead_elsewhere_are_found(publisher: Publisher, monkeypatch: pytest.MonkeyPatch):
    report = await publisher.publish()
    repository = await publisher.opened()
    honest = await repository.snapshot_bucket(report.id)
    identity = "20990101T000000Z-" + report.id.rpartition("-")[2]
    forged = await repository.buckets.create(manifest.bucket_of(repository.name, identity))
    await forged.put_bytes(manifest.MANIFEST_NAME, await honest.get_bytes(manifest.MANIFEST_NAME))
    await forged.add_link("a", Link(repository.name, name_of(b"two")))
    await forged.add_link("deep/b", Link(forged.name, "deep/b2"))
    await forged.add_link("deep/b2", Link(forged.name, "deep/b"))
    await forged.put_bytes("deep/c", b"one")
    await forged.seal()

    checked = await check(repository, identity)

    told = {path for path, _ in checked.problems}
    assert told == {"a", "deep/b", "deep/b2", "empty"}


async def test_a_snapshot_that_is_not_there_is_told(publisher: Publisher):
    await publisher.publish()
    with pytest.raises(SnapshotError, match="no snapshot 20990101T000000Z-0123456789ab"):
        await check(await publisher.opened(), "20990101T000000Z-0123456789ab")
