"""The harness of the end-to-end tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.agent import WITHOUT_PRIVILEGES, EmptyDirectory, File, Link, Node, read_tree, write_tree
from tests.support.server import NatsServer
from tests.support.stock import Stock


def test_a_tree_is_read_as_it_was_written(tmp_path: Path):
    tree: dict[str, Node] = {
        "a/b.txt": File(b"bytes"),
        "run.sh": File(b"#!", executable=True),
        "a/link": Link("b.txt"),
        "empty/": EmptyDirectory(),
    }
    write_tree(tmp_path, tree)
    write_tree(tmp_path, {".jetsync/x": b""})

    assert read_tree(tmp_path) == tree


def test_an_unprivileged_process_cannot_read_what_its_mode_forbids(tmp_path: Path):
    path = tmp_path / "secret"
    path.write_bytes(b"bytes")
    path.chmod(0)
    read = [*WITHOUT_PRIVILEGES, sys.executable, "-c", "import sys; open(sys.argv[1])", str(path)]
    done = subprocess.run(read, capture_output=True, text=True, check=False)

    assert "PermissionError" in done.stderr


def test_the_stock_client_sees_metas_chunks_and_orphans(nats_server: NatsServer, bucket_name: str):
    with Stock(nats_server.url) as stock:
        stock.create(bucket_name)
        stock.put(bucket_name, "a", b"x" * 300, chunk_size=100)
        stock.put_raw(bucket_name, "../b", b"raw")
        stock.publish_chunk(bucket_name, "orphan", b"left over")

        assert stock.contents(bucket_name) == {"a": b"x" * 300, "../b": b"raw"}
        assert stock.orphans(bucket_name) == {"orphan": 1}
        meta = stock.meta(bucket_name, "a")
        assert meta is not None
        assert stock.chunks(bucket_name)[meta.payload["nuid"]] == 3
        stock.delete(bucket_name, "a")
        assert stock.names(bucket_name) == {"../b"}
        assert stock.meta(bucket_name, "never") is None
