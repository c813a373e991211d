"""Links: by name, through buckets and mirrors, and never without an end."""

from __future__ import annotations

import pytest

from agent.errors import BucketNameError, LinkError, ObjectExistsError, ObjectNotFoundError, RevisionError
from agent.objectstore import Bucket, Buckets, Link
from tests.support.stock import Stock

MANY = b"0123456789" * 40_000


async def test_a_link_gives_the_content_of_its_target_also_after_an_overwrite(bucket: Bucket, stock: Stock):
    target = await bucket.put_bytes("t", b"old")
    link = await bucket.add_link("l", target, metadata={"k": "v"}, expected_revision=0)
    await bucket.put_bytes("t", b"new")

    assert link.link == Link(bucket.name, "t")
    assert (await bucket.info("l")).metadata == {"k": "v"}
    assert await bucket.get_bytes("l") == b"new"
    assert stock.get(bucket.name, "l") == b"new"


async def test_a_link_leads_into_another_bucket(bucket: Bucket, buckets: Buckets):
    other = await buckets.create(f"{bucket.name}-other")
    await other.put_bytes("t", b"1")
    await bucket.add_link("l", Link(other.name, "t"))
    found, info = await bucket.resolve(await bucket.info("l"))

    assert (found.name, info.bucket, info.name) == (other.name, other.name, "t")


async def test_an_object_resolves_to_itself(bucket: Bucket):
    info = await bucket.put_bytes("t", b"1")

    assert await bucket.resolve(info) == (bucket, info)


async def test_a_link_over_an_object_needs_its_revision_and_then_purges_its_chunks(bucket: Bucket):
    target = await bucket.put_bytes("t", b"1")
    old = await bucket.put_bytes("l", MANY)
    with pytest.raises(ObjectExistsError):
        await bucket.add_link("l", target)
    with pytest.raises(RevisionError):
        await bucket.add_link("l", target, expected_revision=0)
    await bucket.add_link("l", target, expected_revision=old.revision)

    assert await bucket.chunk_subjects() == {target.nuid: 1}


async def test_a_link_may_replace_a_link_and_a_marker(bucket: Bucket):
    target = await bucket.put_bytes("t", b"1")
    await bucket.add_link("l", Link(bucket.name, "elsewhere"))
    await bucket.add_link("l", target)
    await bucket.delete("l")
    await bucket.add_link("l", target)

    assert await bucket.get_bytes("l") == b"1"
    assert await bucket.get_bytes("t") == b"1"


async def test_deleting_a_link_leaves_its_target(bucket: Bucket):
    target = await bucket.put_bytes("t", b"1")
    await bucket.add_link("l", target)
    await bucket.delete("l")

    assert await bucket.get_bytes("t") == b"1"
    with pytest.raises(ObjectNotFoundError):
        await bucket.info("l")


async def test_what_cannot_be_linked_to_is_refused(bucket: Bucket):
    target = await bucket.put_bytes("t", b"1")
    link = await bucket.add_link("l", target)
    await bucket.delete("t")
    marker = await bucket.info("t", show_deleted=True)

    for nonsense in (link, marker, Link(bucket.name, "m")):
        with pytest.raises(LinkError):
            await bucket.add_link("m", nonsense)
    with pytest.raises(BucketNameError):
        await bucket.add_bucket_link("m", "no.bucket")


async def test_a_dangling_link_a_loop_and_a_bucket_link_are_told_apart(bucket: Bucket):
    b = bucket.name
    await bucket.add_link("gone", Link(b, "nothing"))
    await bucket.add_link("far", Link(f"{b}-nowhere", "nothing"))
    await bucket.add_link("hostile", Link("x", "y"))
    await bucket.add_link("l1", Link(b, "l2"))
    await bucket.add_link("l2", Link(b, "l3"))
    await bucket.add_link("l3", Link(b, "l1"))
    await bucket.add_bucket_link("whole", bucket)
    assert (await bucket.info("whole")).link == Link(b)

    for name, words in (("gone", "nothing"), ("far", "can't be opened"), ("l1", "loop"), ("whole", "bucket")):
        with pytest.raises(LinkError, match=words):
            await bucket.resolve(await bucket.info(name))


async def test_a_link_of_a_hostile_meta_to_no_bucket_at_all_dangles(bucket: Bucket, stock: Stock):
    for target in ({"bucket": "a.b", "name": "x"}, {"bucket": ">", "name": "x"}, {"bucket": "b", "name": "y" * 5000}):
        stock.publish_meta(bucket.name, "l", {"name": "l", "nuid": "N", "options": {"link": target}})
        with pytest.raises(LinkError):
            await bucket.resolve(await bucket.info("l"))
    await bucket.status()
    assert bucket.connection.reconnects == 0


async def test_a_chain_is_followed_to_its_depth_and_no_further(bucket: Bucket):
    await bucket.put_bytes("n0", b"1")
    for number in range(1, 6):
        await bucket.add_link(f"n{number}", Link(bucket.name, f"n{number - 1}"))
    last = await bucket.info("n5")

    assert (await bucket.resolve(last, depth=5))[1].name == "n0"
    with pytest.raises(LinkError, match="more than 4"):
        await bucket.resolve(last, depth=4)
