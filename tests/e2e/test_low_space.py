"""A full disk, a full bucket, a full account: the direction stops, says so once, and goes on when there is room."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.directory.disk import run_as_root_in_namespace
from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, eventually, mapping, read_tree, write_tree
from tests.support.server import NatsServer
from tests.support.stock import Stock

pytestmark = pytest.mark.timeout(300)

KIB = 1 << 10
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def reasons(page: dict[str, Any]) -> list[str]:
    return [problem["reason"] for problem in page["problems"]]


def test_a_full_bucket_stops_the_uploads_and_nothing_else(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    stock.create(bucket_name, max_bytes=2 * MIB)
    agent = make_agent()
    old = {f"old/{number}": noise(200 * KIB, number) for number in range(5)}
    write_tree(agent.directory(), old)
    with agent.run() as running:
        eventually(lambda: stock.names(bucket_name) == set(old))
        stock.put(bucket_name, "from there", b"comes down")
        write_tree(agent.directory(), {f"new/{number:02}": noise(150 * KIB, number + 100) for number in range(20)})
        eventually(lambda: running.events("uploads_stopped"))

        stock.delete(bucket_name, "old/0")
        eventually(lambda: not (agent.directory() / "old/0").exists())
        stock.put(bucket_name, "also", b"down")
        eventually((agent.directory() / "also").exists)
        (status,) = agent.cli("status", "--json").json["mappings"]
        assert status["problems"] == {"bucket_full": 1}
        assert len(running.events("uploads_stopped")) == 1
        assert running.events("action_failed") == []

        for number in range(1, 5):
            (agent.directory() / f"old/{number}").unlink()
        for number in range(8, 20):
            (agent.directory() / f"new/{number:02}").unlink()
        expected = {"from there", "also", *(f"new/{number:02}" for number in range(8))}
        eventually(lambda: stock.names(bucket_name) == expected, timeout=150)  # it is probed slowly
        eventually(lambda: not stock.orphans(bucket_name), timeout=60)
        assert running.events("uploads_go_on")


def test_a_one_shot_sync_names_a_full_bucket_once_and_ends(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    stock.create(bucket_name, max_bytes=1 * MIB)
    agent = make_agent()
    write_tree(agent.directory(), {f"{number:02}": noise(90 * KIB, number) for number in range(40)})
    stock.put(bucket_name, "from there", b"comes down")

    result = agent.sync(exit=3)

    assert result["state"] == "partial"
    assert reasons(result) == ["bucket_full"]
    assert "max_bytes" in result["problems"][0]["detail"]
    assert (agent.directory() / "from there").read_bytes() == b"comes down"
    assert stock.orphans(bucket_name) == {}


def test_a_large_upload_into_a_full_bucket_leaves_nothing(make_agent: MakeAgent, stock: Stock, bucket_name: str):
    stock.create(bucket_name, max_bytes=6 * MIB)
    agent = make_agent()
    write_tree(agent.directory(), {"large": noise(12 * MIB)})

    assert reasons(agent.sync(exit=3)) == ["bucket_full"]
    assert stock.names(bucket_name) == set()
    assert stock.chunks(bucket_name) == {}


def test_the_limit_of_an_account_stops_the_uploads_too(tmp_path: Path):
    limits = """
accounts {
  SMALL { jetstream { max_mem: 1M, max_file: 3M, max_streams: 5, max_consumers: 50 }, users: [{user: a, password: p}] }
}
no_auth_user: a
"""
    with NatsServer(tmp_path / "nats", config_extra=limits) as server, Stock(server.url) as stock:
        stock.create("files")
        agent = Agent(tmp_path / "a", server.url, [mapping("files")])
        write_tree(agent.directory(), {f"{number:02}": noise(100 * KIB, number) for number in range(50)})
        result = agent.sync(exit=3)

        assert reasons(result) == ["bucket_full"]
        assert "account" in result["problems"][0]["detail"]
        for number in range(25, 50):
            (agent.directory() / f"{number:02}").unlink()
        agent.sync(timeout=100)
        assert stock.contents("files") == {path: node.content for path, node in read_tree(agent.directory()).items()}  # type: ignore[union-attr]


TMPFS = """
import hashlib, os, sys
from pathlib import Path
from tests.support.agent import Agent, eventually, mapping
from tests.support.stock import Stock
home, url, bucket = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
agent = Agent(home, url, [mapping(bucket, max_delete="100%")])
root = agent.directory()
root.mkdir(parents=True, exist_ok=True)
assert os.system(f"mount -t tmpfs -o size=16m none {root}") == 0
staging = root / ".jetsync" / "staging"
trash = root / ".jetsync" / "trash"

def free():
    status = os.statvfs(root)
    return status.f_bavail * status.f_frsize

def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

def on_disk(directory):
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) if directory.exists() else 0
"""


def on_a_tmpfs(script: str, agent_home: Path, url: str, bucket: str) -> None:
    run_as_root_in_namespace(TMPFS + script, agent_home, url, bucket)


def test_downloads_stop_above_the_floor_and_go_on_when_there_is_room(
    stock: Stock, bucket: str, tmp_path: Path, nats_url: str
):
    for number in range(20):
        stock.put(bucket, f"{number:02}", noise(1 * MIB, number))
    on_a_tmpfs(
        """
with Stock(url) as stock, agent.run(wait=False) as running:
    eventually(lambda: running.events("downloads_stopped"))
    eventually(lambda: not list(staging.iterdir()))
    assert free() > 16 * 1024 * 1024 // 20 - 4096, free()
    (stopped,) = running.events("downloads_stopped")
    assert stopped["reason"] == "no_space" and stopped["remedy"], stopped
    assert running.events("action_failed") == []
    (root / "from here").write_bytes(b"goes up")
    eventually(lambda: "from here" in stock.names(bucket))
    for number in range(10):
        stock.delete(bucket, f"{number:02}")
    there = {f"{number:02}" for number in range(10, 20)} | {"from here"}
    eventually(lambda: {path.name for path in root.iterdir() if path.is_file()} == there, timeout=40)
    eventually(lambda: not list(staging.iterdir()))
    assert running.events("downloads_go_on")
    assert free() > 16 * 1024 * 1024 // 20 - 4096, free()
""",
        tmp_path / "a",
        nats_url,
        bucket,
    )


def test_a_file_that_is_too_large_for_the_disk_keeps_no_other_waiting(
    stock: Stock, bucket: str, tmp_path: Path, nats_url: str
):
    stock.put(bucket, "huge", noise(20 * MIB))
    stock.put(bucket, "small", b"small")
    stock.put(bucket, "middle", noise(3 * MIB))
    on_a_tmpfs(
        """
result = agent.sync(exit=3)
assert [(problem["path"], problem["reason"]) for problem in result["problems"]] == [("huge", "no_space")], result
assert {path.name for path in root.iterdir() if path.is_file()} == {"small", "middle"}
assert not list(staging.iterdir())
""",
        tmp_path / "a",
        nats_url,
        bucket,
    )


def test_a_disk_that_fills_up_during_a_download_gets_nothing_half_written(
    stock: Stock, bucket: str, tmp_path: Path, nats_url: str
):
    stock.put(bucket, "large", noise(12 * MIB))
    on_a_tmpfs(
        """
import threading, time
def fill():
    # As soon as the download has begun somebody else takes the rest.
    while not on_disk(staging) > 512 * 1024:
        time.sleep(0.001)
    try:
        (root / ".jetsync" / "ballast").write_bytes(bytes(16 << 20))
    except OSError:
        pass
thread = threading.Thread(target=fill)
thread.start()
result = agent.sync(exit=3)
thread.join()
assert [problem["reason"] for problem in result["problems"]] == ["no_space"], result
assert not (root / "large").exists()
assert not list(staging.iterdir())
(root / ".jetsync" / "ballast").unlink()
agent.sync()
assert (root / "large").stat().st_size == 12 << 20
""",
        tmp_path / "a",
        nats_url,
        bucket,
    )


def test_the_trash_keeps_to_its_share_and_gives_way_on_a_full_disk(
    stock: Stock, bucket: str, tmp_path: Path, nats_url: str
):
    on_a_tmpfs(
        """
with Stock(url) as stock, agent.run() as running:
    for turn in range(20):
        stock.put(bucket, "file", os.urandom(1 << 20))
        eventually(lambda: stock.digests(bucket)["file"] == sha256(root / "file"))
    assert running.events("action_failed") == [], running.events("action_failed")
    eventually(lambda: on_disk(trash) <= 8 << 20, timeout=30)
    assert on_disk(trash) > 0, os.listdir(trash)
""",
        tmp_path / "a",
        nats_url,
        bucket,
    )
