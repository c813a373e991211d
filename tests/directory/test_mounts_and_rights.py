"""Other file systems, full ones, read-only ones, and missing rights: in mount namespaces and as another user."""

from __future__ import annotations

import os
from pathlib import Path

from agent.directory import Directory, probe
from tests.directory.disk import run_as_root_in_namespace, write

HEADER = """
import os, sys, stat
from pathlib import Path
from agent.core.entries import *
from agent.core.filters import Filters
from agent.directory import *
from agent.errors import *
from tests.directory.disk import *
root = Path(sys.argv[1])
POORER = [Capabilities(), Capabilities(openat2=False), Capabilities(False, False, False, False)]

def refused(change):
    try:
        change()
    except DirectoryError as exc:
        return type(exc).__name__, getattr(exc, "reason", ""), bool(exc.remedy)
    return "done"
"""


def inside(script: str, root: Path, *, prepare: str = "true", uid: int | None = None) -> None:
    run_as_root_in_namespace(HEADER + script, root, prepare=prepare, uid=uid)


def test_a_nested_mount_is_a_problem_and_nothing_below_it_is_gone(root: Path) -> None:
    write(root / "m/known")
    write(root / "n/file")
    inside(
        """
with Directory.open(root) as directory:
    known = known_of(directory)
os.system(f"mount -t tmpfs none {root}/m")
write(root / "m/new")
for can in POORER:
    with Directory.open(root, capabilities=can) as directory:
        assert hints_of(directory, known) == [("m/", Reason.OTHER_FILE_SYSTEM)], hints_of(directory, known)
        assert directory.look("m/new").side.reason is Reason.OTHER_FILE_SYSTEM
        assert directory.read("m/new").side.reason is Reason.OTHER_FILE_SYSTEM
        expected = known[0][1]
        for change in (
            lambda: put(directory, "m/x", b""),
            lambda: put(directory, "m/d/x", b""),
            lambda: directory.delete("m/known", expected),
            lambda: directory.move("n/file", "m/file", read(directory, "n/file")),
            lambda: directory.make_directory("m/d/"),
        ):
            assert refused(change) == ("PathError", Reason.OTHER_FILE_SYSTEM, True), refused(change)
assert os.listdir(root / "m") == ["new"]
""",
        root,
    )


def test_a_bind_mount_of_the_same_file_system_is_one_too(root: Path) -> None:
    write(root / "m/known")
    write(root.parent / "other/secret")
    inside(
        """
with Directory.open(root) as directory:
    if not directory._tree.can.openat2:
        sys.exit()  # by device alone it can't be told
    known = known_of(directory)
    os.system(f"mount --bind {root.parent}/other {root}/m")
    assert hints_of(directory, known) == [("m/", Reason.OTHER_FILE_SYSTEM)]
    assert directory.look("m/secret").side.reason is Reason.OTHER_FILE_SYSTEM
    assert refused(lambda: put(directory, "m/x", b""))[1] == Reason.OTHER_FILE_SYSTEM
assert os.listdir(root.parent / "other") == ["secret"]
""",
        root,
    )


def test_a_file_that_is_a_mount_point_is_left_alone(root: Path) -> None:
    write(root / "file")
    write(root.parent / "other", b"mounted")
    inside(
        """
os.system(f"mount --bind {root.parent}/other {root}/file")
for can in (Capabilities(openat2=False), Capabilities(False, False, False, False)):
    with Directory.open(root, capabilities=can) as directory:
        local = read(directory, "file")
        assert refused(lambda: put(directory, "file", b"new", local))[0] == "PathError"
        assert refused(lambda: directory.delete("file", local))[0] == "PathError"
        assert staged_left(root) == []
assert (root / "file").read_bytes() == b"mounted"
""",
        root,
    )


def test_a_root_that_is_mounted_over_or_unmounted_is_noticed(root: Path) -> None:
    inside(
        """
os.system(f"mount -t tmpfs none {root}")
write(root / "file")
with Directory.open(root) as directory:
    known = known_of(directory)
    os.system(f"umount -l {root}")
    try:
        print(hints_of(directory, known))
    except RootError as exc:
        assert exc.remedy
    else:
        raise AssertionError
""",
        root,
    )


def test_a_full_file_system_is_an_error_of_space_and_leaves_no_half_file(root: Path) -> None:
    inside(
        """
os.system(f"mount -t tmpfs -o size=1m none {root}")
with Directory.open(root) as directory:
    put(directory, "small", b"old")
    assert refused(lambda: put(directory, "large", b"x" * (2 << 20))) == ("SpaceError", "", True)
    assert user_tree(root) == {"small": b"old"}
    assert staged_left(root) == []
    put(directory, "small", b"new", read(directory, "small"))
    assert directory.free_bytes() < 1 << 20
os.system(f"mount -t tmpfs -o nr_inodes=8 none {root}")
with Directory.open(root) as directory:
    for number in range(20):
        found = refused(lambda: put(directory, f"d/{number}", b""))
        assert found in ("done", ("SpaceError", "", True)), found
    assert found != "done"
    assert staged_left(root) == []
""",
        root,
    )


def test_a_read_only_file_system_can_be_read_and_says_what_to_do(root: Path) -> None:
    write(root / "file")
    inside(
        """
with Directory.open(root) as directory:
    assert not directory.read_only
    os.system(f"mount --bind {root} {root} && mount -o remount,ro,bind {root}")
with Directory.open(root) as directory:
    assert directory.read_only
    local = read(directory, "file")
    assert hints_of(directory) == [("file", "look")]
    assert refused(lambda: directory.stage("x")) == ("PathError", Reason.UNWRITABLE, True)
    assert refused(lambda: directory.delete("file", local)) == ("PathError", Reason.UNWRITABLE, True)
    assert directory.set_metadata("file", local, executable=True).side.executable is False
""",
        root,
    )


def test_overlays_as_containers_have_them_are_one_file_system(root: Path) -> None:
    inside(
        """
os.system(f"mount -t tmpfs none {root} && cd {root} && mkdir lower upper work merged lower/d")
write(root / "lower/d/below", b"old")
assert os.system(f"cd {root} && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work none merged") == 0
merged = root / "merged"
for can in POORER:
    with Directory.open(merged, capabilities=can) as directory:
        assert ("d/below", "look") in hints_of(directory)
        local = read(directory, "d/below")
        put(directory, "d/below", b"new", local)
        put(directory, "e/new", b"new")
        assert hints_of(directory, known_of(directory)) == []
        directory.delete("e/new", read(directory, "e/new"))
        assert user_tree(merged) == {"d": None, "d/below": b"new"}
        assert not directory.network_file_system
""",
        root,
    )


def test_what_may_not_be_read_is_never_gone(root: Path) -> None:
    for path in ("closed/a", "closed/b/c", "open/secret", "open/plain"):
        write(root / path)
    known_script = """
root_uid_known = [(path, Local(Entry(Kind.FILE, b"d" * 32, 7, False, 0)))
                  for path in ("closed/a", "closed/b/c", "open/plain", "open/secret")]
"""
    (root / "closed").chmod(0o700)
    (root / "open/secret").chmod(0o600)
    for one in (root, *root.parents):
        if one.stat().st_uid == os.geteuid() and str(one).startswith("/tmp/"):
            one.chmod(0o755)
    inside(
        known_script
        + """
for can in POORER:
    with Directory.open(root, capabilities=can) as directory:
        assert directory.read_only
        hints = hints_of(directory, root_uid_known)
        assert hints == [("closed/", Reason.UNREADABLE), ("open/plain", "look"), ("open/secret", "look")], hints
        assert directory.look("closed/a").side.reason is Reason.UNREADABLE
        assert directory.look("closed/nothing").side.reason is Reason.UNREADABLE
        assert directory.read("closed/a").side.reason is Reason.UNREADABLE
        secret = directory.read("open/secret")
        assert secret.side.reason is Reason.UNREADABLE
        assert secret.signature == directory.look("open/secret").signature
        assert hints_of(directory, [("closed/", Local(Obstacle(Reason.UNREADABLE)))], below="closed") == []
        scan = directory.scan(Known(root_uid_known), Filters(), below="closed/b")
        assert [hint.path for hint in scan] == ["closed/b/"]
        plain = read(directory, "open/plain")
        for change in (
            lambda: directory.stage("x"),
            lambda: directory.delete("open/plain", plain),
            lambda: directory.make_directory("d/"),
        ):
            assert refused(change) == ("PathError", Reason.UNWRITABLE, True), refused(change)
        after = directory.set_metadata("open/plain", plain, executable=True, mtime_ns=1)
        assert after.side == plain.side
assert not (root / ".jetsync").exists()
""",
        root,
        uid=12345,
    )


def test_a_directory_that_may_not_be_written_refuses_its_own_files_only(root: Path) -> None:
    for path in ("closed/file", "open/file"):
        write(root / path)
    for one in (root, *root.parents):
        if one.stat().st_uid == os.geteuid() and str(one).startswith("/tmp/"):
            one.chmod(0o755)
    for one in (root, *root.rglob("*")):
        os.chown(one, 12345, 12345)
    os.chown(root / "closed", 0, 0)
    inside(
        """
for can in POORER:
    with Directory.open(root, capabilities=can) as directory:
        local = read(directory, "closed/file")
        for change in (
            lambda: put(directory, "closed/new", b""),
            lambda: put(directory, "closed/file", b"", local),
            lambda: directory.delete("closed/file", local),
            lambda: directory.move("closed/file", "x", local),
        ):
            assert refused(change) == ("PathError", Reason.UNWRITABLE, True), refused(change)
        put(directory, "open/file", b"new", read(directory, "open/file"))
        assert staged_left(root) == []
assert user_tree(root) == {"closed": None, "closed/file": b"content", "open": None, "open/file": b"new"}
""",
        root,
        uid=12345,
    )


def test_running_out_of_descriptors_is_no_problem_of_the_path(root: Path) -> None:
    write(root / "a/file")
    inside(
        """
import resource
with Directory.open(root) as directory:
    local = read(directory, "a/file")
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, 4096))
    for call in (
        lambda: directory.look("a/file"),
        lambda: directory.read("a/file"),
        lambda: list(directory.scan(Known(), Filters())),
        lambda: directory.delete("a/file", local),
    ):
        assert refused(call)[0] == "ShortageError", refused(call)
    assert ShortageError.transient
""",
        root,
    )


def test_two_names_of_one_file_are_no_sign_of_case_insensitivity(root: Path, directory: Directory) -> None:
    write(root / "a")
    os.link(root / "a", root / "A")

    assert not directory.case_insensitive
    assert not probe._has_casefold_flag(directory._tree.fd)
