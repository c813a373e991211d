"""The other clients and we read, list, watch, link, rename and delete what each other has written.

nats-py comes with us; the Go client is built from interop_go/ where there is a `go` that can get its modules.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import DigestError, ObjectNotFoundError
from agent.objectstore import Bucket, Link
from tests.support.server import NatsServer
from tests.support.stock import Stock

MANY = b"0123456789abcdef" * 40_000  # 5 chunks
NAMES = ["a", "dir/ü .txt", "n" * 1500, "trailing/", "\N{GRINNING FACE}"]


# -- nats-py


async def test_what_nats_py_has_written_is_read(bucket: Bucket, stock: Stock):
    for name in NAMES:
        stock.put(bucket.name, name, MANY)
    stock.put(bucket.name, "empty", b"")
    stock.put(bucket.name, "ragged", MANY, chunk_size=1000)

    for name in NAMES:
        info = await bucket.info(name)
        assert (info.size, info.digest) == (len(MANY), hashlib.sha256(MANY).digest())
        assert await bucket.get_bytes(name) == MANY
    assert await bucket.get_bytes("empty") == b""
    assert await bucket.get_bytes("ragged") == MANY
    assert {info.name for info in await bucket.list()} == {*NAMES, "empty", "ragged"}


async def test_what_we_have_written_is_read_by_nats_py(bucket: Bucket, stock: Stock):
    for name in NAMES:
        await bucket.put_bytes(name, MANY, description="d", headers={"H": ["1"]}, metadata={"k": "v"})
    await bucket.put_bytes("empty", b"")
    link = await bucket.add_link("link", Link(bucket.name, "a"))
    await bucket.rename("dir/ü .txt", "renamed", metadata={})
    expected = {name: MANY for name in NAMES if name != "dir/ü .txt"} | {"renamed": MANY, "link": MANY, "empty": b""}

    assert stock.contents(bucket.name) == expected
    info = stock.wait(stock.store(bucket.name).get_info("a"))
    assert (info.description, info.headers, info.size, info.chunks) == ("d", {"H": ["1"]}, len(MANY), 5)
    listed = stock.wait(stock.store(bucket.name).list())
    assert {entry.name for entry in listed if not entry.deleted} == set(expected)
    assert link.nuid


async def test_a_marker_of_nats_py_is_read_and_put_over(bucket: Bucket, stock: Stock):
    stock.put(bucket.name, "a", MANY)
    stock.delete(bucket.name, "a")

    assert (await bucket.info("a", show_deleted=True)).deleted
    with pytest.raises(ObjectNotFoundError):
        await bucket.info("a")
    assert await bucket.list() == []
    await bucket.put_bytes("a", b"1", expected_revision=(await bucket.info("a", show_deleted=True)).revision)
    assert stock.get(bucket.name, "a") == b"1"


async def test_our_marker_is_read_put_over_and_listed_by_nats_py(bucket: Bucket, stock: Stock):
    await bucket.put_bytes("a", MANY)
    await bucket.put_bytes("b", MANY)
    await bucket.delete("a")
    await bucket.rename("b", "c")
    listed = stock.wait(stock.store(bucket.name).list(ignore_deletes=True))
    stock.put(bucket.name, "a", b"again")
    stock.delete(bucket.name, "c")

    assert [entry.name for entry in listed] == ["c"]
    assert await bucket.get_bytes("a") == b"again"
    assert [info.name for info in await bucket.list()] == ["a"]


async def test_a_stock_overwrite_of_a_renamed_name_leaves_the_new_name_whole(bucket: Bucket, stock: Stock):
    await bucket.put_bytes("a", MANY)
    await bucket.rename("a", "b")
    stock.put(bucket.name, "a", b"theirs")

    assert await bucket.get_bytes("b") == MANY
    assert stock.get(bucket.name, "a") == b"theirs"


async def test_a_stock_writer_that_races_with_our_precondition_is_never_lost(bucket: Bucket, stock: Stock):
    ours = await bucket.put_bytes("a", b"0")
    stock.put(bucket.name, "a", b"theirs")
    for attempt in (
        bucket.put_bytes("a", b"ours", expected_revision=ours.revision),
        bucket.delete("a", expected_revision=ours.revision),
        bucket.rename("a", "b", expected_revision=ours.revision),
    ):
        with pytest.raises(Exception, match=r"revision|sequence"):
            await attempt

    assert stock.get(bucket.name, "a") == b"theirs"


async def test_damaged_content_of_others_is_found_by_its_digest(bucket: Bucket, stock: Stock):
    stock.put_raw(bucket.name, "a", b"promised", digest="SHA-256=" + base64.urlsafe_b64encode(bytes(32)).decode())

    with pytest.raises(DigestError):
        await bucket.get_bytes("a")


# -- Go


class Go:
    """The Go client's Object Store on one bucket."""

    def __init__(self, binary: Path, url: str, bucket: str) -> None:
        self._process = subprocess.Popen(
            [binary, url, bucket], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def do(self, op: str, name: str = "", **fields: Any) -> Any:
        """The result; a failed operation raises RuntimeError with Go's words."""
        if isinstance(fields.get("data"), bytes):
            fields["data"] = base64.b64encode(fields["data"]).decode()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"op": op, "name": name, **fields}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["ok"]

    def get(self, name: str) -> bytes:
        return base64.b64decode(self.do("get", name) or "")

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def go_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("there is no go here")
    binary = tmp_path_factory.mktemp("go") / "interop"
    try:
        built = subprocess.run(
            [compiler, "build", "-o", binary, "."],
            cwd=Path(__file__).with_name("interop_go"),
            env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false"},
            capture_output=True, text=True, timeout=280, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        pytest.skip("building the Go client took too long")
    if built.returncode:
        pytest.skip(f"the Go client can't be built here: {built.stderr.strip().splitlines()[-1:]}")
    return binary


@pytest.fixture
def go(go_binary: Path, any_server: NatsServer) -> Iterator[Callable[[Bucket], Go]]:
    made: list[Go] = []

    def start(bucket: Bucket) -> Go:
        made.append(Go(go_binary, any_server.url, bucket.name))
        return made[-1]

    yield start
    for client in made:
        client.close()


patient = pytest.mark.timeout(400)  # the first one builds the program


@patient
async def test_what_go_has_written_is_read_and_kept(bucket: Bucket, go: Callable[[Bucket], Go]):
    client = go(bucket)
    for name in NAMES:
        client.do("put", name, data=MANY, description="d", metadata={"k": "v"}, headers={"H": ["1", "2"]})
    client.do("put", "empty")
    client.do("put", "small chunks", data=MANY, chunk_size=1000)
    client.do("link", "link", to="a")

    for name in NAMES:
        info = await bucket.info(name)
        assert (info.description, info.metadata, info.headers) == ("d", {"k": "v"}, {"H": ["1", "2"]})
        assert await bucket.get_bytes(name) == MANY
    assert await bucket.get_bytes("empty") == b""
    assert await bucket.get_bytes("small chunks") == MANY
    assert (await bucket.info("link")).link == Link(bucket.name, "a")
    assert await bucket.get_bytes("link") == MANY

    await bucket.update_meta("a", description="ours")
    info = client.do("info", "a")
    assert (info["description"], info["metadata"], info["headers"]) == ("ours", {"k": "v"}, {"H": ["1", "2"]})


@patient
async def test_what_we_have_written_is_read_by_go(bucket: Bucket, go: Callable[[Bucket], Go]):
    client = go(bucket)
    for name in NAMES:
        await bucket.put_bytes(name, MANY, description="d", headers={"H": ["1"]}, metadata={"k": "v"})
    await bucket.put_bytes("empty", b"")
    await bucket.add_link("link", Link(bucket.name, "a"))
    moved = await bucket.rename("trailing/", "renamed")
    names = [name for name in NAMES if name != "trailing/"] + ["renamed"]

    for name in [*names, "link"]:
        assert client.get(name) == MANY
    assert client.get("empty") == b""
    info = client.do("info", "renamed")
    assert (info["description"], info["metadata"], info["nuid"]) == ("d", {"k": "v"}, moved.nuid)
    assert info["mtime"] > "2020"
    assert set(client.do("list")) == {*names, "empty", "link"}


@patient
async def test_our_markers_are_read_listed_put_over_and_deleted_again_by_go(bucket: Bucket, go: Callable[[Bucket], Go]):
    client = go(bucket)
    for name in ("a", "b", "c"):
        await bucket.put_bytes(name, MANY)
    await bucket.rename("a", "moved")
    await bucket.delete("b")
    await bucket.delete("c")  # the last meta of all: a bad one would make Go's list hang

    assert client.do("list") == ["moved"]
    assert client.do("info", "b", deleted=True)["deleted"] is True
    with pytest.raises(RuntimeError, match="not found"):
        client.do("info", "a")
    client.do("delete", "b")
    client.do("put", "c", data=b"again")
    client.do("put", "a", data=b"again")
    assert await bucket.get_bytes("c") == b"again"
    assert await bucket.get_bytes("moved") == MANY


@patient
async def test_markers_renames_and_overwrites_of_go_are_read(bucket: Bucket, go: Callable[[Bucket], Go]):
    client = go(bucket)
    client.do("put", "a", data=MANY)
    client.do("put", "b", data=MANY)
    client.do("delete", "a")
    client.do("rename", "b", to="moved")

    assert (await bucket.info("a", show_deleted=True)).deleted
    assert [info.name for info in await bucket.list()] == ["moved"]
    assert await bucket.get_bytes("moved") == MANY
    assert await bucket.names_count() == 2
    await bucket.rename("moved", "b")
    assert client.get("b") == MANY


@patient
async def test_a_bucket_that_we_have_sealed_is_sealed_for_go_and_the_other_way(
    bucket: Bucket, go: Callable[[Bucket], Go]
):
    client = go(bucket)
    await bucket.put_bytes("a", MANY)
    if bucket.server_version >= (2, 12, 0):
        client.do("seal")
        assert (await bucket.status()).sealed
    else:
        await bucket.seal()
    assert client.do("status")["sealed"] is True
    assert client.get("a") == MANY
    with pytest.raises(RuntimeError):
        client.do("put", "b", data=b"1")


async def test_a_watch_of_nats_py_sees_our_puts_renames_and_deletes(bucket: Bucket, stock: Stock):
    watcher = stock.wait(stock.store(bucket.name).watch(include_history=False))
    await bucket.put_bytes("a", b"1")
    await bucket.rename("a", "b")
    await bucket.delete("b")
    seen: list[tuple[str, bool]] = []
    async with asyncio.timeout(20):
        while len(seen) < 4:
            update = await asyncio.to_thread(stock.wait, watcher.updates(timeout=10))
            if update is not None:
                seen.append((update.name, bool(update.deleted)))
    stock.wait(watcher.stop())

    assert seen == [("a", False), ("b", False), ("a", True), ("b", True)]
