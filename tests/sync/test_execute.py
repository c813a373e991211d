"""Actions whose way the store makes hard, against a real bucket and a real directory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.config.model import Nats
from agent.core.entries import Entry, Mode, Obstacle, Reason, Remote, Row
from agent.core.filters import Filters
from agent.core.plan import Action, Verb
from agent.core.reconcile import Rules
from agent.directory import Directory, DirectoryOptions
from agent.errors import ChunksError
from agent.objectstore import Bucket, Buckets, BucketSpec, Connection, ObjectInfo
from agent.sync.execute import Executor
from agent.sync.limits import Limits
from agent.sync.outcome import Result
from agent.sync.remote import Scope, remote_of


@dataclass
class Scene:
    root: Path
    directory: Directory
    bucket: Bucket
    executor: Executor
    scope: Scope


@pytest.fixture
async def scene(nats_url: str, bucket_name: str, tmp_path: Path) -> AsyncIterator[Scene]:
    root = tmp_path / "files"
    root.mkdir()
    directory = Directory.open(root, options=DirectoryOptions())
    async with await Connection.open(Nats(servers=(nats_url,)), name="test") as connection:
        bucket = await Buckets(connection).create(bucket_name, BucketSpec())
        scope = Scope(
            bucket=bucket_name,
            prefix="",
            pulls_only=False,
            symlinks="link",
            max_size=None,
            empty_directories=True,
            repository=False,
            filters=Filters([], []),
        )
        executor = Executor(
            directory=directory,
            bucket=bucket,
            scope=lambda: scope,
            limits=Limits(transfers=4, upload=0, download=0),
            rules=Rules(mode=Mode.TWO_WAY),
        )
        yield Scene(root, directory, bucket, executor, scope)
    directory.close()


@pytest.fixture
async def hollow(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Action:
    """A rename that the local side has made already; as soon as the bucket has it too somebody purges the chunks."""
    (scene.root / "new").write_bytes(b"content")
    stored = await scene.bucket.put("old", b"content")
    local = await asyncio.to_thread(scene.directory.read, "new")
    assert local is not None
    assert isinstance(local.side, Entry)
    rename = Bucket.rename

    async def interrupted(bucket: Bucket, *names: str, **options: Any) -> ObjectInfo:
        moved = await rename(bucket, *names, **options)
        await bucket.purge_chunks(moved.nuid)
        raise ChunksError("its old name was written meanwhile")

    monkeypatch.setattr(Bucket, "rename", interrupted)
    row, to_row = Row("old", remote=remote_of(stored, "old", scene.scope)), Row("new", local=local)
    return Action(verb=Verb.MOVE_REMOTE, row=row, reason="renamed locally", to="new", to_row=to_row, entry=local.side)


async def test_a_rename_whose_chunks_were_purged_meanwhile_uploads_the_file_under_its_new_name(
    scene: Scene, hollow: Action
):
    outcome = await scene.executor.run(hollow, None)

    assert outcome.result is Result.APPLIED
    assert await scene.bucket.get_bytes("new") == b"content"
    newest = await scene.bucket.info("new")
    away, change = outcome.changes
    assert (away.path, change.path) == ("old", "new")
    assert change.remote == remote_of(newest, "new", scene.scope)


async def test_a_hollow_object_whose_file_has_gone_too_is_never_taken_for_deleted(scene: Scene, hollow: Action):
    (scene.root / "new").unlink()

    outcome = await scene.executor.run(hollow, None)

    assert outcome.result is Result.STALE
    assert set(outcome.look) == {"old", "new"}
    assert not [change for change in outcome.changes if change.path == "new" and isinstance(change.remote, Remote)]


async def test_an_object_with_content_whose_name_ends_in_a_slash_is_not_taken_for_a_directory(scene: Scene):
    stored = await scene.bucket.put("name/", b"content")

    side = remote_of(stored, "name/", scene.scope).side

    assert isinstance(side, Obstacle)
    assert side.reason is Reason.INVALID_NAME
