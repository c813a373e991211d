"""Snapshots and channels that lie, publishers that nobody trusts: refused with a reason, and the old version stays."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import nkeys
import pytest

from agent.core import manifest as manifests
from agent.core.channels import PUBLISHER, RECORD, SIGNATURE, signed_record
from agent.directory import probe
from agent.errors import ChannelError, JetsyncError, ManifestError, SnapshotError
from agent.objectstore import Buckets, BucketSpec, Link
from agent.objectstore.commit import commit
from agent.snapshots.signing import Signer
from tests.support.publisher import name_of
from tests.support.snapshots import Files, Maker, Subscriber, To, content_of, tree_of

GOOD: Files = {"a": b"one", "deep/b": b"two"}


@pytest.fixture
async def installed(maker: Maker, subscriber: Subscriber) -> str:
    """The id of a good snapshot, which is current."""
    identity = await maker.make(GOOD)
    await subscriber.install()
    return identity


async def refused(subscriber: Subscriber, installed: str, kind: type[JetsyncError], says: str, **options: Any) -> None:
    with pytest.raises(kind, match=says):
        await subscriber.install(**options)
    assert subscriber.current == installed
    assert content_of(subscriber.version(installed)) == {"a": b"one", "deep/b": b"two"}


# -- manifests ---------------------------------------------------------------------------------------------------------


def entry(path: str, data: bytes = b"one", **changes: Any) -> dict[str, Any]:
    made = {"digest": hashlib.sha256(data).hexdigest(), "mode": "644", "path": path, "size": len(data)}
    return {key: value for key, value in {**made, **changes}.items() if value is not None}


def text(*entries: dict[str, Any]) -> bytes:
    return json.dumps(
        {"entries": list(entries), "version": 1}, ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (text(entry("../x")), "lies"),
        (text(entry("/etc/x")), "lies"),
        (text(entry("a/../../x")), "lies"),
        (text(entry(".jetsync/x")), "reserved"),
        (text(entry("a"), entry("a")), "twice"),
        (text(entry("a"), entry("a/b")), "stands below"),
        (text(entry("a"), {"path": "a/"}), "a"),
        (text({"path": "l", "target": "../../etc/passwd"}), "out of the tree"),
        (text({"path": "l", "target": "a"}, entry("l/x")), "stands below"),
        (text(entry("a", size=-1)), "size"),
        (text(entry("a", digest="XYZ")), "digest"),
        (text(entry("a", mode="4755")), "mode"),
        (b"{}", "isn't one"),
        (b"[" * 5000, "JSON"),
        (text(entry("b"), entry("a")), "canonical"),
    ],
)
async def test_a_manifest_that_lies_is_refused(
    maker: Maker, subscriber: Subscriber, installed: str, manifest: bytes, says: str
):
    await maker.make({"a": b"one"}, manifest=manifest)

    await refused(subscriber, installed, ManifestError, says)


async def test_a_manifest_of_another_snapshot_is_refused(maker: Maker, subscriber: Subscriber, installed: str):
    other = tree_of({"a": b"other"}).encoded
    identity = await maker.make({"a": b"one"}, seal=False)
    bucket = await (await maker.opened()).snapshot_bucket(identity)
    await bucket.put_bytes(manifests.MANIFEST_NAME, other)
    await bucket.seal()

    await refused(subscriber, installed, ManifestError, "isn't that of snapshot")


async def test_a_snapshot_without_a_manifest_or_with_a_link_in_its_place_is_refused(
    maker: Maker, subscriber: Subscriber, installed: str
):
    await maker.make({"a": b"x"}, objects={})
    repository = await maker.opened()
    identity = manifests.snapshot_id(_moment(), "ab" * 32)
    bucket = await Buckets(maker.connection).create(manifests.bucket_of(repository.name, identity), BucketSpec())
    await bucket.seal()
    await maker.move(identity, "ab" * 32)

    await refused(subscriber, installed, ManifestError, "no manifest")

    identity = manifests.snapshot_id(_moment(), "cd" * 32)
    bucket = await Buckets(maker.connection).create(manifests.bucket_of(repository.name, identity), BucketSpec())
    await bucket.add_link(manifests.MANIFEST_NAME, Link(bucket.name, manifests.MANIFEST_NAME + "x"))
    await bucket.seal()
    await maker.move(identity, "cd" * 32)

    await refused(subscriber, installed, ManifestError, "is a link")


def _moment() -> Any:
    return datetime(2026, 7, 1, tzinfo=UTC)


async def test_names_that_a_file_system_takes_for_one_are_refused_there(
    maker: Maker, subscriber: Subscriber, installed: str, monkeypatch: pytest.MonkeyPatch
):
    await maker.make({"Readme": b"1", "README": b"2"})
    monkeypatch.setattr(probe, "is_case_insensitive", lambda _fd: True)

    await refused(subscriber, installed, SnapshotError, "one name")


# -- objects that aren't what the manifest says ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objects", "says"),
    [
        ({"a": None}, "'a' has no object"),
        ({"a": b"other"}, "'a' is another object"),
        ({"a": Link("elsewhere", name_of(b"new"))}, "'a' leads elsewhere"),
        ({"a": "content of other"}, "'a' leads elsewhere"),
        ({"a": "itself"}, "'a' leads elsewhere"),
        ({"a": Link("elsewhere")}, "'a' leads elsewhere"),
        ({"more": b"x"}, "'more' isn't in it"),
        ({"hollow/": b"x"}, "'hollow/' is no directory"),
        ({"l": Link("elsewhere", "a")}, "'l' leads elsewhere"),
    ],
)
async def test_an_object_that_is_not_what_the_manifest_says_is_named(
    maker: Maker, subscriber: Subscriber, installed: str, objects: dict[str, Any], says: str
):
    stand_ins = {
        "content of other": Link(maker.repository, name_of(b"other")),
        "itself": Link(maker.repository, "a"),
    }
    made: dict[str, Any] = {
        path: stand_ins.get(value, value) if isinstance(value, str) else value for path, value in objects.items()
    }
    await maker.make({"a": b"new", "hollow/": None, "l": To("a")}, objects=made)

    await refused(subscriber, installed, SnapshotError, says)


async def test_an_unsealed_snapshot_is_refused(maker: Maker, subscriber: Subscriber, installed: str):
    await maker.make({"a": b"new"}, seal=False)

    await refused(subscriber, installed, SnapshotError, "isn't sealed")


async def test_a_snapshot_that_is_gone_is_refused(maker: Maker, subscriber: Subscriber, installed: str):
    identity = await maker.make({"a": b"new"})
    await Buckets(maker.connection).delete(manifests.bucket_of(maker.repository, identity))

    await refused(subscriber, installed, SnapshotError, "there is no snapshot")


# -- content -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["deleted", "replaced", "replaced by as much", "link", "loop", "no chunks"])
async def test_content_that_others_damaged_is_found_and_named_and_healed_by_publishing(
    maker: Maker, subscriber: Subscriber, installed: str, damage: str
):
    large = b"new" * 100_000
    identity = await maker.make({**GOOD, "deep/new": large})
    repository = await maker.opened()
    name = name_of(large)
    bucket = repository.bucket
    if damage == "deleted":
        await bucket.delete(name)
    elif damage == "replaced":
        await bucket.put_bytes(name, b"evil")
    elif damage == "replaced by as much":
        await bucket.put_bytes(name, b"bad" * 100_000)
    elif damage == "no chunks":
        await bucket.purge_chunks((await bucket.info(name)).nuid)
    else:
        await bucket.put_bytes("elsewhere", large)
        target = Link(bucket.name, "elsewhere" if damage == "link" else name_of(b"one"))
        await bucket.add_link(name, target, expected_revision=(await bucket.info(name)).revision)

    await refused(subscriber, installed, SnapshotError, "deep/new")

    await bucket.put_bytes(name, large)
    await subscriber.install()
    assert subscriber.current == identity


async def test_bytes_under_a_right_meta_that_are_wrong_are_found_by_digest(
    maker: Maker, subscriber: Subscriber, installed: str
):
    """What an attacker with access to the stream could do: other chunks, and a meta that tells nothing of it."""
    await maker.make({"a": b"new", "large": b"L" * 300_000})
    bucket = (await maker.opened()).bucket
    for data, wrong in ((b"new", b"bad"), (b"L" * 300_000, b"X" * 300_000)):
        info = await bucket.info(name_of(data))
        evil = await bucket.put_bytes(f"evil {len(data)}", wrong)
        await _put_chunks_of(bucket, evil, info)

    await refused(subscriber, installed, SnapshotError, "digest")


async def _put_chunks_of(bucket: Any, evil: Any, info: Any) -> None:
    """Have the meta of `info` name the chunks of `evil`."""
    await commit(bucket, replace(info, nuid=evil.nuid, chunks=evil.chunks), expected_revision=info.revision)


async def test_content_that_is_here_already_need_not_be_in_the_repository(
    maker: Maker, subscriber: Subscriber, installed: str
):
    identity = await maker.make({**GOOD, "new": b"new"})
    await (await maker.opened()).bucket.delete(name_of(b"one"))

    await subscriber.install()

    assert subscriber.current == identity


# -- channels ----------------------------------------------------------------------------------------------------------


async def test_a_channel_that_does_not_exist_is_told(maker: Maker, subscriber: Subscriber, installed: str):
    await refused(subscriber, installed, ChannelError, "no channel 'other'", channel="other")


@pytest.mark.parametrize("target", ["bucket", "object", "foreign", "object here"])
async def test_a_channel_that_leads_elsewhere_is_refused(
    maker: Maker, subscriber: Subscriber, installed: str, target: str
):
    repository = await maker.opened()
    name = manifests.channel_name("stable")
    revision = (await repository.bucket.info(name)).revision
    foreign = manifests.bucket_of("other", "20260101T000000Z-0123456789ab")
    if target == "object here":
        await repository.bucket.put_bytes(name, b"x")
    elif target == "object":
        await repository.bucket.add_link(name, Link(repository.name, name_of(b"one")), expected_revision=revision)
    else:
        bucket = repository.name if target == "bucket" else foreign
        await repository.bucket.add_bucket_link(name, bucket, expected_revision=revision)

    await refused(subscriber, installed, ChannelError, "doesn't lead to a snapshot")


async def test_a_channel_made_by_a_plain_client_is_followed(maker: Maker, subscriber: Subscriber, installed: str):
    identity = await maker.make({"a": b"new"}, channel="")
    repository = await maker.opened()
    name = manifests.channel_name("stable")
    revision = (await repository.bucket.info(name)).revision
    await repository.bucket.add_bucket_link(
        name, manifests.bucket_of(repository.name, identity), expected_revision=revision
    )

    assert (await subscriber.install()).id == identity


# -- trust -------------------------------------------------------------------------------------------------------------


def signer() -> Signer:
    return Signer(bytes(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)))


@pytest.fixture
def key() -> Signer:
    return signer()


@pytest.fixture
async def trusting(maker: Maker, subscriber: Subscriber, key: Signer) -> str:
    """The id of a good signed snapshot, which is current in a subscriber that trusts its publisher only."""
    identity = await maker.make(GOOD, signer=key)
    await subscriber.install(trusted_publishers=(key.public,))
    return identity


async def test_a_trusted_publisher_is_followed_also_back(
    maker: Maker, subscriber: Subscriber, key: Signer, trusting: str
):
    second = await maker.make({"a": b"new"}, signer=key)
    assert (await subscriber.install()).id == second

    await maker.back_to(trusting, signer=key)
    assert (await subscriber.install()).id == trusting


async def test_an_unsigned_channel_is_refused(maker: Maker, subscriber: Subscriber, trusting: str):
    await maker.make({"a": b"new"})

    await refused(subscriber, trusting, ChannelError, "isn't signed")


async def test_a_foreign_key_is_refused(maker: Maker, subscriber: Subscriber, trusting: str):
    foreign = signer()
    await maker.make({"a": b"new"}, signer=foreign)

    await refused(subscriber, trusting, ChannelError, foreign.public)


@pytest.mark.parametrize("lost", ["nothing", "state", "note"])
async def test_an_old_record_that_is_played_again_is_refused_whatever_was_lost(
    maker: Maker, subscriber: Subscriber, key: Signer, trusting: str, lost: str
):
    repository = await maker.opened()
    old = await repository.bucket.info(manifests.channel_name("stable"))
    second = await maker.make({**GOOD, "new": b"new"}, signer=key)
    await subscriber.install()
    if lost == "state":
        for path in subscriber.state.parent.glob(subscriber.state.name + "*"):
            path.unlink()
    elif lost == "note":
        (subscriber.directory / "versions/.jetsync/accepted.json").unlink()

    now = await repository.bucket.info(manifests.channel_name("stable"))
    assert old.link is not None
    await repository.bucket.add_bucket_link(
        old.name, old.link.bucket, metadata=old.metadata, expected_revision=now.revision
    )

    with pytest.raises(ChannelError, match="played again"):
        await subscriber.install()
    assert subscriber.current == second


@pytest.mark.parametrize("tampered", ["record", "snapshot", "channel", "signature", "counter", "key"])
async def test_a_tampered_record_is_refused(
    maker: Maker, subscriber: Subscriber, key: Signer, trusting: str, tampered: str
):
    second = await maker.make({"a": b"new"}, signer=key)
    third = await maker.make({"a": b"newer"}, channel="")
    repository = await maker.opened()
    name = manifests.channel_name("stable")
    info = await repository.bucket.info(name)
    metadata, target = dict(info.metadata), manifests.bucket_of(repository.name, second)
    record = json.loads(metadata[RECORD])
    if tampered == "record":
        metadata[RECORD] = "{}"
    elif tampered == "snapshot":
        target = manifests.bucket_of(repository.name, third)
    elif tampered == "signature":
        metadata[SIGNATURE] = key.sign(b"something else")
    elif tampered == "key":
        metadata[PUBLISHER] = signer().public
    else:
        record |= {"channel": "other"} if tampered == "channel" else {"counter": 99}
        metadata[RECORD] = json.dumps(record, separators=(",", ":"), sort_keys=True)
        if tampered == "channel":  # a record of another channel, validly signed
            metadata[SIGNATURE] = key.sign(signed_record(metadata[RECORD]))
    await repository.bucket.add_bucket_link(name, target, metadata=metadata, expected_revision=info.revision)

    await refused(subscriber, trusting, ChannelError, "channel")


async def test_a_snapshot_whose_manifest_is_not_the_records_is_refused(
    maker: Maker, subscriber: Subscriber, key: Signer, trusting: str
):
    """Who may make buckets, but has no key, finds a manifest with the same twelve digits: the record has all 64."""
    identity = await maker.make({"a": b"new"}, channel="")
    twelve = identity.rpartition("-")[2]
    await maker.move(identity, twelve + "0" * 52, signer=key)

    await refused(subscriber, trusting, ManifestError, "isn't that of snapshot")


async def test_a_pin_needs_the_manifest_signed_by_a_trusted_key(
    maker: Maker, make_subscriber: Callable[..., Subscriber], key: Signer
):
    signed = await maker.make({"a": b"signed"}, signer=key)
    unsigned = await maker.make({"a": b"unsigned"})
    foreign = await maker.make({"a": b"foreign"}, signer=signer())
    trust = {"trusted_publishers": (key.public,)}

    assert (await make_subscriber("one", snapshot=signed, **trust).install()).id == signed
    with pytest.raises(SnapshotError, match="isn't signed"):
        await make_subscriber("two", snapshot=unsigned, **trust).install()
    with pytest.raises(SnapshotError, match="trusted_publishers has others"):
        await make_subscriber("three", snapshot=foreign, **trust).install()


async def test_who_trusts_nobody_in_particular_takes_any_order(maker: Maker, subscriber: Subscriber, installed: str):
    second = await maker.make({"a": b"new"})
    await maker.move(second, tree_of({"a": b"new"}).digest, counter=1)

    assert (await subscriber.install()).id == second


async def test_the_first_wrong_file_ends_the_fetching_of_the_others(
    maker: Maker, subscriber: Subscriber, installed: str
):
    files: Files = {f"f{number:03}": b"%d" % number for number in range(200)}
    identity = await maker.make(files)
    await (await maker.opened()).bucket.delete(name_of(b"7"))

    await refused(subscriber, installed, SnapshotError, "f007")

    await (await maker.opened()).bucket.put_bytes(name_of(b"7"), b"7")
    report = await subscriber.install()
    assert report.id == identity
