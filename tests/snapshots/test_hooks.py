"""Commands and the webhook around a change: before it can say no, after it at least once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from agent.errors import RefusedError, SnapshotError
from agent.snapshots import hooks
from agent.snapshots.hooks import Change
from tests.support.snapshots import Maker, Subscriber


@pytest.fixture
def change(tmp_path: Path) -> Change:
    return Change("live", "new", "old", tmp_path / "live", tmp_path / "live/versions/new")


@dataclass
class Webhook:
    """Answers with `status`, and keeps what came."""

    url: str = ""
    status: int = 200
    bodies: list[dict[str, str]] = field(default_factory=list)
    headers: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.json())
        self.headers.append(request.headers["Jetsync-Snapshot"])
        return web.Response(status=self.status, headers={"Location": "/elsewhere"})


@pytest.fixture
async def webhook() -> AsyncIterator[Webhook]:
    hook = Webhook()
    application = web.Application()
    application.router.add_post("/changed", hook.answer)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    hook.url = f"http://127.0.0.1:{runner.addresses[0][1]}/changed"
    yield hook
    await runner.cleanup()


# -- one command -------------------------------------------------------------------------------------------------------


async def test_a_command_runs_in_the_folder_of_the_configuration_and_knows_what_changed(change: Change, tmp_path: Path):
    await hooks.run("pwd > told; env | grep ^JETSYNC_ | sort >> told", change, folder=tmp_path)

    assert (tmp_path / "told").read_text().splitlines() == [
        str(tmp_path),
        f"JETSYNC_DIRECTORY={tmp_path}/live",
        "JETSYNC_PREVIOUS=old",
        "JETSYNC_SNAPSHOT=new",
        "JETSYNC_SUBSCRIPTION=live",
        f"JETSYNC_VERSION={tmp_path}/live/versions/new",
    ]


async def test_a_list_of_arguments_meets_no_shell(change: Change, tmp_path: Path):
    await hooks.run(("touch", "a b; $HOME", "c"), change, folder=tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a b; $HOME", "c"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("echo it is broken >&2; exit 3", "ended with 3: it is broken"),
        ("kill -9 $$", "killed by signal 9"),
        (("./missing",), "can't be run: No such file"),
    ],
)
async def test_a_failing_command_is_told_with_its_last_words(
    change: Change, tmp_path: Path, command: hooks.Command, says: str
):
    with pytest.raises(RefusedError, match=says):
        await hooks.run(command, change, folder=tmp_path)


async def test_a_command_that_takes_too_long_is_killed_with_its_children(change: Change, tmp_path: Path):
    command = "trap '' TERM; sleep 60 & echo $! > child; echo waiting; wait; sleep 60"

    with pytest.raises(RefusedError, match=r"didn't end within 0\.5 s"):
        await hooks.run(command, change, folder=tmp_path, seconds=0.5)

    await _until_gone(int((tmp_path / "child").read_text()))


async def test_a_cancelled_command_is_killed_with_its_children(change: Change, tmp_path: Path):
    task = asyncio.create_task(hooks.run("sleep 60 & echo $! > child; wait", change, folder=tmp_path))
    child = tmp_path / "child"
    async with asyncio.timeout(10):
        while not child.exists() or not child.read_text():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.01)

    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    await _until_gone(int((tmp_path / "child").read_text()))


async def _until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while Path(f"/proc/{pid}").exists():
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return  # nobody here to reap it
            await asyncio.sleep(0.01)


async def test_much_output_blocks_nobody_and_only_its_end_is_kept(
    change: Change, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    await hooks.run("head -c 3000000 /dev/zero | tr '\\0' x; echo; echo the end", change, folder=tmp_path)

    told = capsys.readouterr().out
    assert "the end" in told and len(told) < 10_000


async def test_what_a_command_leaves_in_the_background_is_not_waited_for(change: Change, tmp_path: Path):
    async with asyncio.timeout(10):
        await hooks.run("sleep 30 & echo $! > child", change, folder=tmp_path)

    pid = int((tmp_path / "child").read_text())
    os.kill(pid, 0)
    os.kill(pid, 9)


# -- the webhook -------------------------------------------------------------------------------------------------------


async def test_the_webhook_is_told(change: Change, webhook: Webhook):
    await hooks.post(webhook.url, change)

    assert webhook.bodies == [
        {"subscription": "live", "snapshot": "new", "previous": "old", "directory": str(change.directory)}
    ]
    assert webhook.headers == ["new"]


@pytest.mark.parametrize("status", [302, 404, 500])
async def test_a_webhook_that_does_not_say_success_has_failed(change: Change, webhook: Webhook, status: int):
    webhook.status = status

    with pytest.raises(SnapshotError, match=str(status)):
        await hooks.post(webhook.url, change)

    assert len(webhook.bodies) == 1


async def test_a_webhook_that_is_away_has_failed_and_its_token_is_not_told(change: Change):
    with pytest.raises(SnapshotError) as caught:
        await hooks.post("http://user:secret@127.0.0.1:1/x?token=hidden", change)

    assert "secret" not in str(caught.value) and "hidden" not in str(caught.value)


# -- around an install -------------------------------------------------------------------------------------------------


def told(subscriber: Subscriber, name: str = "told") -> list[str]:
    path = subscriber.directory.parent / name
    return path.read_text().splitlines() if path.exists() else []


async def test_before_sees_the_new_version_while_the_old_one_is_current(maker: Maker, subscriber: Subscriber):
    first = await maker.make({"a": b"one"})
    await subscriber.install()
    second = await maker.make({"a": b"two"})

    await subscriber.install(
        before=('echo "$JETSYNC_PREVIOUS $(cat $JETSYNC_VERSION/a) $(cat $JETSYNC_DIRECTORY/current/a)" >> told',),
        after=('echo "$JETSYNC_SNAPSHOT $(cat $JETSYNC_DIRECTORY/current/a)" >> told',),
    )

    assert told(subscriber) == [f"{first} two one", f"{second} two"]


async def test_a_failing_before_keeps_the_old_one_current_and_nothing_is_fetched_again(
    maker: Maker, subscriber: Subscriber
):
    first = await maker.make({"a": b"one"})
    await subscriber.install()
    second = await maker.make({"a": b"two"})
    check = ("sh", "-c", "echo $JETSYNC_SNAPSHOT >> told; test -e allowed")

    with pytest.raises(RefusedError, match=f"snapshot {second} was refused"):
        await subscriber.install(before=(check, "echo never >> told"), after=("echo after >> told",))
    assert subscriber.current == first

    (subscriber.directory.parent / "allowed").touch()
    report = await subscriber.install()

    assert report.id == subscriber.current == second and report.downloads == 0
    assert told(subscriber) == [second, second, "never", "after"]


async def test_a_refused_version_goes_when_the_channel_has_moved_on(maker: Maker, subscriber: Subscriber):
    first = await maker.make({"a": b"one"})
    await subscriber.install()
    await maker.make({"a": b"bad"})
    with pytest.raises(RefusedError):
        await subscriber.install(before=("! grep -q bad $JETSYNC_VERSION/a",))
    third = await maker.make({"a": b"good"})

    await subscriber.install()

    assert subscriber.ids == {first, third}


async def test_a_failing_after_does_not_go_back_and_is_run_until_it_succeeds(maker: Maker, subscriber: Subscriber):
    identity = await maker.make({"a": b"one"})

    report = await subscriber.install(
        after=("echo one >> told", "echo two >> told; test -e allowed", "echo three >> told")
    )
    assert (report.state, report.id, subscriber.current) == ("failed", identity, identity)
    assert "is current, but" in report.errors[0] and "ended with 1" in report.errors[0]

    assert (await subscriber.install()).state == "failed"
    (subscriber.directory.parent / "allowed").touch()
    assert (await subscriber.install()).state == "converged"
    assert (await subscriber.install()).state == "converged"
    assert told(subscriber) == ["one", "two", "two", "two", "three"]


async def test_a_webhook_is_told_until_it_says_success_and_waits_for_no_command(
    maker: Maker, subscriber: Subscriber, webhook: Webhook
):
    identity = await maker.make({"a": b"one"})
    webhook.status = 500

    report = await subscriber.install(after=("echo x >> told; false",), webhook=webhook.url)
    assert len(report.errors) == 2
    webhook.status = 204
    await subscriber.install()
    await subscriber.install(after=("echo y >> told",))
    await subscriber.install()

    assert [body["snapshot"] for body in webhook.bodies] == [identity, identity]
    assert told(subscriber) == ["x", "x", "y"]


async def test_what_is_owed_survives_a_lost_state(maker: Maker, subscriber: Subscriber):
    await maker.make({"a": b"one"})
    await subscriber.install(after=("false",))
    for path in subscriber.state.parent.glob(subscriber.state.name + "*"):
        path.unlink()

    await subscriber.install(after=("echo x >> told",))

    assert told(subscriber) == ["x"]


async def test_a_snapshot_that_was_replaced_is_owed_nothing(maker: Maker, subscriber: Subscriber):
    await maker.make({"a": b"one"})
    await subscriber.install(after=("false",))
    second = await maker.make({"a": b"two"})

    await subscriber.install(after=("echo $JETSYNC_SNAPSHOT >> told",))
    await subscriber.install()

    assert told(subscriber) == [second]


async def test_without_anything_to_run_nothing_is_owed(maker: Maker, subscriber: Subscriber):
    await maker.make({"a": b"one"})
    await subscriber.install()

    await subscriber.install(after=("echo x >> told",))

    assert told(subscriber) == []
    assert not (subscriber.directory / "versions/.jetsync/owed.json").exists()
    assert json.loads((subscriber.directory / "versions/.jetsync/times.json").read_text()) == {}
