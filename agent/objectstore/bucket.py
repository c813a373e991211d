"""One bucket. A thin class: each operation is a function in a module of its own, with the story of its mechanism.

    info, list, ..._count, chunk_...     reading        objects, listing, chunks
    put, put_many, get, get_many, follow data           put, put_many, get, get_many, follow, files
    update_meta, delete, rename          metas          objects, rename
    add_link, add_bucket_link, resolve   links          links
    status, seal                         the bucket     spec, stores

Every write has a precondition, `expected_revision`: None = whatever is there, 0 = nothing is there (never written, or
purged), n = exactly this revision. A delete marker has a revision too: creating over one needs it. A precondition that
fails raises RevisionError; a write whose answer never came raises UnknownOutcomeError (see `commit`).
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from agent.errors import BucketError, NotABucketError, ObjectNotFoundError, SealedError
from agent.objectstore import (
    chunks,
    commit,
    files,
    follow,
    get,
    get_many,
    links,
    listing,
    objects,
    prefix,
    put,
    put_many,
    rename,
    spec,
    subjects,
)
from agent.objectstore.connection import parse_version
from agent.objectstore.follow import Follower
from agent.objectstore.get import Position, Reader
from agent.objectstore.get_many import Content
from agent.objectstore.meta import Link, ObjectInfo
from agent.objectstore.metamessage import MetaMessage
from agent.objectstore.prefix import Prefix
from agent.objectstore.put_many import Outcome, SmallObject
from agent.objectstore.rename import Renaming
from agent.objectstore.source import SourceLike

if TYPE_CHECKING:
    from agent.objectstore.connection import Connection


class Bucket:
    """Made by `Buckets.bind`, `ensure` or `create`. `config` is the stream's as it was then; `status` refreshes it."""

    def __init__(self, connection: Connection, name: str, stream_info: dict[str, Any]) -> None:
        self.connection = connection
        self.name = name
        self.stream = subjects.stream_name(name)
        self.config: dict[str, Any] = {}
        self.created = ""
        """When the stream was created, as the server says it: the bucket's identity."""
        self.warnings: tuple[str, ...] = ()
        """What `ensure` has asked for, but this server doesn't do."""
        self.learn(stream_info)

    @classmethod
    async def bind(cls, connection: Connection, name: str) -> Self:
        """The existing bucket. Raises BucketNameError, BucketNotFoundError, NotABucketError."""
        subjects.check_bucket_name(name)
        info = await connection.api(f"STREAM.INFO.{subjects.stream_name(name)}", what=f"open bucket {name!r}")
        return cls(connection, name, info)

    def learn(self, stream_info: dict[str, Any]) -> None:
        """Take over the configuration from a STREAM.INFO, CREATE or UPDATE answer. Raises NotABucketError."""
        config = stream_info.get("config")
        if not isinstance(config, dict) or not spec.is_bucket(config):
            raise NotABucketError(
                f"the stream {self.stream} is not an object store: its subjects are not those of a bucket",
                remedy="choose another bucket, or delete the stream",
            )
        self.config = config
        self.created = str(stream_info.get("created", ""))

    # -- what it is -------------------------------------------------------------------------------------------------

    @property
    def has_ttl(self) -> bool:
        return bool(self.config.get("max_age"))

    @property
    def sealed(self) -> bool:
        return self.config.get("sealed") is True

    @property
    def atomic(self) -> bool:
        """Whether the server takes atomic batches for this bucket (2.12+, `allow_atomic` echoed)."""
        return self.config.get("allow_atomic") is True

    @property
    def direct(self) -> bool:
        """Whether direct gets are answered (any replica answers them: never for a precondition)."""
        return self.config.get("allow_direct") is True

    @property
    def origin(self) -> str | None:
        """The bucket that this one is a mirror of; None when it is no mirror."""
        mirror = self.config.get("mirror")
        if not isinstance(mirror, dict):
            return None
        return str(mirror.get("name", "")).removeprefix("OBJ_")

    @property
    def server_version(self) -> tuple[int, int, int]:
        """Of the server that has the stream, as far as it is known: servers from 2.11 tell it in the stream's metadata.

        Without that: the connected server's, or (2, 10, 0) at most when a JetStream domain lies between us and it.
        """
        metadata = self.config.get("metadata")
        told = parse_version(str(metadata.get("_nats.ver", ""))) if isinstance(metadata, dict) else (0, 0, 0)
        if told != (0, 0, 0):
            return told
        if self.connection.domain:
            return min(self.connection.server_version, (2, 10, 0))
        return self.connection.server_version

    def require_writable(self) -> None:
        """Raises SealedError, or BucketError for a mirror: a write to one would land in its origin (PROTOCOL 3e)."""
        if self.sealed:
            raise SealedError(
                f"bucket {self.name!r} is sealed",
                remedy="that is for ever: pull from it only, or choose another bucket",
            )
        if self.origin is not None:
            raise BucketError(
                f"bucket {self.name!r} is a mirror of {self.origin!r}: it can't be written",
                remedy="write to its origin; use a pull mode for the mirror",
            )

    async def status(self) -> spec.BucketStatus:
        """What the bucket is and holds now. Raises BucketNotFoundError."""
        info = await self.connection.api(f"STREAM.INFO.{self.stream}", what=f"look at bucket {self.name!r}")
        self.learn(info)
        return spec.status_of(info)

    async def seal(self) -> spec.BucketStatus:
        """Make the bucket read-only for ever (it can still be deleted as a whole). Nothing happens when it is already.

        The stream's configuration goes back as it came, with fields that we don't know; a ttl is dropped by the server.
        Raises BucketError.
        """
        await self.status()
        if not self.sealed:
            config = {**self.config, "sealed": True, "metadata": spec.own_metadata(self.config)}
            self.learn(
                await self.connection.api(
                    f"STREAM.UPDATE.{self.stream}", config, what=f"seal bucket {self.name!r}", timeout=10.0
                )
            )
        status = await self.status()
        if not status.sealed:
            raise BucketError(f"the server did not seal bucket {self.name!r}")
        return status

    # -- content ----------------------------------------------------------------------------------------------------

    async def put(
        self,
        name: str,
        source: SourceLike,
        *,
        description: str = "",
        headers: Mapping[str, builtins.list[str]] | None = None,
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
        nuid: str | None = None,
        chunk_size: int | None = None,
        size: int | None = None,
        digest: bytes | None = None,
        purge_old: bool = True,
        keep: bool = False,
        resume: Prefix | None = None,
        pace: put.Pace | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> ObjectInfo:
        """Store an object: see `put.put`."""
        return await put.put(
            self,
            name,
            source,
            description=description,
            headers=headers,
            metadata=metadata,
            expected_revision=expected_revision,
            nuid=nuid,
            chunk_size=chunk_size,
            size=size,
            digest=digest,
            purge_old=purge_old,
            keep=keep,
            resume=resume,
            pace=pace,
            on_progress=on_progress,
        )

    async def put_many(self, items: Sequence[SmallObject]) -> builtins.list[Outcome]:
        """Store many objects of at most one chunk at once: see `put_many.put_many`."""
        return await put_many.put_many(self, items)

    async def put_bytes(self, name: str, data: bytes, **options: Any) -> ObjectInfo:
        """Store bytes; options as `put`."""
        return await files.put_bytes(self, name, data, **options)

    async def put_string(self, name: str, text: str, **options: Any) -> ObjectInfo:
        """Store text as UTF-8; options as `put`."""
        return await files.put_string(self, name, text, **options)

    async def put_file(self, path: Path | str, name: str | None = None, **options: Any) -> ObjectInfo:
        """Store a file's content, under its path unless `name` says otherwise; options as `put`."""
        return await files.put_file(self, path, name, **options)

    def get(
        self,
        source: str | ObjectInfo,
        *,
        follow_links: bool = True,
        verify: bool = True,
        start: Position | None = None,
    ) -> Reader:
        """A reader: `async with bucket.get(name) as reader: async for block in reader`. See `get.open_object`."""
        return get.open_object(self, source, follow_links=follow_links, verify=verify, start=start)

    async def get_many(self, infos: Sequence[ObjectInfo]) -> builtins.list[Content]:
        """The contents of many small objects at once, not verified: see `get_many.get_many`."""
        return await get_many.get_many(self, infos)

    async def get_bytes(self, source: str | ObjectInfo, *, follow_links: bool = True) -> bytes:
        """The whole object in memory, verified."""
        return await files.get_bytes(self, source, follow_links=follow_links)

    async def get_string(self, source: str | ObjectInfo, *, follow_links: bool = True) -> str:
        """The whole object as text (UTF-8), verified."""
        return await files.get_string(self, source, follow_links=follow_links)

    async def get_file(self, source: str | ObjectInfo, path: Path | str, *, follow_links: bool = True) -> ObjectInfo:
        """Write the object to a file: whole and verified, or not at all."""
        return await files.get_file(self, source, path, follow_links=follow_links)

    def follow(self, *, name: str | None = None, after: int = 0, created: str | None = None) -> Follower:
        """Every change of a meta behind the revision `after`; 0: first the newest of each name. name: of one object
        only. See `follow.follow`."""
        return follow.follow(self, name=name, after=after, created=created)

    # -- metas ------------------------------------------------------------------------------------------------------

    async def info(self, name: str, *, show_deleted: bool = False) -> ObjectInfo:
        """The object's meta, from the stream's leader. Raises ObjectNotFoundError, BadMetaError, ObjectNameError."""
        return await objects.read(self, name, show_deleted=show_deleted)

    async def update_meta(
        self,
        name: str,
        *,
        description: str | None = None,
        headers: Mapping[str, builtins.list[str]] | None = None,
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
    ) -> ObjectInfo:
        """Replace what is given (None = leave it); the content stays. See `objects.update_meta`."""
        return await objects.update_meta(
            self,
            name,
            description=description,
            headers=headers,
            metadata=metadata,
            expected_revision=expected_revision,
        )

    async def rename(
        self,
        old: str,
        new: str,
        *,
        expected_revision: int | None = None,
        expected_new: int = 0,
        description: str | None = None,
        headers: Mapping[str, builtins.list[str]] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Another name, without sending a chunk again; changes of the meta may come with it. See `rename.rename`."""
        return await rename.rename(
            self,
            old,
            new,
            expected_revision=expected_revision,
            expected_new=expected_new,
            description=description,
            headers=headers,
            metadata=metadata,
        )

    async def rename_many(self, renamings: Sequence[Renaming]) -> builtins.list[ObjectInfo] | None:
        """Many renames, all or nothing; None where the server can't. See `rename.rename_many`."""
        return await rename.rename_many(self, renamings)

    async def delete(
        self,
        name: str,
        *,
        expected_revision: int | None = None,
        purge: bool = True,
        known: ObjectInfo | None = None,
    ) -> objects.Deleted:
        """Write a delete marker, then remove the chunks. See `objects.delete`."""
        return await objects.delete(self, name, expected_revision=expected_revision, purge=purge, known=known)

    async def add_link(
        self,
        name: str,
        target: ObjectInfo | Link,
        *,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
        purge_old: bool = True,
    ) -> ObjectInfo:
        """Make `name` a link to an object. See `links.add_link`."""
        return await links.add_link(
            self,
            name,
            target,
            description=description,
            metadata=metadata,
            expected_revision=expected_revision,
            purge_old=purge_old,
        )

    async def add_bucket_link(
        self,
        name: str,
        target: Bucket | str,
        *,
        description: str = "",
        metadata: Mapping[str, str] | None = None,
        expected_revision: int | None = None,
        purge_old: bool = True,
    ) -> ObjectInfo:
        """Make `name` a link to a bucket, by its name. See `links.add_link`."""
        return await links.add_link(
            self,
            name,
            Link(target if isinstance(target, str) else target.name),
            description=description,
            metadata=metadata,
            expected_revision=expected_revision,
            purge_old=purge_old,
        )

    async def resolve(self, info: ObjectInfo, *, depth: int = links.DEPTH) -> tuple[Bucket, ObjectInfo]:
        """Follow object links to the object with the content. Raises LinkError. See `links.resolve`."""
        return await links.resolve(self, info, depth=depth)

    async def names_count(self) -> int:
        """How many names have a meta message, markers and broken ones included."""
        return await listing.names_count(self)

    async def metas_count(self) -> int:
        """How many meta messages there are, which costs the server next to nothing. See `listing.metas_count`."""
        return await listing.metas_count(self)

    async def newest_revision(self) -> int:
        """The revision of the newest meta of all; 0 when there is none. Who has followed to here knows every name."""
        try:
            return (await commit.newest(self, subjects.all_metas(self.name))).revision
        except ObjectNotFoundError:
            return 0

    async def has_newer(self, revision: int) -> bool:
        """Whether a meta is newer than the revision. The server looks at what is behind it only, where for the newest
        of all metas it would look through all names."""
        return await commit.following(self, subjects.all_metas(self.name), revision) is not None

    # -- chunks -----------------------------------------------------------------------------------------------------

    async def chunk_count(self, nuid: str) -> int:
        """How many chunks the nuid has."""
        return await chunks.count(self, nuid)

    async def chunk_subjects(self) -> dict[str, int]:
        """nuid -> number of chunks, for all in the bucket."""
        return await chunks.by_nuid(self)

    async def last_chunk(self, nuid: str) -> commit.Stored | None:
        """The last chunk of the nuid; None when it has none."""
        return await chunks.last(self, nuid)

    async def stored_prefix(self, nuid: str, *, size: int) -> Prefix | None:
        """What an interrupted upload of `size` bytes has stored; None when it can't go on. See `prefix`."""
        return await prefix.stored_prefix(self, nuid, size=size)

    async def purge_chunks(self, nuid: str, *, up_to: int | None = None) -> int:
        """Remove the chunks of the nuid (up to a stream sequence); how many there were."""
        return await chunks.purge(self, nuid, up_to=up_to)

    def __repr__(self) -> str:
        return f"Bucket({self.name!r})"

    async def list(
        self, *, show_deleted: bool = False, on_bad: Callable[[MetaMessage], None] | None = None
    ) -> builtins.list[ObjectInfo]:
        """The newest meta of each name; broken ones go to `on_bad`. Whole, or an error. See `listing.list_objects`."""
        return await listing.list_objects(self, show_deleted=show_deleted, on_bad=on_bad)
