"""The loop of a subscription: at once when the channel moves, again after a failure, and for any number of agents."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.directory import Versions, oldversions
from agent.directory.space import Space
from agent.errors import ConnectError, SpaceError
from agent.objectstore import Connection, Endpoint
from agent.observe.status import State
from agent.snapshots import subscription as module
from agent.snapshots.item import Item
from agent.snapshots.subscription import Subscription
from agent.sync.remotes import Remotes
from tests.support.publisher import name_of
from tests.support.server import NatsServer
from tests.support.snapshots import Maker, Subscriber

T = TypeVar("T", bound=Item)


def make(subscriber: Subscriber, remotes: Remotes | None = None, **options: Any) -> Subscription:
    if remotes is None:
        remotes = Remotes({})
        remotes.attach(subscriber.connection)
    return Subscription(
        config=subscriber.config,
        folder=subscriber.directory.parent,
        state_path=subscriber.state,
        remotes=remotes,
        **options,
    )


@asynccontextmanager
async def running(subscription: T) -> AsyncIterator[T]:
    task = asyncio.create_task(subscription.run(), name="subscription")
    try:
        yield subscription
    finally:
        if not await subscription.drain():
            task.cancel()
        await asyncio.wait([task], timeout=10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is the disk and other tasks that make it true
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look comes by itself while a test runs."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 3600.0)


async def test_the_channel_is_followed(maker: Maker, subscriber: Subscriber, no_consumers_left: None):
    first = await maker.make({"a": b"one"})
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscriber.current == first)
        second = await maker.make({"a": b"two"})
        await until(lambda: subscriber.current == second)
        await maker.back_to(first)
        await until(lambda: subscriber.current == first and subscription.status().state is State.IDLE)

        status = subscription.status()
        assert (status.snapshot, status.channel, status.last_error) == (first, "stable", None)
        assert (subscription.installed, subscription.failed) == (3, 0)
        assert (subscription.bytes_down, subscription.bytes_reused) == (6, 3)


async def test_a_channel_that_comes_later_is_waited_for(maker: Maker, subscriber: Subscriber):
    await maker.opened()
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscription.failed > 0)
        assert "no channel 'stable'" in subscription.status().sentence and not subscription.unverified
        identity = await maker.make({"a": b"one"})
        await until(lambda: subscriber.current == identity)


async def test_converge_tells_what_was_done(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})
    async with running(make(subscriber)) as subscription:
        report = await subscription.converge()

        assert (report.kind, report.name, report.state, report.id) == ("subscription", "live", "converged", identity)
        assert report.as_json()["errors"] == []
        assert await subscription.converged_before()


async def test_whoever_asks_is_told_when_the_agent_stops_meanwhile(maker: Maker, subscriber: Subscriber):
    await maker.make({"a": b"one"})
    subscriber.options["before"] = ("touch begun; sleep 60",)
    subscription = make(subscriber, follow=False)
    task = asyncio.create_task(subscription.run())
    asked = asyncio.create_task(subscription.converge())
    await until((subscriber.directory.parent / "begun").exists)

    assert not await subscription.drain()
    task.cancel()

    assert (await asked).errors == ["the agent stops; ask again when it runs"]
    await asyncio.gather(task, return_exceptions=True)


async def test_the_directory_is_free_again_whenever_it_is_stopped(
    maker: Maker, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
):
    identity = await maker.make({"a": b"one"})
    opening = threading.Event()

    def slowly(path: Path, real: Callable[[Path], Versions] = Versions.open) -> Versions:
        opening.set()
        time.sleep(0.3)
        return real(path)

    monkeypatch.setattr(Versions, "open", slowly)
    task = asyncio.create_task(make(subscriber).run())
    await until(opening.is_set)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    monkeypatch.undo()

    assert (await subscriber.install()).id == identity


async def test_who_does_not_follow_installs_only_when_asked(maker: Maker, subscriber: Subscriber):
    first = await maker.make({"a": b"one"})
    item: Item = make(subscriber, follow=False)
    async with running(item):
        assert not await item.converged_before()
        assert (await item.converge()).id == first
        await maker.make({"a": b"two"})
        item.poke()
        await asyncio.sleep(0.3)

        assert subscriber.current == first


async def test_what_failed_is_tried_again_and_at_once_when_the_channel_moves(maker: Maker, subscriber: Subscriber):
    await maker.make({"a": b"one"})
    await (await maker.opened()).bucket.delete(name_of(b"one"))
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscription.unverified > 0 and subscription.status().state is State.FAILED)
        status = subscription.status()
        assert status.last_error is not None
        assert "content of a" in status.last_error.message
        second = await maker.make({"a": b"two"})
        await until(lambda: subscriber.current == second)

        await maker.make({"a": b"three"}, content=False)
        await until(lambda: subscription.status().state is State.FAILED)
        await maker.contents(await maker.opened(), {"a": b"three"})
        await until(lambda: (subscriber.directory / "current/a").read_bytes() == b"three")
        await until(lambda: subscription.status().last_error is None)


async def test_a_failing_after_is_told_and_retried(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})
    subscriber.options["after"] = ("test -e allowed && touch done",)
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscription.status().last_error is not None)
        assert subscriber.current == identity
        assert f"{identity} is current, but" in subscription.status().sentence

        (subscriber.directory.parent / "allowed").touch()
        await until((subscriber.directory.parent / "done").exists)
        await until(lambda: subscription.status().last_error is None)


async def test_foreign_content_is_told_once(maker: Maker, subscriber: Subscriber, capsys: pytest.CaptureFixture[str]):
    await maker.make({"a": b"one"})
    subscriber.directory.mkdir()
    (subscriber.directory / "mine").touch()
    (subscriber.directory / "versions").mkdir()
    (subscriber.directory / "versions/mine too").touch()
    async with running(make(subscriber)) as subscription:
        for _ in range(3):
            await subscription.converge()

        assert subscription.status().foreign == ("mine", "versions/mine too")
    assert capsys.readouterr().out.count("left alone") == 1


async def test_old_versions_go_when_their_time_has_come(
    maker: Maker, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(oldversions, "GRACE", 1.0)
    subscriber.options["keep"] = 1
    first = await maker.make({"a": b"one"})
    async with running(make(subscriber)):
        await until(lambda: subscriber.current == first)
        second = await maker.make({"a": b"two"})
        await until(lambda: subscriber.current == second)
        assert subscriber.version(first).exists()

        await until(lambda: subscriber.ids == {second})


async def test_without_a_server_what_is_installed_stays_and_what_is_owed_is_done(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})
    await subscriber.install(after=("false",))
    subscriber.options["after"] = ("touch done",)
    remotes = Remotes({})
    remotes.unreachable(ConnectError("nobody there"))
    async with running(make(subscriber, remotes)) as subscription:
        await until((subscriber.directory.parent / "done").exists)
        await until(lambda: subscription.failed > 0)
        status = subscription.status()

        assert (status.snapshot, status.state) == (identity, State.RETRYING)
        remotes.attach(subscriber.connection)
        subscription.poke()
        await until(lambda: subscription.status().state is State.IDLE)


async def test_a_server_that_was_away_is_followed_again(fresh_server: NatsServer, tmp_path: Path):
    async with await Connection.open(Endpoint([fresh_server.url]), name="test") as connection:
        maker = Maker(connection, "repository")
        first = await maker.make({"a": b"one"})
        subscriber = Subscriber(connection, "repository", tmp_path / "live", tmp_path / "live.db")
        async with running(make(subscriber)):
            await until(lambda: subscriber.current == first)
            await asyncio.to_thread(fresh_server.restart, kill=True)
            async with asyncio.timeout(30):
                await connection.wait_connected(30)
            second = await maker.make({"a": b"two"})
            await until(lambda: subscriber.current == second, 60)


async def test_a_directory_that_was_replaced_is_installed_in_anew(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscriber.current == identity)
        subscriber.directory.rename(subscriber.directory.with_name("away"))

        await subscription.converge()

        assert (subscriber.directory / "current/a").read_bytes() == b"one"


async def test_a_version_that_somebody_removes_is_installed_again(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})
    async with running(make(subscriber)) as subscription:
        await until(lambda: subscriber.current == identity)
        await subscription.converge()
        subscriber.version(identity).rename(subscriber.directory.with_name("away"))

        await subscription.converge()

        assert (subscriber.directory / "current/a").read_bytes() == b"one"


async def test_a_reader_that_opens_current_once_sees_one_whole_snapshot(maker: Maker, subscriber: Subscriber):
    """Promise 10, while one snapshot after the other is installed."""
    names = [f"d{number % 3}/f{number}" for number in range(12)]
    passes: list[set[bytes]] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            fd = os.open(subscriber.directory / "current", os.O_RDONLY | os.O_DIRECTORY)
            try:
                passes.append({_content(fd, name) for name in names})
            finally:
                os.close(fd)

    first = await maker.make(dict.fromkeys(names, b"0"))
    async with running(make(subscriber)):
        await until(lambda: subscriber.current == first)
        reading = asyncio.create_task(asyncio.to_thread(read))
        try:
            for number in range(1, 16):
                identity = await maker.make(dict.fromkeys(names, b"%d" % number))
                if number % 3 == 0:
                    await until(lambda identity=identity: subscriber.current == identity)  # type: ignore[misc]
        finally:
            stop.set()
            await reading

    assert all(len(seen) == 1 for seen in passes)
    assert len({frozenset(seen) for seen in passes}) > 3


def _content(fd: int, name: str) -> bytes:
    file = os.open(name, os.O_RDONLY, dir_fd=fd)
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


async def test_ten_subscribers_follow_one_channel(maker: Maker, make_subscriber: Callable[..., Subscriber]):
    subscribers = [make_subscriber(f"live{number}") for number in range(10)]
    first = await maker.make({"a": b"one", "b": b"same"})
    async with AsyncExitStack() as stack:
        for subscriber in subscribers:
            await stack.enter_async_context(running(make(subscriber)))
        await until(lambda: all(subscriber.current == first for subscriber in subscribers))
        second = await maker.make({"a": b"two", "b": b"same"})
        await until(lambda: all(subscriber.current == second for subscriber in subscribers))

        await maker.back_to(first)
        await until(lambda: all(subscriber.current == first for subscriber in subscribers))

    for subscriber in subscribers:
        one, two = (subscriber.version(identity) / "b" for identity in (first, second))
        assert one.stat().st_ino == two.stat().st_ino


async def test_a_disk_without_room_is_told_once_however_its_free_space_changes(
    maker: Maker, subscriber: Subscriber, monkeypatch: pytest.MonkeyPatch
):
    await maker.make({"a": b"one"})
    left = iter(range(100))
    told: list[str] = []

    def full(_space: Space, _more: int = 0) -> None:
        raise SpaceError(f"{100 - next(left)} bytes are free", remedy="free some")

    monkeypatch.setattr(Space, "check", full)
    async with running(make(subscriber, follow=False)) as subscription:
        monkeypatch.setattr(subscription._standing.log, "warning", lambda event, **_: told.append(event), raising=False)
        for _ in range(3):
            await subscription.converge()
        assert "98 bytes" in subscription.status().sentence
    assert told == ["not_installed"]
