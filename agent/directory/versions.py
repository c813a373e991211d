"""The directory of a subscription: versions beside each other, and the symlink that says which one counts.

    current -> versions/<id>       replaced in one atomic step; the base name of its target is the snapshot's id
    versions/<id>/                 one complete version (`versiontree`)
    versions/<id>.partial/         one that is being built (`building`)
    versions/.jetsync/             the agent's own, for its user only:
        lock                       held while an agent works here
        <id>.json                  what was installed: the manifest, and what each file looked like then
        times.json                 when versions stopped being current
        accepted.json, owed.json   what `snapshots` wants to keep here (the last record taken; hooks that are owed)
        removed-*                  versions on their way out

A version without its <id>.json isn't ours, whatever its name; neither is anything else in these two directories. It is
left alone and told (`foreign`). A version becomes `versions/<id>` by one rename when all of it is on the device, so
what has that name is whole; and <id>.json is written before.

How versions go is in `oldversions`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.core import manifest as manifests
from agent.core import names
from agent.core.manifest import Manifest
from agent.directory import place, probe, syscalls
from agent.directory.building import Building, Previous
from agent.directory.dirfd import DIRECTORY_FLAGS, Beneath, Tree, open_below
from agent.directory.faults import mapped
from agent.directory.oldversions import PARTIAL, OldVersions, is_partial
from agent.directory.options import OWN
from agent.directory.ownfiles import TEMPORARY, OwnFiles
from agent.directory.removal import remove_tree
from agent.directory.space import Space
from agent.directory.syscalls import Capabilities
from agent.directory.trash import Spot
from agent.directory.versiontree import DIRECTORY_MODE, Look, Stop, VersionTree
from agent.errors import LockedError, ManifestError, PathError, RefusedError, RootError

CURRENT = "current"
VERSIONS = "versions"

_LOCK = "lock"
_TARGET = re.compile(rf"{VERSIONS}/([^/]+)")
_UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


class Versions:
    """Locked by this process until `close`. The methods block; one thread at a time, but for parts of Building."""

    def __init__(self, tree: Tree, versions: int, own: int) -> None:
        self._tree = tree
        self._versions = Beneath(versions, tree.can)
        self._own = Beneath(own, tree.can)
        self._lock = -1
        self.files = OwnFiles(own, where=f"{tree.path}/{VERSIONS}/{OWN}")
        self.space = Space(tree)
        self._old = OldVersions(self._versions, self._own, self.files)

    @classmethod
    def open(cls, path: Path, *, capabilities: Capabilities | None = None) -> Self:
        """Open the directory, which is made when only it is missing, and lock it.

        capabilities: for tests, what the file system is assumed to have. Raises LockedError, RootError, PathError,
        SpaceError.
        """
        probe.check_encoding()
        try:
            path.mkdir(mode=DIRECTORY_MODE)
            path.chmod(DIRECTORY_MODE)
        except OSError:
            pass  # it is there, or opening it tells why not
        opened: list[int] = []
        tree = Tree(path, capabilities=capabilities)
        try:
            with mapped(str(path), f"making {VERSIONS}/ in it"):
                opened.append(_open_public(tree.fd, VERSIONS, tree.device, unless=OWN))
                opened.append(open_below(opened[0], OWN, own_device=tree.device))
            made = cls(tree, *opened)
            made._take_lock()
        except BaseException:
            for fd in opened:
                os.close(fd)
            tree.close()
            raise
        return made

    def _take_lock(self) -> None:
        path = f"{self.path}/{VERSIONS}/{OWN}/{_LOCK}"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(_LOCK, flags, 0o600, dir_fd=self._own.fd)
        except OSError as error:
            raise RootError(
                f"{path}: can't be written ({error.strerror})", remedy="make it writable for this user"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise LockedError(
                f"{self.path}: another agent installs in this directory",
                remedy="stop it, or take the subscription out of one of the two configurations",
            ) from error
        except OSError:
            pass  # a file system without locks (some network ones)
        self._lock = fd

    def close(self) -> None:
        """Nothing may be in use any more."""
        for fd in (self._own.fd, self._versions.fd, self._lock):
            os.close(fd)
        self._tree.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def path(self) -> Path:
        return self._tree.path

    def path_of(self, identity: str) -> Path:
        """Where a version is, for those who are told."""
        return self.path / VERSIONS / identity

    @property
    def case_insensitive(self) -> bool:
        return probe.is_case_insensitive(self._versions.fd)

    def check_root(self) -> None:
        """See that the path still names the directory that is held open. Raises RootError."""
        self._tree.check_root()

    # -- what is there -----------------------------------------------------------------------------------------------

    def current(self) -> str:
        """The id of the version that counts, "" for none; it may be gone. Raises RefusedError, PathError."""
        with mapped(f"{self.path}/{CURRENT}", "looking at it"):
            try:
                text = os.readlink(CURRENT, dir_fd=self._tree.fd)
            except FileNotFoundError:
                return ""
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                text = ""
        found = _TARGET.fullmatch(text)
        if found is None or not manifests.is_snapshot_id(found[1]):
            what = f"is a link to {text!r}" if text else "isn't a symlink"
            raise RefusedError(
                f"{self.path}/{CURRENT} {what}: it isn't what this agent makes",
                remedy="move it away, or choose another directory for the subscription",
            )
        return found[1]

    def exists(self, identity: str) -> bool:
        """Whether something has the name of this version."""
        return _exists(self._versions.fd, identity)

    def recorded(self, identity: str) -> tuple[Manifest, dict[str, Look]] | None:
        """What was installed as this version; None when nothing is known of it. Raises PathError, SpaceError."""
        value = self.files.read(f"{identity}.json")
        try:
            manifest = manifests.parse(str(value["manifest"]).encode()) if value is not None else None
            looks = {path: Look(*map(int, look)) for path, look in value["files"].items()} if value is not None else {}
        except (ManifestError, KeyError, TypeError, ValueError, AttributeError):
            return None
        if manifest is None or not manifests.belongs(identity, manifest.digest):
            return None
        return manifest, looks

    def version(self, identity: str, *, stop: Stop = lambda: False) -> Previous | None:
        """A version of ours, opened, with what was recorded of it; the caller closes its tree.

        None: it isn't there, or isn't ours. Raises PathError, SpaceError.
        """
        known = self.recorded(identity)
        fd = self._open(identity) if known is not None else None
        if known is None or fd is None:
            return None
        return Previous(VersionTree(fd, self._tree.can, known[0], name=self._name(identity), stop=stop), known[1])

    def damage(self, identity: str, *, stop: Stop = lambda: False) -> str:
        """What is wrong with a version of ours, "" when it is as it was installed. Raises PathError, SpaceError."""
        previous = self.version(identity, stop=stop)
        if previous is None:
            return f"{self._name(identity)} is gone, or isn't known"
        try:
            return previous.tree.damage(previous.looks)
        finally:
            previous.tree.close()

    def adopt(self, identity: str, manifest: Manifest, *, stop: Stop = lambda: False) -> bool:
        """Take what has the name of this version for ours, if every byte of it is right. Raises PathError, ..."""
        fd = self._open(identity)
        if fd is None:
            return False
        tree = VersionTree(fd, self._tree.can, manifest, name=self._name(identity), stop=stop)
        try:
            if tree.damage({}):
                return False
            self._record(identity, manifest, tree.check())
            return True
        finally:
            tree.close()

    def _open(self, identity: str) -> int | None:
        try:
            return self._versions.open_directory(identity)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            with mapped(self._name(identity), "opening it"):
                raise

    def _name(self, identity: str) -> str:
        return f"{self.path}/{VERSIONS}/{identity}"

    def foreign(self) -> list[str]:
        """What is in the two directories and isn't ours, relative to the directory. Raises PathError, SpaceError."""
        with mapped(str(self.path), "listing it"):
            found = [name for name in os.listdir(self._tree.fd) if name not in (CURRENT, VERSIONS) and _counts(name)]
            ours = {OWN, *self.versions()}
            below = (name for name in os.listdir(self._versions.fd) if name not in ours and not is_partial(name))
            found += [f"{VERSIONS}/{name}" for name in below if _counts(name)]
        return sorted(found)

    def versions(self) -> set[str]:
        """The ids of the versions of ours that are there. Raises PathError, SpaceError."""
        return self._old.ids()

    def clean(self, keep: int, *, spare: Collection[str] = (), now: float | None = None) -> float | None:
        """Remove versions that are too many, see `OldVersions.clean`. Raises RefusedError, PathError, SpaceError."""
        return self._old.clean(self.current(), keep, spare=spare, now=time.time() if now is None else now)

    # -- a new version -----------------------------------------------------------------------------------------------

    def build(self, identity: str, manifest: Manifest, *, stop: Stop = lambda: False) -> Building:
        """The place where a version is built; what was begun for another one goes on as this. The caller closes it.

        Raises PathError, SpaceError.
        """
        partial = identity + PARTIAL
        with mapped(self._name(partial), "making it"):
            others = sorted(name for name in os.listdir(self._versions.fd) if is_partial(name) and name != partial)
            if others and not _exists(self._versions.fd, partial):
                fd = self._versions.fd
                os.rename(others.pop(), partial, src_dir_fd=fd, dst_dir_fd=fd)
            for name in others:
                remove_tree(self._versions, name)
            fd = _open_public(self._versions.fd, partial, self._tree.device)
        return Building(fd, self._tree.can, manifest, name=self._name(partial), stop=stop)

    def complete(self, identity: str, building: Building) -> None:
        """Check what was built and make it the version. One that stands there, damaged, is replaced.

        Raises StaleError (it isn't as the manifest says), PathError, SpaceError.
        """
        looks = building.check()
        building.flush()
        self._record(identity, building.manifest, looks)
        new, target = Spot(self._versions.fd, identity + PARTIAL), Spot(self._versions.fd, identity)
        with mapped(self._name(identity), "putting it in place"):
            if _exists(target.fd, target.name):
                self._replace(new, target)
            else:
                place.create(self._tree.can, new, target)
            os.fsync(self._versions.fd)

    def _replace(self, new: Spot, target: Spot) -> None:
        slot = Spot(self._own.fd, self._old.slot(target.name))
        if self._tree.can.exchange:
            try:
                syscalls.renameat2(new.fd, new.name, target.fd, target.name, syscalls.RENAME_EXCHANGE)
                place.take(new, slot)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._tree.can.exchange = False
        if not self._tree.can.exchange:
            # RACE: no EXCHANGE. For a moment the version has no name; readers that come then find nothing.
            place.take(target, slot)
            place.take(new, target)
        remove_tree(self._own, slot.name)

    def _record(self, identity: str, manifest: Manifest, looks: dict[str, Look]) -> None:
        self.files.write(f"{identity}.json", {"version": 1, "manifest": manifest.encoded.decode(), "files": looks})

    # -- which one counts --------------------------------------------------------------------------------------------

    def make_current(self, identity: str, *, now: float | None = None) -> None:
        """Have `current` lead to this version, in one atomic step. now: seconds since 1970.

        Raises RefusedError: something of somebody else's is in its place. PathError, SpaceError.
        """
        before = self.current()
        if before == identity:
            return
        if before:
            self._old.stopped_being_current(before, time.time() if now is None else now)
        new = Spot(self._own.fd, f"{TEMPORARY}{secrets.token_hex(6)}")
        with mapped(f"{self.path}/{CURRENT}", "replacing it"):
            os.symlink(f"{VERSIONS}/{identity}", new.name, dir_fd=new.fd)
            try:
                self._swap(new, Spot(self._tree.fd, CURRENT), before)
            except FileExistsError as error:
                raise RefusedError(
                    f"{self.path}/{CURRENT} was made by somebody else just now", remedy="move it away"
                ) from error
            finally:
                self.files.remove(new.name)
            os.fsync(self._tree.fd)

    def _swap(self, new: Spot, target: Spot, before: str) -> None:
        if not before:
            place.create(self._tree.can, new, target)
            return
        if self._tree.can.exchange:
            try:
                syscalls.renameat2(new.fd, new.name, target.fd, target.name, syscalls.RENAME_EXCHANGE)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._tree.can.exchange = False
            else:
                self._check_swapped(new, target, before)
                return
        # RACE: no EXCHANGE. What somebody puts at `current` between our look and this rename is lost, if it is a file
        # or a link; a directory is never replaced.
        os.rename(new.name, target.name, src_dir_fd=new.fd, dst_dir_fd=target.fd)

    def _check_swapped(self, came_out: Spot, target: Spot, before: str) -> None:
        status = came_out.status()
        if stat.S_ISLNK(status.st_mode) and os.readlink(came_out.name, dir_fd=came_out.fd) == f"{VERSIONS}/{before}":
            return
        syscalls.renameat2(came_out.fd, came_out.name, target.fd, target.name, syscalls.RENAME_EXCHANGE)
        raise RefusedError(f"{self.path}/{CURRENT} was replaced by somebody else just now", remedy="move it away")


def _counts(name: str) -> bool:
    """Whether something is worth telling: not what file systems have of their own."""
    return not names.reserved_name(name, directory=True)


def _exists(fd: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _open_public(parent: int, name: str, device: int, *, unless: str = "") -> int:
    """Open a directory that others may read, made when it is missing. One that has an entry `unless` has been made
    ready before, and keeps its mode. Raises OSError, PathError."""
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        pass
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=parent)
    try:
        status = os.fstat(fd)
        if status.st_dev != device:
            raise PathError(
                f"{name}/ is on another file system than the directory it is in",
                reason="other_file_system",
                remedy=f"mount the whole directory, not only {name}/",
            )
        if not unless or not _exists(fd, unless):
            os.fchmod(fd, DIRECTORY_MODE | (status.st_mode & stat.S_ISGID))
    except BaseException:
        os.close(fd)
        raise
    return fd
