"""Pruning removes what nobody refers to, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.core import channels, manifest
from agent.errors import SnapshotError
from agent.objectstore import Link
from agent.snapshots import prune as pruning
from agent.snapshots.prune import prune
from tests.support.publisher import Publisher, name_of, write

LATER = 1_900_000_000.0  # long after everything was made


async def publish(publisher: Publisher, *versions: bytes) -> list[str]:
    ids = []
    for data in versions:
        write(publisher.directory, {"a": data, "always": b"always"})
        ids.append((await publisher.publish()).id)
    return ids


@pytest.fixture
async def old(make_publisher: Callable[..., Any]) -> tuple[Publisher, list[str]]:
    """Three snapshots; the content of the first is nowhere else."""
    publisher: Publisher = await make_publisher()
    return publisher, await publish(publisher, b"1", b"2", b"3")


async def test_snapshots_beyond_keep_go_and_with_them_what_only_they_had(old: tuple[Publisher, list[str]]):
    publisher, ids = old

    planned = await prune(await publisher.opened(), keep={"models": 2}, dry_run=True, now=lambda: LATER)
    assert (planned.snapshots, planned.contents) == ([ids[0]], 1)
    assert len(await (await publisher.opened()).snapshots()) == 3

    done = await prune(await publisher.opened(), keep={"models": 2}, now=lambda: LATER)
    assert done == planned
    assert [one.id for one in await (await publisher.opened()).snapshots()] == ids[1:]
    assert await publisher.contents() == {name_of(data) for data in (b"2", b"3", b"always")}


async def test_content_within_the_grace_stays(old: tuple[Publisher, list[str]]):
    publisher, ids = old

    done = await prune(await publisher.opened(), keep={"models": 2})

    assert (done.snapshots, done.contents) == ([ids[0]], 0)
    assert name_of(b"1") in await publisher.contents()


async def test_what_a_channel_points_to_or_somebody_has_pinned_stays(old: tuple[Publisher, list[str]]):
    publisher, ids = old
    repository = await publisher.opened()
    first = next(one for one in await repository.snapshots() if one.id == ids[0])
    record = channels.Record(repository.name, "beta", ids[0], first.manifest, 1, "2026-01-01T00:00:00Z")
    await repository.move(record, expected_revision=0, signer=None)

    done = await prune(repository, keep={"models": 1}, pinned={ids[1]}, now=lambda: LATER)

    assert done.snapshots == [] and done.contents == 0
    assert [one.id for one in await repository.snapshots()] == ids


async def test_an_unsealed_snapshot_stays_for_the_grace_and_keeps_its_content(old: tuple[Publisher, list[str]]):
    publisher, ids = old
    repository = await publisher.opened()
    unfinished = manifest.bucket_of(repository.name, "20990101T000000Z-0123456789ab")
    bucket = await repository.buckets.create(unfinished)
    await repository.bucket.put_bytes(name_of(b"coming"), b"coming")
    await bucket.add_link("coming", Link(repository.name, name_of(b"coming")))

    done = await prune(repository, keep={"models": 1}, grace=-10.0)  # everything is old enough, content too
    assert set(done.snapshots) == {"20990101T000000Z-0123456789ab", *ids[:2]}

    bucket = await repository.buckets.create(unfinished)
    await repository.bucket.put_bytes(name_of(b"coming"), b"coming")
    await bucket.add_link("coming", Link(repository.name, name_of(b"coming")))
    done = await prune(repository, keep={"models": 1})
    assert done.snapshots == [] and name_of(b"coming") in await publisher.contents()


async def test_content_that_is_used_again_meanwhile_stays(
    old: tuple[Publisher, list[str]], monkeypatch: pytest.MonkeyPatch
):
    publisher, _ = old
    original = pruning._superfluous

    async def meanwhile(*args: Any) -> Any:
        await (await publisher.opened()).bucket.update_meta(name_of(b"1"))  # a publisher stamps it anew
        return await original(*args)

    monkeypatch.setattr(pruning, "_superfluous", meanwhile)
    done = await prune(await publisher.opened(), keep={"models": 1}, now=lambda: LATER)

    assert done.contents == 1  # "2" alone
    assert name_of(b"1") in await publisher.contents()


async def test_a_snapshot_that_cannot_be_read_keeps_all_content(old: tuple[Publisher, list[str]]):
    publisher, _ = old
    repository = await publisher.opened()
    bucket = await repository.buckets.create(manifest.bucket_of(repository.name, "20990101T000000Z-0123456789ab"))
    await bucket.connection.request(
        f"$O.{bucket.name}.M.YQ==", b"not a meta", headers={"Nats-Rollup": "sub"}, timeout=5
    )
    await bucket.seal()

    with pytest.raises(SnapshotError, match="can't be read"):
        await prune(repository, keep={"models": 2}, now=lambda: LATER)
    assert name_of(b"1") in await publisher.contents()


async def test_a_channel_that_cannot_be_read_removes_nothing(old: tuple[Publisher, list[str]]):
    publisher, ids = old
    repository = await publisher.opened()
    await repository.bucket.put_bytes("channels/odd", b"no link")

    with pytest.raises(SnapshotError, match="channel can't be read"):
        await prune(repository, keep={"models": 1}, now=lambda: LATER)
    assert [one.id for one in await repository.snapshots()] == ids


async def test_other_objects_of_the_repository_stay(old: tuple[Publisher, list[str]]):
    publisher, _ = old
    repository = await publisher.opened()
    for name in ("sha256/readme", "notes", "sha256/" + "0" * 63):
        await repository.bucket.put_bytes(name, b"x")

    await prune(repository, keep={"models": 1}, now=lambda: LATER)

    names = {info.name for info in await repository.bucket.list()}
    assert {"sha256/readme", "notes", "sha256/" + "0" * 63, "channels/stable"} <= names
