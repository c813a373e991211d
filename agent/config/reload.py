"""What a running agent has to do to get from one configuration to another: a pure comparison, by value.

However a file was written anew (other order, comments, defaults spelled out): what comes out equal goes on undisturbed.
A mapping, publication or subscription is what the file says of it, and of the buckets that it uses where they are
declared: with a declaration its user is begun anew, which brings the bucket to its shape as ever.

Some settings a running agent can't change (`RESTART`): its name is in the conflict copies that it makes, its state
directory is locked and holds what it knows, and another JetStream domain or an embedded server is another world. They
stay as they are until a restart, and everything else of the new file holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent.config.checks import Finding, check
from agent.config.model import Config, Mapping, Nats, Publication, Subscription

Item = Mapping | Publication | Subscription

RESTART: Final = ("name", "state_dir", "nats")


@dataclass(frozen=True, slots=True)
class Delta:
    """Names, in the order of the file (removed: of the old one)."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)

    @property
    def ends(self) -> tuple[str, ...]:
        """What is stopped, whether or not it begins again."""
        return (*self.removed, *self.changed)


@dataclass(frozen=True, slots=True)
class Changes:
    """config: what holds from now on. restart: keys of the file, of RESTART, in which it doesn't. findings: rules that
    the new file breaks only together with what had to stay."""

    config: Config
    mappings: Delta
    publications: Delta
    subscriptions: Delta
    http: bool
    log: bool
    nats: bool
    restart: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return any((self.mappings, self.publications, self.subscriptions, self.http, self.log, self.nats))


def compare(running: Config, wanted: Config) -> Changes:
    """From the configuration that is in force to the one that a file now has. Looks where links of directories lead."""
    restart = tuple(key for key in RESTART if _needs_restart(getattr(running, key), getattr(wanted, key)))
    config = wanted.model_copy(update={key: getattr(running, key) for key in restart})

    def delta(before: Sequence[Item], after: Sequence[Item]) -> Delta:
        old = {item.name: (item, _declared(running, item)) for item in before}
        new = {item.name: (item, _declared(config, item)) for item in after}
        return Delta(
            added=tuple(name for name in new if name not in old),
            changed=tuple(name for name in new if name in old and new[name] != old[name]),
            removed=tuple(name for name in old if name not in new),
        )

    return Changes(
        config=config,
        mappings=delta(running.mappings, config.mappings),
        publications=delta(running.publications, config.publications),
        subscriptions=delta(running.subscriptions, config.subscriptions),
        http=running.http != config.http,
        log=running.log != config.log,
        nats=running.nats != config.nats,
        restart=restart,
        findings=tuple(check(config)) if restart else (),
    )


def _needs_restart(running: Any, wanted: Any) -> bool:
    if not isinstance(running, Nats):
        return bool(running != wanted)
    return bool(running.embedded != wanted.embedded or running.domain != wanted.domain)


def _declared(config: Config, item: Item) -> tuple[Any, ...]:
    """What is declared of the buckets that something uses."""
    used = (getattr(item, "bucket", None), getattr(item, "repository", None))
    return tuple(config.buckets.get(name) if name is not None else None for name in used)


def same_place(before: Mapping, after: Mapping) -> bool:
    """Whether what was known of one holds for the other: ancestors belong to directory, bucket and prefix."""
    return (before.directory, before.bucket, before.prefix) == (after.directory, after.bucket, after.prefix)
