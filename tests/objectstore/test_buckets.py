"""Buckets: made only when they aren't there, changed only where they differ, and never believed without an echo."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import model as config_model
from agent.errors import (
    BucketError,
    BucketExistsError,
    BucketNameError,
    BucketNotFoundError,
    NotABucketError,
    SealedError,
    StoreUnavailableError,
)
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, Endpoint, Mirror, Placement
from agent.objectstore.spec import changed_config, new_config
from tests.objectstore.waiting import until
from tests.support.server import NatsServer, free_port
from tests.support.stock import Stock


async def test_a_bucket_is_made_in_the_shape_of_the_specification(buckets: Buckets, bucket_name: str):
    spec = BucketSpec(storage="memory", max_bytes=1 << 20, ttl=3600.0, description="in words")
    bucket, changes = await buckets.ensure(bucket_name, spec, may_create=True)
    status = await bucket.status()

    assert changes == ["created"]
    assert status.config["subjects"] == [f"$O.{bucket_name}.C.>", f"$O.{bucket_name}.M.>"]
    assert status.config["discard"] == "new"
    assert status.config["allow_rollup_hdrs"] is True
    assert status.config["allow_direct"] is True
    assert (status.storage, status.max_bytes, status.ttl, status.description) == ("memory", 1 << 20, 3600.0, "in words")
    assert (status.messages, status.size, status.sealed, status.replicas) == (0, 0, False, 1)
    assert bucket.has_ttl


async def test_a_second_ensure_changes_nothing(buckets: Buckets, bucket_name: str):
    spec = BucketSpec(max_bytes=1 << 20, ttl=60.0, compression=True, description="d", metadata={"a": "b"})
    await buckets.ensure(bucket_name, spec, may_create=True)

    assert (await buckets.ensure(bucket_name, spec, may_create=False)).changes == []


async def test_only_what_differs_is_changed_and_what_is_not_declared_stays(buckets: Buckets, bucket_name: str):
    await buckets.ensure(bucket_name, BucketSpec(max_bytes=1 << 20, description="old"), may_create=True)
    bucket, changes = await buckets.ensure(bucket_name, BucketSpec(description="new", ttl=30.0), may_create=False)
    status = await bucket.status()

    assert sorted(change.partition(":")[0] for change in changes) == ["description", "max_age"]
    assert (status.description, status.ttl, status.max_bytes) == ("new", 30.0, 1 << 20)
    assert status.config["duplicate_window"] <= 30e9

    _, changes = await buckets.ensure(bucket_name, BucketSpec(ttl=0, max_bytes=0), may_create=False)
    status = await bucket.status()
    assert (status.ttl, status.max_bytes) == (0, 0)


async def test_atomic_batches_are_allowed_where_the_server_has_them(bucket: Bucket, connection: Connection):
    assert bucket.atomic == (connection.server_version >= (2, 12, 0))


async def test_a_bucket_of_the_stock_client_gets_atomic_batches_when_it_is_declared(
    buckets: Buckets, stock: Stock, bucket_name: str
):
    stock.create(bucket_name)
    assert not (await buckets.bind(bucket_name)).atomic
    bucket, changes = await buckets.ensure(bucket_name, BucketSpec(), may_create=False)

    if buckets.connection.server_version >= (2, 12, 0):
        assert changes == ["allow_atomic: False -> True"]
        assert bucket.atomic
    else:
        assert changes == []


async def test_compression_and_metadata_are_believed_only_when_the_server_echoes_them(
    buckets: Buckets, bucket_name: str
):
    spec = BucketSpec(compression=True, metadata={"owner": "me"})
    bucket, _ = await buckets.ensure(bucket_name, spec, may_create=True)
    status = await bucket.status()

    if buckets.connection.server_version >= (2, 10, 0):
        assert (status.compression, status.metadata) == (True, {"owner": "me"})
        assert bucket.warnings == ()
    else:
        assert (status.compression, status.metadata) == (False, {})
        assert any("compression" in warning for warning in bucket.warnings)
        assert any("metadata" in warning for warning in bucket.warnings)
        assert (await buckets.ensure(bucket_name, spec, may_create=False)).changes == []


async def test_metadata_that_others_have_set_stays(buckets: Buckets, bucket_name: str):
    if buckets.connection.server_version < (2, 10, 0):
        pytest.skip("this server has no stream metadata")
    await buckets.ensure(bucket_name, BucketSpec(metadata={"theirs": "1", "ours": "1"}), may_create=True)
    bucket, _ = await buckets.ensure(bucket_name, BucketSpec(metadata={"ours": "2"}), may_create=False)

    assert (await bucket.status()).metadata == {"theirs": "1", "ours": "2"}


async def test_a_bucket_that_may_not_be_made_is_not_made(buckets: Buckets, bucket_name: str):
    with pytest.raises(BucketNotFoundError):
        await buckets.ensure(bucket_name, BucketSpec(), may_create=False)
    with pytest.raises(BucketNotFoundError):
        await buckets.bind(bucket_name)


async def test_a_bucket_is_never_made_because_a_look_at_it_failed(
    buckets: Buckets, bucket_name: str, monkeypatch: pytest.MonkeyPatch
):
    real = Connection.api

    async def flaky(self: Connection, verb: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if verb.startswith("STREAM.INFO"):
            raise StoreUnavailableError("no answer")
        return await real(self, verb, *args, **kwargs)

    monkeypatch.setattr(Connection, "api", flaky)
    with pytest.raises(StoreUnavailableError):
        await buckets.ensure(bucket_name, BucketSpec(), may_create=True)
    monkeypatch.undo()

    assert bucket_name not in await buckets.names()


async def test_create_refuses_a_bucket_that_is_there(buckets: Buckets, bucket: Bucket):
    with pytest.raises(BucketExistsError):
        await buckets.create(bucket.name)


@pytest.mark.parametrize("name", ["a.b", "", "a b", "*"])
async def test_a_name_that_is_none_is_refused_before_any_request(buckets: Buckets, name: str):
    with pytest.raises(BucketNameError):
        await buckets.bind(name)
    with pytest.raises(BucketNameError):
        await buckets.create(name)


async def test_a_stream_that_is_no_object_store_is_not_opened_changed_or_deleted(buckets: Buckets, bucket_name: str):
    stream = f"OBJ_{bucket_name}"
    await buckets.connection.api(f"STREAM.CREATE.{stream}", {"name": stream, "subjects": [f"other.{bucket_name}"]})

    for attempt in (
        buckets.bind(bucket_name),
        buckets.delete(bucket_name),
        buckets.ensure(bucket_name, BucketSpec(), may_create=True),
    ):
        with pytest.raises(NotABucketError):
            await attempt
    with pytest.raises(BucketExistsError):
        await buckets.create(bucket_name)
    assert bucket_name not in await buckets.names()
    await buckets.connection.api(f"STREAM.INFO.{stream}")


async def test_a_storage_that_differs_is_refused_with_the_remedy_and_nothing_else_is_changed(
    buckets: Buckets, bucket: Bucket
):
    with pytest.raises(BucketError, match="copy the objects"):
        await buckets.ensure(bucket.name, BucketSpec(storage="memory", description="x"), may_create=False)

    assert (await bucket.status()).description == ""


async def test_a_bucket_that_is_no_mirror_cannot_become_one(buckets: Buckets, bucket: Bucket):
    with pytest.raises(BucketError, match="no mirror"):
        await buckets.ensure(bucket.name, BucketSpec(mirror=Mirror("origin")), may_create=False)


async def test_fields_of_a_newer_server_survive_an_update(buckets: Buckets, bucket: Bucket):
    live = {**bucket.config, "from_the_future": {"a": 1}}
    config, changes = changed_config(live, bucket.name, BucketSpec(description="x"), version=(2, 9, 0), domain=None)

    assert config["from_the_future"] == {"a": 1}
    assert changes == ["description: none -> x"]
    assert not any(key.startswith("_nats.") for key in config.get("metadata", {}))


async def test_listing_has_buckets_and_mirrors_and_nothing_else(buckets: Buckets, bucket: Bucket):
    mirror = f"{bucket.name}-mirror"
    if buckets.connection.server_version < (2, 10, 0):
        with pytest.raises(BucketError, match=r"2\.10"):
            await buckets.ensure(mirror, BucketSpec(mirror=Mirror(bucket.name)), may_create=True)
        return
    made, _ = await buckets.ensure(mirror, BucketSpec(mirror=Mirror(bucket.name)), may_create=True)
    try:
        by_name = {status.name: status for status in await buckets.list()}

        assert by_name[mirror].mirror == Mirror(bucket.name)
        assert by_name[bucket.name].mirror is None
        assert any("direct gets" in warning for warning in made.warnings)
        assert (await buckets.ensure(mirror, BucketSpec(mirror=Mirror(bucket.name)), may_create=False)).changes == []
        with pytest.raises(BucketError, match="mirror of another"):
            await buckets.ensure(mirror, BucketSpec(mirror=Mirror("else")), may_create=False)
        with pytest.raises(BucketError, match="mirror"):
            await made.delete("x")
    finally:
        await buckets.delete(mirror)


async def test_more_buckets_than_a_page_holds_are_all_listed(make_server: Callable[..., NatsServer]):
    server = make_server()
    async with await Connection.open(Endpoint([server.url]), name="test") as connection:
        buckets = Buckets(connection)
        for number in range(300):
            config = new_config(f"b{number}", BucketSpec(storage="memory"), version=(2, 12, 0), domain=None)
            await connection.api(f"STREAM.CREATE.OBJ_b{number}", config)

        assert len(await buckets.names()) == 300


async def test_a_sealed_bucket_refuses_every_write_and_says_so(buckets: Buckets, bucket: Bucket):
    info = await bucket.put_bytes("a", b"content")
    again = await buckets.bind(bucket.name)  # one that doesn't know yet
    status = await bucket.seal()
    assert status.sealed and bucket.sealed
    assert (await bucket.seal()).sealed

    for writer in (bucket, again):
        for attempt in (
            writer.delete("a"),
            writer.update_meta("a", description="x"),
            writer.rename("a", "b"),
            writer.add_link("l", info),
            writer.purge_chunks(info.nuid),
        ):
            with pytest.raises(SealedError):
                await attempt
    assert (await bucket.info("a")).digest == info.digest

    ensured = await buckets.ensure(bucket.name, BucketSpec(description="x", ttl=5.0), may_create=False)
    assert (await bucket.status()).description == "x"
    assert any("sealed" in warning for warning in ensured.bucket.warnings)
    await buckets.delete(bucket.name)
    assert bucket.name not in await buckets.names()


async def test_sealing_keeps_the_configuration(buckets: Buckets, bucket_name: str):
    spec = BucketSpec(description="d", max_bytes=1 << 20, compression=True, metadata={"jetsync.repository": "1"})
    bucket, _ = await buckets.ensure(bucket_name, spec, may_create=True)
    before = await bucket.status()
    after = await bucket.seal()

    assert (after.description, after.max_bytes) == (before.description, before.max_bytes)
    assert (after.compression, after.metadata) == (before.compression, before.metadata)


async def test_a_mirror_of_a_leaf_is_written_nowhere_and_read_like_a_bucket(
    make_server: Callable[..., NatsServer], tmp_path: Path
):
    port = free_port()
    hub = make_server(
        jetstream=False,
        config_extra=f'jetstream {{ store_dir: "{tmp_path / "hub"}", domain: hub }}\n'
        f'leafnodes {{ listen: "127.0.0.1:{port}" }}',
    )
    edge = make_server(
        jetstream=False,
        config_extra=f'jetstream {{ store_dir: "{tmp_path / "edge"}", domain: edge }}\n'
        f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}',
    )
    async with (
        await Connection.open(Endpoint([hub.url], domain="hub"), name="hub") as to_hub,
        await Connection.open(Endpoint([edge.url], domain="edge"), name="edge") as to_edge,
    ):
        origin = await Buckets(to_hub).create("artifacts")
        assert origin.atomic  # its version is told by the stream, not by the server at our end
        await origin.put_bytes("a/b", b"x" * 300_000)
        mirror, _ = await Buckets(to_edge).ensure(
            "copy", BucketSpec(mirror=Mirror("artifacts", "hub")), may_create=True
        )
        assert (await mirror.status()).mirror == Mirror("artifacts", "hub")
        assert mirror.origin == "artifacts"
        await until(lambda: has_messages(mirror, 4))
        info = await mirror.info("a/b")
        assert info.bucket == "copy"
        assert info.revision == (await origin.info("a/b")).revision
        assert await mirror.get_bytes("a/b") == b"x" * 300_000
        assert [found.name for found in await mirror.list()] == ["a/b"]
        await origin.add_link("l", await origin.info("a/b"))
        await until(lambda: has_messages(mirror, 5))
        found, resolved = await mirror.resolve(await mirror.info("l"))
        assert (found.name, resolved.name) == ("copy", "a/b")
        with pytest.raises(BucketError, match="mirror"):
            await mirror.update_meta("a/b", description="x")


def test_placement_is_sent_as_it_is_declared():
    config = new_config("b", BucketSpec(placement=Placement("east", ("ssd",))), version=None, domain=None)

    assert config["placement"] == {"cluster": "east", "tags": ["ssd"]}


async def has_messages(bucket: Bucket, number: int) -> bool:
    return (await bucket.status()).messages >= number


def test_a_declaration_in_the_configuration_says_only_what_the_file_says():
    said = config_model.Bucket.model_validate({"ttl": "1h", "mirror": {"bucket": "origin", "domain": "hub"}})
    everything = config_model.Bucket.model_validate(
        {
            "storage": "memory",
            "replicas": 3,
            "max_bytes": "1MiB",
            "compression": True,
            "description": "d",
            "metadata": {"a": "b"},
            "placement": {"cluster": "c", "tags": ["t"]},
        }
    )

    assert BucketSpec.of(config_model.Bucket()) == BucketSpec()
    assert BucketSpec.of(said) == BucketSpec(ttl=3600.0, mirror=Mirror("origin", "hub"))
    assert BucketSpec.of(everything) == BucketSpec(
        storage="memory",
        replicas=3,
        max_bytes=1 << 20,
        compression=True,
        description="d",
        metadata={"a": "b"},
        placement=Placement("c", ("t",)),
    )


async def test_the_nats_section_of_the_configuration_opens_a_connection(nats_url: str):
    section = config_model.Nats.model_validate({"servers": [nats_url]})

    async with await Connection.open(section, name="test") as connection:
        assert connection.connected
