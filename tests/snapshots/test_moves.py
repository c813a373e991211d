"""Promoting and rolling back: only to whole snapshots, each time with a higher counter."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys
import pytest

from agent.core import manifest
from agent.errors import SealedError, SnapshotError
from agent.snapshots.moves import promote, roll_back
from agent.snapshots.prune import prune
from agent.snapshots.signing import Signer
from tests.support.publisher import Publisher, name_of, write
from tests.support.server import NatsServer
from tests.support.stock import Stock


@pytest.fixture
async def two(publisher: Publisher) -> tuple[Publisher, str, str]:
    first = await publisher.publish()
    write(publisher.directory, {"a": b"news"})
    return publisher, first.id, (await publisher.publish()).id


async def test_a_rollback_goes_to_the_one_before_and_forth_again(two: tuple[Publisher, str, str]):
    publisher, first, second = two
    repository = await publisher.opened()

    back = await roll_back(repository, "stable", signer=None)
    assert (back.snapshot, back.previous, back.changed) == (first, second, True)
    forth = await roll_back(repository, "stable", signer=None)
    assert forth.snapshot == second and forth.counter > back.counter
    channel = await repository.channel("stable")
    assert channel is not None and channel.snapshot == second
    assert (await publisher.publish()).id == second


async def test_a_snapshot_is_promoted_to_a_channel_of_its_own(two: tuple[Publisher, str, str]):
    publisher, first, _ = two
    repository = await publisher.opened()

    moved = await promote(repository, first, "beta", signer=None)

    assert (moved.previous, moved.counter) == ("", 1)
    assert sorted(await repository.channels()) == ["beta", "stable"]
    assert await repository.resolve("beta") == first


async def test_a_channel_that_somebody_broke_is_listed_and_moved_with_a_higher_counter(
    two: tuple[Publisher, str, str], nats_server: NatsServer
):
    publisher, first, _ = two
    repository = await publisher.opened()
    before = await repository.channel("stable")
    assert before is not None and before.record is not None
    with Stock(nats_server.url) as stock:
        await asyncio.to_thread(stock.publish_meta, publisher.repository, "channels/stable", b"{")

    assert await repository.channels() == ["stable"]
    with pytest.raises(SnapshotError, match="nothing is pruned"):
        await prune(repository, keep={}, grace=0)
    assert (await promote(repository, first, "stable", signer=None)).counter > before.record.counter


async def test_what_is_not_complete_is_not_promoted(two: tuple[Publisher, str, str]):
    publisher, first, _ = two
    repository = await publisher.opened()
    await repository.bucket.delete(name_of(b"one"))
    unsealed = "20990101T000000Z-0123456789ab"
    await repository.buckets.create(manifest.bucket_of(repository.name, unsealed))

    for identity, words in (
        (first, "is missing"),
        (unsealed, "isn't sealed"),
        ("20990101T000001Z-0123456789ab", "no snapshot"),
    ):
        with pytest.raises(SnapshotError, match=words):
            await promote(repository, identity, "stable", signer=None)
    with pytest.raises(SnapshotError, match="no channel 'none'"):
        await roll_back(repository, "none", signer=None)
    await promote(repository, (await publisher.publish()).id, "fresh", signer=None)
    with pytest.raises(SnapshotError, match="doesn't say where it led before"):
        await roll_back(repository, "fresh", signer=None)


async def test_a_signed_channel_is_moved_with_a_key_only(make_publisher: Callable[..., Any], tmp_path: Path):
    seed = bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER))
    (tmp_path / "key.nk").write_bytes(seed)
    publisher: Publisher = await make_publisher(sign_with=tmp_path / "key.nk")
    write(publisher.directory, {"a": b"1"})
    first = await publisher.publish()
    write(publisher.directory, {"a": b"2"})
    await publisher.publish()
    repository = await publisher.opened()

    with pytest.raises(SnapshotError, match="no key to sign with"):
        await roll_back(repository, "stable", signer=None)
    await roll_back(repository, "stable", signer=Signer(seed))

    channel = await repository.channel("stable")
    assert channel is not None and (channel.snapshot, channel.signer) == (first.id, Signer(seed).public)


async def test_a_put_into_a_snapshot_is_refused(two: tuple[Publisher, str, str]):
    publisher, first, _ = two
    bucket = await (await publisher.opened()).snapshot_bucket(first)
    with pytest.raises(SealedError):
        await bucket.put_bytes("a", b"x")
