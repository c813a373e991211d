"""The stock client: nats-py as anybody uses it, and raw JetStream below it, for what a test must see or break.

stock = Stock(server.url)                      # its own event loop in a thread: usable from plain tests
stock.create("bucket"); stock.put("bucket", "name", b"bytes"); stock.contents("bucket")
stock.meta("bucket", "name")                   # the raw meta JSON and its revision
stock.chunks("bucket")                         # nuid -> number of stored chunk messages
stock.publish_meta("bucket", "name", b"{")     # hostile input
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ObjectMeta, ObjectMetaOptions
from nats.js.errors import NotFoundError, ObjectNotFoundError
from nats.js.object_store import ObjectStore

T = TypeVar("T")


@dataclass(frozen=True)
class Meta:
    """A meta message as it is stored. payload: its JSON."""

    payload: dict[str, Any]
    revision: int

    @property
    def deleted(self) -> bool:
        return bool(self.payload.get("deleted"))


class Stock:
    def __init__(self, url: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stock", daemon=True)
        self._thread.start()
        self.client: Client = self.wait(nats.connect(url, max_reconnect_attempts=-1, error_cb=_ignore))
        self.js: JetStreamContext = self.client.jetstream()
        self._stores: dict[str, ObjectStore] = {}

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the client's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def close(self) -> None:
        self.wait(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        """A client whose server has gone is in the middle of connecting anew, and would go on with it."""
        await self.client.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        writer = getattr(self.client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        await asyncio.sleep(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- as anybody uses it -------------------------------------------------------------------------------------------

    def create(self, bucket: str, **options: Any) -> None:
        self._stores[bucket] = self.wait(self.js.create_object_store(bucket, **options))

    def store(self, bucket: str) -> ObjectStore:
        if bucket not in self._stores:
            self._stores[bucket] = self.wait(self.js.object_store(bucket))
        return self._stores[bucket]

    def put(self, bucket: str, name: str, data: bytes, *, chunk_size: int | None = None) -> None:
        meta = None
        if chunk_size is not None:
            meta = ObjectMeta(name=name, options=ObjectMetaOptions(max_chunk_size=chunk_size))
        self.wait(self.store(bucket).put(name, data, meta=meta))

    def get(self, bucket: str, name: str) -> bytes:
        """The bytes, digest checked by the stock client; links are followed by it."""
        try:
            return self._get(bucket, name)
        finally:
            self._drop_left_consumers(bucket)

    def delete(self, bucket: str, name: str) -> None:
        self.wait(self.store(bucket).delete(name))

    def names(self, bucket: str) -> set[str]:
        """Live names."""
        return {name for name, meta in self.metas(bucket).items() if not meta.deleted}

    def contents(self, bucket: str) -> dict[str, bytes]:
        """Live name -> bytes, as the stock client reads them. What is deleted between the two isn't in it."""
        read: dict[str, bytes] = {}
        try:
            for name in sorted(self.names(bucket)):
                try:
                    read[name] = self._get(bucket, name)
                except ObjectNotFoundError:
                    if name in self.names(bucket):
                        raise
            return read
        finally:
            self._drop_left_consumers(bucket)

    def digests(self, bucket: str) -> dict[str, str]:
        """Live name -> SHA-256 in hex as its meta promises ("" for links): cheap enough to be polled."""
        return {
            name: base64.urlsafe_b64decode(meta.payload.get("digest", "").removeprefix("SHA-256=")).hex()
            for name, meta in self.metas(bucket).items()
            if not meta.deleted
        }

    def _get(self, bucket: str, name: str) -> bytes:
        return self.wait(asyncio.wait_for(self.store(bucket).get(name), 30)).data or b""

    def _drop_left_consumers(self, bucket: str) -> None:
        """Each stock get leaves a push consumer behind, and a thousand of them are the server's limit."""
        for consumer in self.api(f"CONSUMER.LIST.OBJ_{bucket}")["consumers"]:
            if "deliver_subject" in consumer["config"]:
                self.api(f"CONSUMER.DELETE.OBJ_{bucket}.{consumer['name']}")

    # -- raw ----------------------------------------------------------------------------------------------------------

    def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """$JS.API.VERB with a JSON body. An error answer is returned as it is."""
        answer = self.wait(self.client.request(f"$JS.API.{verb}", json.dumps(body or {}).encode(), timeout=10))
        page: dict[str, Any] = json.loads(answer.data)
        return page

    def metas(self, bucket: str) -> dict[str, Meta]:
        """Name -> newest meta, delete markers included."""

        async def read_all() -> list[Meta]:
            subjects = list(await self._subjects(bucket, "M"))
            return [
                meta
                for start in range(0, len(subjects), 500)
                for meta in await self._read(bucket, subjects[start : start + 500])
            ]

        return {meta.payload["name"]: meta for meta in self.wait(read_all())}

    def meta(self, bucket: str, name: str) -> Meta | None:
        found = self.wait(self._read(bucket, [meta_subject(bucket, name)]))
        return found[0] if found else None

    def chunks(self, bucket: str) -> dict[str, int]:
        """nuid -> number of chunk messages, live or orphaned."""
        return {subject.rpartition(".")[2]: count for subject, count in self.wait(self._subjects(bucket, "C")).items()}

    def orphans(self, bucket: str) -> dict[str, int]:
        """The chunks that no live meta names."""
        live = {meta.payload["nuid"] for meta in self.metas(bucket).values() if not meta.deleted}
        return {nuid: count for nuid, count in self.chunks(bucket).items() if nuid not in live}

    def messages(self, bucket: str) -> int:
        """The stream's last sequence: it moves with every write of any kind."""
        last: int = self.api(f"STREAM.INFO.OBJ_{bucket}")["state"]["last_seq"]
        return last

    def publish_meta(self, bucket: str, name: str, payload: bytes | dict[str, Any], *, rollup: bool = True) -> int:
        """Store a meta message as it is, rolled up by name; its revision."""
        data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self._publish(meta_subject(bucket, name), data, {"Nats-Rollup": "sub"} if rollup else None)

    def publish_chunk(self, bucket: str, nuid: str, data: bytes) -> int:
        return self._publish(f"$O.{bucket}.C.{nuid}", data, None)

    def put_raw(self, bucket: str, name: str, data: bytes, *, chunks: int | None = None, **fields: Any) -> Meta:
        """An object of one chunk with any name and any fields, truthful unless told otherwise."""
        nuid = secrets.token_hex(11)
        if data:
            self.publish_chunk(bucket, nuid, data)
        digest = "SHA-256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()
        payload = {
            "name": name,
            "bucket": bucket,
            "nuid": nuid,
            "size": len(data),
            "chunks": int(bool(data)) if chunks is None else chunks,
            "digest": digest,
            "mtime": "0001-01-01T00:00:00Z",
            "options": {"max_chunk_size": 131072},
            **fields,
        }
        return Meta(payload, self.publish_meta(bucket, name, payload))

    def purge(self, bucket: str, nuid: str) -> None:
        self.api(f"STREAM.PURGE.OBJ_{bucket}", {"filter": f"$O.{bucket}.C.{nuid}"})

    def _publish(self, subject: str, data: bytes, headers: dict[str, str] | None) -> int:
        return self.wait(self.js.publish(subject, data, headers=headers)).seq

    async def _subjects(self, bucket: str, letter: str) -> dict[str, int]:
        """Subject -> messages, for $O.BUCKET.LETTER.>, all pages."""
        subjects: dict[str, int] = {}
        while True:
            body = {"subjects_filter": f"$O.{bucket}.{letter}.>", "offset": len(subjects)}
            answer = await self.client.request(
                f"$JS.API.STREAM.INFO.OBJ_{bucket}", json.dumps(body).encode(), timeout=10
            )
            page = json.loads(answer.data)["state"].get("subjects") or {}
            subjects.update(page)
            if len(page) < 100_000:
                return subjects

    async def _read(self, bucket: str, subjects: list[str]) -> list[Meta]:
        async def one(subject: str) -> Meta | None:
            try:
                message = await self.js.get_last_msg(f"OBJ_{bucket}", subject)
            except NotFoundError:
                return None
            return Meta(json.loads(message.data or b""), message.seq or 0)

        return [meta for meta in await asyncio.gather(*map(one, subjects)) if meta]


def meta_subject(bucket: str, name: str) -> str:
    return f"$O.{bucket}.M.{base64.urlsafe_b64encode(name.encode(errors='surrogateescape')).decode()}"


async def _ignore(error: Exception) -> None:
    """Reconnects are part of the tests."""
