"""A meta message as a follower gives it: decoded when somebody asks, and not at all for an echo of our own write."""

from __future__ import annotations

from typing import Self

from agent.errors import BadMetaError
from agent.objectstore.meta import ObjectInfo, decode, salvaged_nuid
from agent.objectstore.subjects import name_of


class MetaMessage:
    """One meta message: `info`, or `error` when it isn't a valid meta.

    name: "" when not even that can be read. nuid: what a broken meta has for one, as far as anybody could make it out:
    another client may read what we refuse, and its chunks aren't nobody's. What is `undecoded` is read when somebody
    asks: whoever knows a meta by its revision needn't.
    """

    __slots__ = ("_data", "_error", "_info", "_name", "_nuid", "bucket", "revision", "subject", "time_ns")

    def __init__(
        self,
        revision: int,
        time_ns: int,
        name: str,
        info: ObjectInfo | None,
        error: BadMetaError | None = None,
        *,
        nuid: str = "",
        subject: str = "",
    ) -> None:
        self.revision = revision
        self.time_ns = time_ns
        self.subject = subject
        self.bucket = ""
        self._name: str | None = name
        self._info = info
        self._error = error
        self._nuid = nuid
        self._data: bytes | None = None

    @classmethod
    def undecoded(cls, bucket: str, subject: str, data: bytes, revision: int, time_ns: int) -> Self:
        message = cls(revision, time_ns, "", None, None, subject=subject)
        message.bucket = bucket
        message._name = None
        message._data = data
        return message

    @property
    def name(self) -> str:
        if self._name is None:
            try:
                self._name = name_of(self.subject)
            except BadMetaError as error:
                self._name = ""
                self._fail(error)
        return self._name

    @property
    def info(self) -> ObjectInfo | None:
        self._decode()
        return self._info

    @property
    def error(self) -> BadMetaError | None:
        self._decode()
        return self._error

    @property
    def nuid(self) -> str:
        self._decode()
        return self._nuid

    @property
    def key(self) -> str:
        """The name; of a subject that has no name in it, a text that no name is (names have no lone surrogates)."""
        return self.name or f"\udc00{self.subject}"

    def _decode(self) -> None:
        name = self.name
        if self._data is None:
            return
        try:
            self._info = decode(self._data, bucket=self.bucket, name=name, revision=self.revision, time_ns=self.time_ns)
            self._data = None
        except BadMetaError as error:
            self._fail(error)

    def _fail(self, error: BadMetaError) -> None:
        self._error = error
        self._nuid = salvaged_nuid(self._data or b"")
        self._data = None
