"""The rules that concern more than one key (DESIGN section 2, "Rules").

Each check yields `Finding`s: where, what, and which other keys it depends on. A finding is dropped when one of those
keys is itself wrong, so that one mistake isn't reported twice. Nothing is read but symbolic links on the way to
directories (to see that two mappings mean the same one).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

from agent.config.model import Config, Mapping, Nats, Publication, Subscription
from agent.config.positions import Loc
from agent.core.entries import Mode


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong at `loc`. depends: other keys it was concluded from. other: a place worth naming."""

    loc: Loc
    message: str
    depends: tuple[Loc, ...] = ()
    other: Loc | None = None
    key: bool = False  # point at the key, not at the value


def check(config: Config) -> Iterator[Finding]:
    """All findings, in no particular order."""
    for part in (_nats, _buckets, _names, _mappings, _overlaps, _publications, _subscriptions, _own_directories):
        yield from part(config)


# ---- the connection


def _nats(config: Config) -> Iterator[Finding]:
    nats = config.nats
    at: Loc = ("nats",)
    both = ((*at, "servers"), (*at, "embedded"))
    if nats.embedded and nats.servers:
        yield Finding(both[1], '"servers" and "embedded" exclude each other; give one of them', both, both[0], key=True)
    elif not nats.embedded and not nats.servers:
        yield Finding(at, 'one of "servers" and "embedded" is missing', both, key=True)
    schemes = {urlsplit(url).scheme in ("ws", "wss") for url in nats.servers}
    if len(schemes) > 1:
        yield Finding(both[0], "WebSocket (ws://, wss://) and other servers can't stand in one list")
    yield from _authentication(nats, at)
    if nats.tls and bool(nats.tls.cert_file) != bool(nats.tls.key_file):
        given, missing = ("cert_file", "key_file") if nats.tls.cert_file else ("key_file", "cert_file")
        where = (*at, "tls", given)
        yield Finding(where, f'"{given}" needs "{missing}" beside it', (where, (*at, "tls", missing)), key=True)


def _authentication(nats: Nats, at: Loc) -> Iterator[Finding]:
    """At most one kind; user and password_file only together; none of it with `embedded`."""
    pair = ("user", "password_file")
    for given, missing in (pair, pair[::-1]):
        if getattr(nats, given) and not getattr(nats, missing):
            yield Finding(
                (*at, given), f'"{given}" needs "{missing}" beside it', ((*at, given), (*at, missing)), key=True
            )
    kinds = [key for key in ("credentials_file", "nkey_seed_file", "token_file") if getattr(nats, key)]
    if nats.user or nats.password_file:
        kinds.insert(0, "user" if nats.user else "password_file")
    if nats.embedded:
        for key in (*kinds, *(["tls"] if nats.tls else [])):
            yield Finding(
                (*at, key),
                f'"{key}" doesn\'t go with "embedded": that server is on loopback and has its own password',
                ((*at, "embedded"),),
                key=True,
            )
        return
    if nats.has_userinfo:
        kinds.insert(0, "servers")
    for key in kinds[1:]:
        first = "a login in the URL of a server" if kinds[0] == "servers" else f'"{kinds[0]}"'
        yield Finding(
            (*at, key),
            f'"{key}" and {first} are two ways to log in; give only one',
            ((*at, kinds[0]), (*at, key)),
            (*at, kinds[0]),
            key=True,
        )


# ---- buckets


def _buckets(config: Config) -> Iterator[Finding]:
    for name, bucket in config.buckets.items():
        at: Loc = ("buckets", name)
        if not bucket.mirror:
            continue
        if bucket.mirror.bucket == name and bucket.mirror.domain == config.nats.domain:
            yield Finding(
                (*at, "mirror", "bucket"), "a bucket can't mirror itself", ((*at, "mirror"), ("nats", "domain"))
            )
        for key, value in (("ttl", bucket.ttl), ("max_bytes", bucket.max_bytes)):
            if value:
                yield Finding(
                    (*at, key),
                    f'"{key}" doesn\'t go with "mirror": the mirror would lack what its origin has; set it there',
                    ((*at, "mirror"),),
                    key=True,
                )


def _has_ttl(config: Config, bucket: str | None) -> bool:
    declared = config.buckets.get(bucket or "")
    return declared is not None and declared.ttl > 0


def _is_mirror(config: Config, bucket: str) -> bool:
    declared = config.buckets.get(bucket)
    return declared is not None and declared.mirror is not None


# ---- mappings, publications, subscriptions

_Item = Mapping | Publication | Subscription


def _items(config: Config) -> Iterator[tuple[Loc, _Item]]:
    sections: Sequence[tuple[str, Sequence[_Item]]] = (
        ("mappings", config.mappings),
        ("publications", config.publications),
        ("subscriptions", config.subscriptions),
    )
    for section, items in sections:
        for index, item in enumerate(items):
            yield (section, index), item


def _names(config: Config) -> Iterator[Finding]:
    first: dict[str, Loc] = {}
    for at, item in _items(config):
        where = (*at, "name")
        if item.name in first:
            other = first[item.name]
            yield Finding(
                where,
                f'the name "{item.name}" is taken; mappings, publications and subscriptions each need their own',
                (other,),
                other,
            )
        else:
            first[item.name] = where


def _mappings(config: Config) -> Iterator[Finding]:
    for index, mapping in enumerate(config.mappings):
        at: Loc = ("mappings", index)
        mode = (*at, "mode")
        if "conflicts" in mapping.given and mapping.mode is not Mode.TWO_WAY:
            yield Finding(
                (*at, "conflicts"),
                f'"conflicts" is for mode two-way only; this mapping is {mapping.mode}',
                (mode,),
                key=True,
            )
        if mapping.symlinks == "follow" and mapping.pulls:
            yield Finding(
                (*at, "symlinks"),
                f'"follow" is for push-safe and push-mirror only; this mapping is {mapping.mode}',
                (mode,),
            )
        if mapping.settle > mapping.settle_max:
            yield Finding((*at, "settle"), '"settle" is longer than "settle_max"', ((*at, "settle_max"),))
        declared: Loc = ("buckets", mapping.bucket)
        if mapping.mode is Mode.PUSH_MIRROR and _has_ttl(config, mapping.bucket):
            yield Finding(
                mode,
                f'push-mirror into "{mapping.bucket}", a bucket with a ttl: what expires would be sent again for ever',
                ((*at, "bucket"), (*declared, "ttl")),
                (*declared, "ttl"),
            )
        if mapping.pushes and _is_mirror(config, mapping.bucket):
            yield Finding(
                mode if "mode" in mapping.given else at,
                f'bucket "{mapping.bucket}" is a mirror, which can only be read: use pull-safe or pull-mirror',
                (mode, (*at, "bucket"), (*declared, "mirror")),
                (*declared, "mirror"),
            )


def _publications(config: Config) -> Iterator[Finding]:
    channels: dict[tuple[str, str], Loc] = {}
    for index, publication in enumerate(config.publications):
        at: Loc = ("publications", index)
        source = ((*at, "directory"), (*at, "bucket"))
        if publication.directory and publication.bucket:
            yield Finding(source[1], '"directory" and "bucket" exclude each other; give one of them', source, key=True)
        elif not publication.directory and not publication.bucket:
            yield Finding(at, 'one of "directory" and "bucket" is missing', source)
        if publication.prefix and not publication.bucket:
            yield Finding((*at, "prefix"), '"prefix" goes with "bucket" only', source, key=True)
        yield from _repository(config, publication.repository, at)
        declared: Loc = ("buckets", publication.repository)
        if _is_mirror(config, publication.repository):
            yield Finding(
                (*at, "repository"),
                f'bucket "{publication.repository}" is a mirror, which can only be read: publish to its origin',
                ((*declared, "mirror"),),
                (*declared, "mirror"),
            )
        target = (publication.repository, publication.channel)
        where = (*at, "channel")
        if target in channels:
            other = channels[target]
            yield Finding(
                where,
                f'channel "{publication.channel}" of "{publication.repository}" has a publication already',
                (other, (*other[:-1], "repository"), (*at, "repository")),
                other,
            )
        channels.setdefault(target, where)


def _subscriptions(config: Config) -> Iterator[Finding]:
    for index, subscription in enumerate(config.subscriptions):
        at: Loc = ("subscriptions", index)
        which = ((*at, "channel"), (*at, "snapshot"))
        if subscription.channel and subscription.snapshot:
            yield Finding(which[1], '"channel" and "snapshot" exclude each other; give one of them', which, key=True)
        elif not subscription.channel and not subscription.snapshot:
            yield Finding(at, 'one of "channel" and "snapshot" is missing', which)
        yield from _repository(config, subscription.repository, at)


def _repository(config: Config, repository: str, at: Loc) -> Iterator[Finding]:
    if _has_ttl(config, repository):
        where: Loc = ("buckets", repository, "ttl")
        yield Finding(
            (*at, "repository"),
            f'bucket "{repository}" has a ttl: a repository\'s content must not expire',
            (where,),
            where,
        )


# ---- directories and prefixes that meet


def _overlaps(config: Config) -> Iterator[Finding]:
    real = _cached_realpath()
    numbered = list(enumerate(config.mappings))
    for (i, one), (j, two) in combinations(numbered, 2):
        here, there = ("mappings", j, "directory"), ("mappings", i, "directory")
        relation = _relation(real(two.directory), real(one.directory))
        if relation:
            yield Finding(here, f'this directory is {relation} that of mapping "{one.name}"', (there,), there)
        if one.bucket == two.bucket and (one.prefix.startswith(two.prefix) or two.prefix.startswith(one.prefix)):
            yield Finding(
                ("mappings", j, "prefix" if two.prefix else "bucket"),
                f'bucket "{two.bucket}" with {_worded(two.prefix)} overlaps "{one.name}" with {_worded(one.prefix)}',
                tuple((*loc[:-1], key) for loc in (here, there) for key in ("bucket", "prefix")),
                (*there[:-1], "bucket"),
            )
    targets = list(enumerate(config.subscriptions))
    for (i, first), (j, second) in combinations(targets, 2):
        here, there = ("subscriptions", j, "directory"), ("subscriptions", i, "directory")
        relation = _relation(real(second.directory), real(first.directory))
        if relation:
            yield Finding(here, f'this directory is {relation} that of subscription "{first.name}"', (there,), there)
    for (i, mapping), (j, subscription) in ((m, s) for m in numbered for s in targets):
        here, there = ("subscriptions", j, "directory"), ("mappings", i, "directory")
        relation = _relation(real(subscription.directory), real(mapping.directory))
        if relation and mapping.pulls:
            yield Finding(
                here,
                f'this directory is {relation} that of mapping "{mapping.name}", which writes there too',
                (there, ("mappings", i, "mode")),
                there,
            )


def _own_directories(config: Config) -> Iterator[Finding]:
    """What the agent itself keeps changing must not be in a directory that it sends: it would send itself for ever."""
    real = _cached_realpath()
    own: list[tuple[Loc, Path]] = [(("state_dir",), config.state_dir)]
    if config.nats.embedded:
        own.append((("nats", "embedded", "store_dir"), config.nats.embedded.store_dir))
    for at, item in _items(config):
        if isinstance(item, Subscription) or item.directory is None:
            continue
        where = (*at, "directory")
        for loc, path in own:
            if _relation(real(path), real(item.directory)) in ("the same as", "inside"):
                what = "mapping" if isinstance(item, Mapping) else "publication"
                yield Finding(
                    loc if loc in _given(config) else where,
                    f'"{loc[-1]}" ({path}) is in the directory of {what} "{item.name}": it would be sent too',
                    (loc, where),
                    where if loc in _given(config) else None,
                )


def _given(config: Config) -> set[Loc]:
    return {(key,) for key in config.given} | {("nats", "embedded", "store_dir")}


def _relation(path: str, other: str) -> str:
    """ "the same as", "inside" or "around" `other`, or ""."""
    if path == other:
        return "the same as"
    if path.startswith(other.rstrip("/") + "/"):
        return "inside"
    if other.startswith(path.rstrip("/") + "/"):
        return "around"
    return ""


def _cached_realpath() -> Callable[[Path], str]:
    known: dict[Path, str] = {}

    def real(path: Path) -> str:
        if path not in known:
            known[path] = os.path.realpath(path)
        return known[path]

    return real


def _worded(prefix: str) -> str:
    return f'prefix "{prefix}"' if prefix else "no prefix"
