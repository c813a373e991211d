"""The table of scenarios that are stopped at every step: what both sides agree on, and what has changed since.

A scenario starts from a directory and a bucket that hold its `base`, as a sync has left them (`nothing known` ones: as
if there had been none), and from a change on one side or both. Everything has fixed times, so that two runs of one
scenario can be compared, metadata and the names of conflict copies included.

The bucket is written raw, as other clients do it: several chunks, with or without jetsync's metadata, renames as the Go
client does them (new meta, old one purged) and as another jetsync does them (a marker).
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.agent import Agent
from tests.support.stock import Meta, Stock, meta_subject

SECOND = 1_000_000_000
LONG_AGO = 1_577_836_800 * SECOND  # 2020-01-01
LATER = LONG_AGO + 86_400 * SECOND
CHUNK = 128 << 10
KEPT = "kept.txt"  # in every base, so that no change empties a side


def data(word: str, size: int) -> bytes:
    """Bytes that are like no others, the same each time."""
    return random.Random(f"{word} {size}").randbytes(size)


@dataclass
class Place:
    """One copy of a scenario's world: an agent's home with its directory, and a bucket."""

    agent: Agent
    stock: Stock
    bucket: str
    prefix: str = ""

    @property
    def root(self) -> Path:
        return self.agent.directory()

    # -- people

    def write(self, path: str, content: bytes, *, executable: bool = False, mtime_ns: int = LATER) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = self.agent.home / "aside"
        aside.write_bytes(content)
        aside.chmod(0o755 if executable else 0o644)
        os.utime(aside, ns=(mtime_ns, mtime_ns))
        aside.rename(target)

    def link(self, path: str, text: str) -> None:
        (self.root / path).unlink(missing_ok=True)
        (self.root / path).symlink_to(text)

    def touch(self, path: str, mtime_ns: int) -> None:
        os.utime(self.root / path, ns=(mtime_ns, mtime_ns))

    def move(self, path: str, to: str) -> None:
        (self.root / to).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).rename(self.root / to)

    def remove(self, path: str) -> None:
        """A file, or a directory with all that is in it."""
        target = self.root / path
        if target.is_dir() and not target.is_symlink():
            for name in sorted(os.listdir(target)):
                self.remove(f"{path}/{name}")
            target.rmdir()
        else:
            target.unlink()

    # -- other clients

    def put(self, name: str, content: bytes, *, mode: str | None = "644", mtime_ns: int = LATER) -> None:
        """Store an object with jetsync's metadata, or without (mode=None)."""
        before = self.stock.meta(self.bucket, self.prefix + name)
        nuid = secrets.token_hex(11)
        pieces = [content[start : start + CHUNK] for start in range(0, len(content), CHUNK)]
        for piece in pieces:
            self.stock.publish_chunk(self.bucket, nuid, piece)
        metadata = {} if mode is None else {"jetsync.mode": mode, "jetsync.mtime": stamp(mtime_ns)}
        digest = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode()
        self._meta(
            name, nuid=nuid, size=len(content), chunks=len(pieces), digest=digest, metadata=metadata,
            options={"max_chunk_size": CHUNK},
        )  # fmt: skip
        self._purge(before)

    def put_link(self, name: str, target: str) -> None:
        before = self.stock.meta(self.bucket, self.prefix + name)
        link = {"bucket": self.bucket, "name": self.prefix + target}
        metadata = {"jetsync.mtime": stamp(LATER)}
        self._meta(name, nuid=secrets.token_hex(11), size=0, chunks=0, options={"link": link}, metadata=metadata)
        self._purge(before)

    def put_directory(self, name: str) -> None:
        digest = "SHA-256=47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU="
        metadata = {"jetsync.kind": "directory"}
        self._meta(name, nuid=secrets.token_hex(11), size=0, chunks=0, digest=digest, metadata=metadata)

    def set_remote(self, name: str, *, mode: str, mtime_ns: int) -> None:
        meta = self.stock.meta(self.bucket, self.prefix + name)
        assert meta is not None
        metadata = {"jetsync.mode": mode, "jetsync.mtime": stamp(mtime_ns)}
        self.stock.publish_meta(self.bucket, self.prefix + name, {**meta.payload, "metadata": metadata})

    def delete(self, name: str) -> None:
        before = self._marker(name)
        self.stock.purge(self.bucket, before["nuid"])

    def rename(self, name: str, to: str, *, purged: bool) -> None:
        """purged: as the Go client does it; otherwise with a marker."""
        before = self.stock.meta(self.bucket, self.prefix + name)
        assert before is not None
        new = self.prefix + to
        self.stock.publish_meta(self.bucket, new, {**before.payload, "name": new})
        if purged:
            subject = meta_subject(self.bucket, self.prefix + name)
            self.stock.api(f"STREAM.PURGE.OBJ_{self.bucket}", {"filter": subject})
        else:
            self._marker(name, nuid=secrets.token_hex(11))

    def _purge(self, before: Meta | None) -> None:
        if before is not None and before.payload.get("chunks"):
            self.stock.purge(self.bucket, before.payload["nuid"])

    def _marker(self, name: str, **fields: Any) -> dict[str, Any]:
        before = self.stock.meta(self.bucket, self.prefix + name)
        assert before is not None
        gone = {"deleted": True, "size": 0, "chunks": 0, "digest": ""}
        kept = {key: value for key, value in before.payload.items() if key in ("name", "bucket", "nuid", "mtime")}
        self.stock.publish_meta(self.bucket, self.prefix + name, {**kept, **gone, **fields})
        return before.payload

    def _meta(self, name: str, **fields: Any) -> None:
        payload = {"name": self.prefix + name, "bucket": self.bucket, "mtime": "0001-01-01T00:00:00Z", **fields}
        self.stock.publish_meta(self.bucket, self.prefix + name, payload)


def stamp(mtime_ns: int) -> str:
    """As jetsync writes times: whole seconds will do."""
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(mtime_ns // SECOND, UTC):%Y-%m-%dT%H:%M:%S}.{mtime_ns % SECOND:09d}Z"


Change = Callable[[Place], None]


@dataclass(frozen=True)
class Scenario:
    """base: path -> bytes (a file), a str (a symlink's text), or None (an empty directory) that both sides agree on.

    options: of the mapping. atomic: whether the bucket takes renames as one batch. known: whether a sync has brought
    the base to the bucket; False: it stands in the directory, and the agent has never run. poor: no renameat2.
    forgets: contents that the agent may give up for good.
    """

    name: str
    change: Change
    base: Mapping[str, bytes | str | None] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    atomic: bool = True
    known: bool = True
    poor: bool = False
    forgets: frozenset[bytes] = frozenset()


SMALL = data("small", 900)
OTHER = data("other", 1_100)
THIRD = data("third", 1_300)
MEDIUM = data("medium", 5 * CHUNK + 7)  # six chunks
LARGE = data("large", (9 << 20) + 1)  # over 8 MiB: larger chunks with ids, resumed after a stop
MANY = {f"many/{number % 3}/{number:02}.bin": data(f"many {number}", 300 + number) for number in range(24)}
TREE = {"d/a": SMALL, "d/e/b": OTHER, "d/e/c": THIRD}
BOTH: dict[str, Any] = {"empty_directories": True}


def each(verb: str, paths: Mapping[str, bytes]) -> Change:
    """Do one thing (a method of Place) to many paths."""

    def change(place: Place) -> None:
        for path, content in paths.items():
            match verb:
                case "write" | "put":
                    getattr(place, verb)(path, content)
                case "remove" | "delete":
                    getattr(place, verb)(path)
                case "move":
                    place.move(path, path.replace("many/", "moved/"))
                case "rename":
                    place.rename(path, path.replace("many/", "moved/"), purged=False)

    return change


def all_of(*changes: Change) -> Change:
    def change(place: Place) -> None:
        for one in changes:
            one(place)

    return change


def _edit_both(place: Place, content: bytes = OTHER, theirs: bytes = THIRD) -> None:
    place.write("a.txt", content)
    place.put("a.txt", theirs, mtime_ns=LATER + SECOND)


def _file_to_directory(place: Place) -> None:
    place.remove("d")
    place.write("d/x", OTHER)
    place.write("d/y", THIRD)


def _directory_to_file(place: Place) -> None:
    place.remove("d")
    place.write("d", MEDIUM)


def _remote_file_to_directory(place: Place) -> None:
    place.delete("d")
    place.put("d/x", OTHER)
    place.put("d/y", THIRD)


def _remote_directory_to_file(place: Place) -> None:
    for path in TREE:
        place.delete(path)
    place.put("d", MEDIUM)


def _ignore(place: Place) -> None:
    place.write(".jetsyncignore", b"*.log\n")
    place.write("a.log", OTHER)
    place.write("b.txt", THIRD)


SCENARIOS = [
    # contents, upwards
    Scenario("first contact: the bucket is made", each("write", {"a.txt": SMALL, "b/c.bin": MEDIUM}), known=False),
    Scenario(
        "first contact: files on both sides",
        all_of(
            each("put", {"a": SMALL, "same": OTHER, "differs": THIRD}),
            each("write", {"same": OTHER, "b": MEDIUM}),
            each("write", {"differs": SMALL}),
        ),
        known=False,
    ),
    Scenario("upload small", each("write", {"a.txt": SMALL, "empty": b""})),
    Scenario("upload medium", each("write", {"a.bin": MEDIUM}), options={"prefix": "in/"}),
    Scenario("upload large", each("write", {"a.bin": LARGE})),
    Scenario("upload many", each("write", MANY)),
    Scenario("upload over an object", each("write", {"a.txt": OTHER}), {"a.txt": SMALL}),
    Scenario("upload large over large", each("write", {"a.bin": LARGE}), {"a.bin": LARGE[::-1]}),
    Scenario("upload many over objects", each("write", MANY), {path: content[::-1] for path, content in MANY.items()}),
    # contents, downwards
    Scenario("download small", each("put", {"a.txt": SMALL, "empty": b""})),
    Scenario("download medium", each("put", {"d/e/a.bin": MEDIUM}), options={"prefix": "in/"}),
    Scenario("download large", each("put", {"a.bin": LARGE})),
    Scenario("download many", each("put", MANY)),
    Scenario("download over a file", each("put", {"a.txt": OTHER}), {"a.txt": SMALL}),
    Scenario("download over a file without renameat2", each("put", {"a.txt": OTHER}), {"a.txt": SMALL}, poor=True),
    Scenario(
        "download over a file without trash",
        each("put", {"a.txt": OTHER}),
        {"a.txt": SMALL},
        {"trash": "0s"},
        forgets=frozenset({SMALL}),
    ),
    Scenario("download large over large", each("put", {"a.bin": LARGE}), {"a.bin": LARGE[::-1]}),
    Scenario("download many over files", each("put", MANY), {path: content[::-1] for path, content in MANY.items()}),
    Scenario("download of a stock client's object", lambda place: place.put("a", SMALL, mode=None), {"a": OTHER}),
    # conflicts
    Scenario("keep both", _edit_both, {"a.txt": SMALL}),
    Scenario("keep both without renameat2", _edit_both, {"a.txt": SMALL}, poor=True),
    Scenario("keep both large", lambda place: _edit_both(place, MEDIUM, LARGE), {"a.txt": SMALL}),
    Scenario("prefer remote", _edit_both, {"a.txt": SMALL}, {"conflicts": "prefer-remote"}),
    Scenario("prefer local", _edit_both, {"a.txt": SMALL}, {"conflicts": "prefer-local"}, forgets=frozenset({THIRD})),
    Scenario("both changed to the same", lambda place: _edit_both(place, OTHER, OTHER), {"a.txt": SMALL}),
    Scenario(
        "deleted here, edited there",
        all_of(
            each("remove", {"a": b""}),
            each("put", {"a": OTHER}),
            each("write", {"b": THIRD}),
            each("delete", {"b": b""}),
        ),
        {"a": SMALL, "b": SMALL[::-1]},
    ),
    # deletions
    Scenario("delete local", lambda place: place.delete("d/a.txt"), {"d/a.txt": SMALL}),
    Scenario("delete many local", each("delete", dict(list(MANY.items())[:9])), MANY),
    Scenario("delete remote", lambda place: place.remove("d"), {"d/a.txt": SMALL}),
    Scenario("delete many remote", each("remove", dict(list(MANY.items())[:9])), MANY),
    # renames
    Scenario("rename local", lambda place: place.move("a.bin", "b/c.bin"), {"a.bin": MEDIUM}),
    Scenario("rename local, no batches", lambda place: place.move("a.bin", "b/c.bin"), {"a.bin": MEDIUM}, atomic=False),
    Scenario("rename many local", each("move", MANY), MANY),
    Scenario("rename many local, no batches", each("move", MANY), MANY, atomic=False),
    Scenario("rename remote", lambda place: place.rename("a.bin", "b/c.bin", purged=False), {"a.bin": MEDIUM}),
    Scenario(
        "rename remote, as the Go client does",
        lambda place: place.rename("a.bin", "b/c.bin", purged=True),
        {"a.bin": MEDIUM},
    ),
    Scenario(
        "rename remote without renameat2", lambda place: place.rename("a", "b", purged=False), {"a": SMALL}, poor=True
    ),
    Scenario("rename many remote", each("rename", MANY), MANY),
    Scenario("rename and edit", all_of(lambda place: place.move("a", "b"), each("write", {"a": OTHER})), {"a": SMALL}),
    # metadata
    Scenario(
        "mode and time local", lambda place: place.write("a", SMALL, executable=True, mtime_ns=LATER), {"a": SMALL}
    ),
    Scenario("time local", lambda place: place.touch("a", LATER + 7), {"a": SMALL}),
    Scenario("mode remote", lambda place: place.set_remote("a", mode="755", mtime_ns=LONG_AGO), {"a": SMALL}),
    Scenario("time remote", lambda place: place.set_remote("a", mode="644", mtime_ns=LATER + 7), {"a": SMALL}),
    # links
    Scenario("symlink up", lambda place: place.link("link", "a"), {"a": SMALL}),
    Scenario("symlink down", lambda place: place.put_link("link", "a"), {"a": SMALL}),
    Scenario("symlink turned, up", lambda place: place.link("link", "b"), {"a": SMALL, "b": OTHER, "link": "a"}),
    Scenario("symlink turned, down", lambda place: place.put_link("link", "b"), {"a": SMALL, "b": OTHER, "link": "a"}),
    Scenario("file becomes symlink, up", lambda place: place.link("b", "a"), {"a": SMALL, "b": OTHER}),
    Scenario("file becomes symlink, down", lambda place: place.put_link("b", "a"), {"a": SMALL, "b": OTHER}),
    Scenario("symlink becomes file, down", lambda place: place.put("link", OTHER), {"a": SMALL, "link": "a"}),
    # files and directories
    Scenario("file becomes directory, up", _file_to_directory, {"d": SMALL}),
    Scenario("file becomes directory, down", _remote_file_to_directory, {"d": SMALL}),
    Scenario("directory becomes file, up", _directory_to_file, TREE),
    Scenario("directory becomes file, down", _remote_directory_to_file, TREE),
    Scenario("file here against directory there", all_of(each("write", {"d": SMALL}), each("put", TREE))),
    Scenario("directory here against file there", all_of(each("write", TREE), each("put", {"d": MEDIUM}))),
    Scenario("empty directory up", lambda place: (place.root / "d/e").mkdir(parents=True), options=BOTH),
    Scenario("empty directory down", lambda place: place.put_directory("d/e/"), options=BOTH),
    Scenario("empty directory filled", each("write", {"d/a": SMALL}), {"d": None}, BOTH),
    Scenario("empty directory filled from there", each("put", {"d/a": SMALL}), {"d": None}, BOTH),
    Scenario("empty directory removed", lambda place: place.remove("d"), {"d": None}, BOTH),
    Scenario("empty directory removed there", lambda place: place.delete("d/"), {"d": None}, BOTH),
    # filters and modes
    Scenario("new filters", _ignore, {"x.log": SMALL}),
    Scenario(
        "push-mirror",
        all_of(each("put", {"theirs": OTHER, "a": THIRD}), each("write", {"b": THIRD})),
        {"a": SMALL},
        {"mode": "push-mirror"},
        forgets=frozenset({OTHER, THIRD}),
    ),
    Scenario(
        "pull-mirror",
        all_of(each("put", {"b": OTHER}), each("write", {"a": THIRD, "mine": MEDIUM})),
        {"a": SMALL},
        {"mode": "pull-mirror"},
    ),
]
