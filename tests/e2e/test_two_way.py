"""Two running agents keep two directories equal. They run through the whole module; each test has its own names."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.agent import (
    Agent,
    AgentProcess,
    EmptyDirectory,
    File,
    Link,
    eventually,
    mapping,
    read_tree,
    running,
    write_tree,
)
from tests.support.server import NatsServer
from tests.support.stock import Stock

pytestmark = pytest.mark.xdist_group("two-way")  # one worker, so that the agents start once

BUCKET = "two-way"


@dataclass(frozen=True)
class Live:
    a: Path
    b: Path
    agents: tuple[AgentProcess, ...]
    stock: Stock

    def arrives(self, path: str, content: File | Link, *, timeout: float = 30.0) -> None:
        """Wait until both sides have `path` with this content."""

        def check() -> bool:
            for side in (self.a, self.b):
                found = node(side / path)
                assert found == content, f"{side / path} is {found!r}"
            return True

        eventually(check, timeout=timeout)

    def vanishes(self, path: str) -> None:
        eventually(lambda: not os.path.lexists(self.a / path) and not os.path.lexists(self.b / path))


def node(path: Path) -> File | Link | None:
    if path.is_symlink():
        return Link(str(path.readlink()))
    if not path.is_file():
        return None
    return File(path.read_bytes(), executable=os.access(path, os.X_OK))


@pytest.fixture(scope="module")
def live(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("two-way")
    agents = [Agent(home / name, nats_server.url, [mapping(BUCKET)]) for name in ("a", "b")]
    with running(*agents) as processes, Stock(nats_server.url) as stock:
        yield Live(agents[0].directory(), agents[1].directory(), processes, stock)


@pytest.fixture(params=["from a to b", "from b to a"])
def sides(live: Live, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    return (live.a, live.b) if request.param == "from a to b" else (live.b, live.a)


def test_a_file_of_one_byte_appears_on_the_other_side(live: Live, sides: tuple[Path, Path]):
    name = f"one-{sides[0].parent.name}"
    write_tree(sides[0], {name: b"x"})

    live.arrives(name, File(b"x"))


def test_an_empty_file_appears_on_the_other_side(live: Live):
    write_tree(live.a, {"empty": b""})

    live.arrives("empty", File(b""))


def test_an_edit_on_either_side_goes_to_the_other(live: Live):
    write_tree(live.a, {"edited": b"first"})
    live.arrives("edited", File(b"first"))
    write_tree(live.b, {"edited": b"second, and longer"})
    live.arrives("edited", File(b"second, and longer"))
    write_tree(live.a, {"edited": b"third"})
    live.arrives("edited", File(b"third"))


def test_a_large_file_arrives_whole(live: Live):
    content = random.Random(1).randbytes(64 * 1024 * 1024)
    write_tree(live.a, {"large": content})

    live.arrives("large", File(content))


def test_two_thousand_small_files_arrive(live: Live):
    tree = {f"small/{number % 20:02}/{number}.txt": f"content {number}".encode() for number in range(2000)}
    write_tree(live.a, tree)

    eventually(lambda: read_tree(live.b / "small") == read_tree(live.a / "small"), timeout=50)


def test_a_delete_on_either_side_goes_to_the_other(live: Live, sides: tuple[Path, Path]):
    name = f"deleted-{sides[0].parent.name}"
    write_tree(live.a, {name: b"soon gone"})
    live.arrives(name, File(b"soon gone"))
    (sides[0] / name).unlink()

    live.vanishes(name)


def test_a_directory_emptied_by_sync_is_removed(live: Live):
    write_tree(live.a, {"tree/deep/one": b"1", "tree/deep/two": b"2"})
    live.arrives("tree/deep/two", File(b"2"))
    live.arrives("tree/deep/one", File(b"1"))
    shutil.rmtree(live.a / "tree")

    live.vanishes("tree")


def test_a_rename_moves_the_file_without_sending_a_chunk_again(live: Live):
    content = random.Random(2).randbytes(300_000)
    write_tree(live.a, {"old-name": content})
    live.arrives("old-name", File(content))
    before = live.stock.meta(BUCKET, "old-name")
    assert before is not None
    (live.a / "old-name").rename(live.a / "new-name")
    live.arrives("new-name", File(content))
    live.vanishes("old-name")
    after = live.stock.meta(BUCKET, "new-name")

    assert after is not None
    assert after.payload["nuid"] == before.payload["nuid"]
    assert live.stock.get(BUCKET, "new-name") == content
    assert "old-name" not in live.stock.names(BUCKET)


def test_a_renamed_directory_moves_all_its_files_without_sending_a_chunk_again(live: Live):
    tree = {f"before/{number}": random.Random(number).randbytes(1000) for number in range(20)}
    write_tree(live.a, tree)
    eventually(lambda: read_tree(live.a / "before") == read_tree(live.b / "before"))
    metas = live.stock.metas(BUCKET)
    nuids = {metas[path].payload["nuid"] for path in tree}
    (live.a / "before").rename(live.a / "after")
    eventually(lambda: (live.b / "after").is_dir() and read_tree(live.a / "after") == read_tree(live.b / "after"))
    live.vanishes("before")
    metas = live.stock.metas(BUCKET)

    assert {metas[path.replace("before", "after")].payload["nuid"] for path in tree} == nuids


def test_making_a_file_executable_and_back_goes_to_the_other_side(live: Live):
    write_tree(live.a, {"script": b"#!/bin/sh\n"})
    live.arrives("script", File(b"#!/bin/sh\n"))
    (live.a / "script").chmod(0o755)
    live.arrives("script", File(b"#!/bin/sh\n", executable=True))
    (live.b / "script").chmod(0o644)
    live.arrives("script", File(b"#!/bin/sh\n"))


def test_a_symlink_comes_back_as_a_symlink_and_is_an_object_link_in_the_bucket(live: Live):
    write_tree(live.a, {"links/target": b"bytes", "links/link": Link("target")})
    live.arrives("links/link", Link("target"))
    live.arrives("links/target", File(b"bytes"))
    meta = live.stock.meta(BUCKET, "links/link")

    assert meta is not None
    assert meta.payload["options"]["link"] == {"bucket": BUCKET, "name": "links/target"}
    assert live.stock.get(BUCKET, "links/link") == b"bytes"


def test_a_symlink_to_another_directory_has_the_shortest_relative_text(live: Live):
    write_tree(live.a, {"x/y/link": Link("../../x/../z/target"), "z/target": b"z"})

    eventually(lambda: node(live.b / "x/y/link") == Link("../../z/target"))


def test_a_file_becomes_a_link_and_a_file_again(live: Live):
    write_tree(live.a, {"changing": b"file", "aim": b"aim"})
    live.arrives("changing", File(b"file"))
    write_tree(live.a, {"changing": Link("aim")})
    live.arrives("changing", Link("aim"))
    (live.b / "changing").unlink()
    write_tree(live.b, {"changing": b"file again"})
    live.arrives("changing", File(b"file again"))


def test_a_file_becomes_a_directory(live: Live):
    write_tree(live.a, {"shape": b"file"})
    live.arrives("shape", File(b"file"))
    (live.a / "shape").unlink()
    write_tree(live.a, {"shape/inner": b"in a directory now"})

    live.arrives("shape/inner", File(b"in a directory now"))


def test_the_modification_time_follows_the_file(live: Live):
    write_tree(live.a, {"timed": b"bytes"})
    live.arrives("timed", File(b"bytes"))
    os.utime(live.a / "timed", ns=(10**18, 10**18 + 123_456_789))

    eventually(lambda: (live.b / "timed").stat().st_mtime_ns == 10**18 + 123_456_789)


def test_names_in_all_scripts_and_with_odd_characters_arrive_as_they_are(live: Live):
    tree: dict[str, bytes] = {
        f"odd/{name}": name.encode()
        for name in (
            "blank in name",
            "Ünïcödé",
            "日本語",
            "emoji 🙂",
            "new\nline",
            "*?[x]",
            "-dash",
            "#hash",
            "a:b",
            "e\u0301",
            "\u00e9",
        )
    }
    write_tree(live.a, tree)

    eventually(
        lambda: read_tree(live.b / "odd") == read_tree(live.a / "odd") and len(read_tree(live.b / "odd")) == len(tree)
    )


def test_a_file_that_grows_slowly_arrives_whole(live: Live):
    with (live.a / "growing").open("wb") as out:
        for number in range(50):
            out.write(f"line {number}\n".encode() * 100)
            out.flush()
            os.fsync(out.fileno())
    live.arrives("growing", File((live.a / "growing").read_bytes()))


def test_an_object_by_the_stock_client_becomes_a_file_on_both_sides(live: Live):
    live.stock.put(BUCKET, "by/stock", b"stock bytes")
    live.arrives("by/stock", File(b"stock bytes"))
    live.stock.delete(BUCKET, "by/stock")
    live.vanishes("by")


def test_an_emptied_directory_of_a_person_stays(live: Live):
    write_tree(live.a, {"persons/file": b"x"})
    live.arrives("persons/file", File(b"x"))
    (live.a / "persons/file").unlink()
    eventually(lambda: not (live.b / "persons/file").exists())

    assert read_tree(live.a / "persons") == {}
    assert read_tree(live.a)["persons/"] == EmptyDirectory()


def test_a_file_and_a_directory_of_one_name_made_on_both_sides_at_once_are_both_kept(live: Live):
    for number in range(5):
        write_tree(live.a, {f"clash-{number}": b"a file"})
        write_tree(live.b, {f"clash-{number}/below": b"a file in a directory"})

    def both() -> bool:
        trees = [
            {path: node for path, node in read_tree(side).items() if path.startswith("clash-")}
            for side in (live.a, live.b)
        ]
        assert trees[0] == trees[1]
        for number in range(5):
            assert trees[0][f"clash-{number}/below"] == File(b"a file in a directory")
            (copy,) = (path for path in trees[0] if path.startswith(f"clash-{number}.conflict-"))
            assert trees[0][copy] == File(b"a file")
        return True

    eventually(both, timeout=30)
