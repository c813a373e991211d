"""Publications and subscriptions, by the command alone and by running agents: what is published arrives whole."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.control.client import call
from tests.support.agent import Agent, eventually, write_tree
from tests.support.server import NatsServer, free_port

MakeSite = Callable[..., Agent]


@pytest.fixture
def make_site(tmp_path: Path, nats_url: str, bucket_name: str) -> MakeSite:
    """make_site("x", publishes=True, subscribes=True, **options of the subscription)."""

    def make(name: str, *, publishes: bool = False, subscribes: bool = False, **options: Any) -> Agent:
        top: dict[str, Any] = {}
        if publishes:
            top["publications"] = [
                {"name": "models", "directory": "./tree", "repository": bucket_name, "channel": "stable"}
            ]
        if subscribes:
            top["subscriptions"] = [
                {"name": "live", "directory": "./live", "repository": bucket_name, "channel": "stable"} | options
            ]
        site = Agent(tmp_path / name, nats_url, [], buckets={bucket_name: {}}, **top)
        (site.home / "live").mkdir(exist_ok=True)
        return site

    return make


def publish(site: Agent, tree: dict[str, bytes]) -> str:
    write_tree(site.home / "tree", tree)
    return str(site.cli("snapshot", "publish", "models", "--json", exit=0).json["id"])


def current(site: Agent) -> str:
    """The id of the version that `current` leads to."""
    return (site.home / "live/current").readlink().name


def content_of(site: Agent) -> dict[str, bytes]:
    root = (site.home / "live/current").resolve()
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_published_is_installed_and_unchanged_files_are_shared(make_site: MakeSite):
    site = make_site("one", publishes=True, subscribes=True)
    first = publish(site, {"a": b"1", "same": b"same", "deep/c": b"c"})

    (installed,) = site.cli("sync", "--json", exit=0).json["snapshots"]
    assert (installed["kind"], installed["id"], installed["downloads"]) == ("subscription", first, 3)
    assert content_of(site) == {"a": b"1", "same": b"same", "deep/c": b"c"}
    before = (site.home / "live/current/same").stat()

    second = publish(site, {"a": b"2"})
    report = site.cli("snapshot", "install", "live", "--json", exit=0).json
    assert (report["id"], report["previous"], report["downloads"], report["bytes_down"]) == (second, first, 1, 1)
    after = (site.home / "live/current/same").stat()
    assert (current(site), after.st_ino, after.st_mode & 0o777) == (second, before.st_ino, 0o444)
    again = site.cli("snapshot", "install", "live", "--json", exit=0).json
    assert (again["id"], again["downloads"]) == (second, 0)


def test_a_rollback_reaches_running_subscribers(make_site: MakeSite, bucket_name: str):
    publisher = make_site("publisher", publishes=True)
    sites = [make_site(f"s{number}", subscribes=True) for number in range(3)]
    first = publish(publisher, {"a": b"1"})
    running = [site.run() for site in sites]
    try:
        for site in sites:
            assert current(site) == first
        second = publish(publisher, {"a": b"2"})
        for site in sites:
            eventually(lambda site=site: current(site) == second)  # type: ignore[misc]
        publisher.cli("snapshot", "rollback", bucket_name, "stable", exit=0)
        for site in sites:
            eventually(lambda site=site: current(site) == first)  # type: ignore[misc]
        (status,) = sites[0].cli("status", "--json", exit=0).json["snapshots"]
        assert (status["kind"], status["snapshot"], status["last_error"]) == ("subscription", first, None)
        assert [process.stop() for process in running] == [143] * 3
    finally:
        for process in running:
            process.kill()


def test_commands_run_around_a_change_and_a_failing_one_keeps_the_old_one(make_site: MakeSite):
    before = ["./check.sh", 'test ! -e "$JETSYNC_VERSION/broken"']
    after = ['echo "$JETSYNC_SNAPSHOT after $${JETSYNC_PREVIOUS:-none} in $JETSYNC_DIRECTORY" >> log']
    site = make_site("one", publishes=True, subscribes=True, before=before, after=after)
    (site.home / "check.sh").write_text('#!/bin/sh\ntest -f "$JETSYNC_DIRECTORY/versions/$JETSYNC_SNAPSHOT/a"\n')
    (site.home / "check.sh").chmod(0o755)
    first = publish(site, {"a": b"1"})
    site.cli("snapshot", "install", "live", exit=0)

    publish(site, {"broken": b"x"})
    refused = site.cli("snapshot", "install", "live", "--json", exit=1).json
    assert refused["state"] == "failed" and "JETSYNC_VERSION/broken" in refused["errors"][0]
    assert current(site) == first

    (site.home / "tree/broken").unlink()
    third = publish(site, {"a": b"3"})
    site.cli("snapshot", "install", "live", exit=0)
    directory = site.home / "live"
    assert (site.home / "log").read_text().splitlines() == [
        f"{first} after none in {directory}",
        f"{third} after {first} in {directory}",
    ]


def test_a_subscription_without_its_server_starts_with_what_it_has(make_site: MakeSite):
    site = make_site("one", publishes=True, subscribes=True)
    first = publish(site, {"a": b"1"})
    away = {"servers": ["nats://127.0.0.1:9"]}
    there, site.config["nats"] = site.config["nats"], away
    site.write()
    site.cli("sync", "--timeout", "1s", "--offline-ok", exit=5)
    site.config["nats"] = there
    site.write()
    site.cli("sync", exit=0)
    site.config["nats"] = away
    site.write()
    site.cli("sync", "--timeout", "1s", exit=5)
    offline = site.cli("sync", "--timeout", "1s", "--offline-ok", "--json", exit=0).json["snapshots"][0]
    assert (current(site), offline["id"], offline["state"]) == (first, first, "failed")
    (site.home / "live/current").unlink()
    site.cli("sync", "--timeout", "1s", "--offline-ok", exit=5)


def test_a_pin_that_is_installed_needs_no_server(make_site: MakeSite):
    site = make_site("one", publishes=True, subscribes=True)
    identity = publish(site, {"a": b"1"})
    entry = site.config["subscriptions"][0]
    del entry["channel"]
    entry["snapshot"] = identity
    site.write()
    site.cli("sync", exit=0)
    site.config["nats"] = {"servers": ["nats://127.0.0.1:9"]}
    site.write()
    site.cli("sync", "--timeout", "1s", exit=0)
    entry["snapshot"] = "20240131T120000Z-0123456789ab"
    site.write()
    site.cli("sync", "--timeout", "1s", "--offline-ok", exit=5)
    assert current(site) == identity


def test_readiness_waits_for_the_first_install(make_site: MakeSite):
    publisher, site = make_site("publisher", publishes=True), make_site("one", subscribes=True)
    publisher.cli("bucket", "apply", exit=0)
    with site.run(wait=False) as running:
        eventually(lambda: running.get("/livez")[0] == 200)
        code, text = running.get("/readyz")
        assert code == 503 and "live" in text
        publish(publisher, {"a": b"1"})
        eventually(lambda: running.get("/readyz")[0] == 200)
        assert content_of(site) == {"a": b"1"}


def test_whoever_waits_for_the_first_install_may_be_the_one_that_is_told_of_it(make_site: MakeSite):
    """An application that starts when the agent is ready, as beside a native sidecar, can't answer before that."""
    site = make_site(
        "one", publishes=True, subscribes=True, webhook=f"http://127.0.0.1:{free_port()}/", after=["exit 1"]
    )
    publish(site, {"a": b"1"})

    with site.run() as running:
        assert content_of(site) == {"a": b"1"}
        states = {item["kind"]: item["state"] for item in site.cli("status", "--json", exit=0).json["snapshots"]}
        assert states["subscription"] == "retrying"
        assert running.get("/readyz")[0] == 200


def test_a_subscription_that_is_pinned_stays(make_site: MakeSite):
    publisher = make_site("publisher", publishes=True)
    first = publish(publisher, {"a": b"1"})
    publish(publisher, {"a": b"2"})
    site = make_site("one", subscribes=True)
    entry = site.config["subscriptions"][0]
    del entry["channel"]
    entry["snapshot"] = first
    site.write()
    site.cli("sync", exit=0)
    assert current(site) == first


@pytest.mark.parametrize("content", ["copies", "links"])
def test_a_pinned_copy_needs_no_repository(make_site: MakeSite, bucket_name: str, content: str):
    publisher = make_site("publisher", publishes=True)
    publisher.config["publications"][0]["content"] = content
    publisher.write()
    identity = publish(publisher, {"a": b"1", "deep/b": b"2"})
    publisher.cli("bucket", "delete", bucket_name, "--yes", exit=0)
    site = make_site("one", subscribes=True)
    site.config["buckets"] = {}
    entry = site.config["subscriptions"][0]
    del entry["channel"]
    entry["snapshot"] = identity
    site.write()
    if content == "copies":
        site.cli("sync", exit=0)
        assert content_of(site) == {"a": b"1", "deep/b": b"2"}
    else:
        (report,) = site.cli("sync", "--json", exit=1).json["snapshots"]
        assert "the content of a can't be had" in report["errors"][0] and bucket_name in report["errors"][0]
    entry["snapshot"] = "20240131T120000Z-0123456789ab"
    site.write()
    (report,) = site.cli("sync", "--json", exit=1).json["snapshots"]
    assert "there is no snapshot 20240131T120000Z-0123456789ab" in report["errors"][0]


def test_a_copy_is_carried_to_an_edge_by_a_mirror_alone_and_installed_without_its_core(
    make_server: Callable[..., NatsServer], tmp_path: Path
):
    port = free_port()
    core = make_server(
        jetstream=False,
        config_extra=f'jetstream {{ store_dir: "{tmp_path / "js-core"}", domain: core }}\n'
        f'leafnodes {{ listen: "127.0.0.1:{port}" }}',
    )
    leaf = make_server(
        jetstream=False,
        config_extra=f'jetstream {{ store_dir: "{tmp_path / "js-edge"}", domain: edge }}\n'
        f'leafnodes {{ remotes: [{{ url: "nats://127.0.0.1:{port}" }}] }}',
    )
    tree = {"a": b"1", "large": os.urandom(300_000)}
    nats = {"servers": [core.url], "domain": "core"}
    publication = {"name": "models", "directory": "./tree", "repository": "artifacts", "channel": "stable"}
    publisher = Agent(
        tmp_path / "core", nats, [], buckets={"artifacts": {}}, publications=[publication | {"content": "copies"}]
    )
    identity = publish(publisher, tree)
    name = f"artifacts_{identity}"
    site = Agent(
        tmp_path / "edge",
        {"servers": [leaf.url], "domain": "edge"},
        [],
        buckets={name: {"mirror": {"bucket": name, "domain": "core"}}},
        subscriptions=[{"name": "live", "directory": "./live", "repository": "artifacts", "snapshot": identity}],
    )
    site.cli("bucket", "apply", exit=0)
    eventually(lambda: site.cli("snapshot", "list", "artifacts", "--json").code != 0)
    eventually(lambda: site.cli("bucket", "show", name, "--json", exit=0).json["size"] > 300_000)
    core.stop()
    site.cli("sync", exit=0)
    assert content_of(site) == tree


def test_metrics_and_status_tell_of_snapshots(make_site: MakeSite, bucket_name: str):
    site = make_site("one", publishes=True, subscribes=True)
    first = publish(site, {"a": b"1", "same": b"same"})
    with site.run() as running:
        second = publish(site, {"a": b"22"})
        eventually(lambda: current(site) == second)

        def told() -> bool:
            found = running.metrics()
            infos = {name for name in found if name.startswith("jetsync_snapshot_info")}
            assert infos == {
                f'jetsync_snapshot_info{{kind="{kind}",name="{name}",snapshot="{second}"}}'
                for kind, name in (("publication", "models"), ("subscription", "live"))
            }
            assert found['jetsync_snapshots_total{kind="publication",name="models",result="changed"}'] == 1
            assert found['jetsync_snapshots_total{kind="subscription",name="live",result="changed"}'] == 2
            assert found['jetsync_snapshots_total{kind="subscription",name="live",result="error"}'] == 0
            assert found['jetsync_snapshot_bytes_total{kind="publication",name="models",source="transferred"}'] == 2
            assert found['jetsync_snapshot_bytes_total{kind="subscription",name="live",source="transferred"}'] == 7
            assert found['jetsync_snapshot_bytes_total{kind="subscription",name="live",source="reused"}'] == 4
            assert found['jetsync_installed_snapshot_timestamp_seconds{name="live"}'] > 0
            assert found['jetsync_published_snapshot_timestamp_seconds{name="models"}'] > 0
            return True

        eventually(told)
        (site.home / "live/mine").write_bytes(b"")
        site.cli("snapshot", "rollback", bucket_name, "stable", exit=0)
        eventually(lambda: current(site) == first)
        eventually(lambda: "mine" in site.cli("status", exit=0).out)
        shown = site.cli("status", exit=0).out
        assert "MAPPING" not in shown
        lines = [line.split() for line in shown.splitlines()]
        assert ["models", "publication", "idle", bucket_name, "stable", second] in lines
        assert ["live", "subscription", "idle", bucket_name, "stable", first] in lines


def test_progress_reaches_whoever_asks_a_running_agent(make_site: MakeSite):
    site = make_site("one", publishes=True, subscribes=True)
    site.cli("bucket", "apply", exit=0)
    write_tree(site.home / "tree", {f"f{at}": os.urandom(1 << 20) for at in range(4)})
    with site.run(wait=False) as running:
        eventually(lambda: running.get("/livez")[0] == 200)
        events: list[Mapping[str, Any]] = []
        asked = {"name": "models", "timeout": 30.0}
        assert call(site.state_dir, "snapshot-publish", asked, on_event=events.append) is not None
    assert {event["name"] for event in events} == {"models"}
    assert events[-1] == {"name": "models", "done": 4 << 20, "total": 4 << 20}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("snapshots", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_promise_10_a_reader_that_resolves_current_once_sees_one_whole_snapshot(make_site: MakeSite, snapshots: int):
    """A reader in a loop, while snapshots are published and installed, and publisher and installer are killed."""
    publisher, site = make_site("publisher", publishes=True), make_site("one", subscribes=True, keep=3)
    trees: dict[str, dict[str, str]] = {}  # id -> path -> digest
    seen: list[str] = []
    wrong: list[str] = []
    stop = threading.Event()

    def tree_of(number: int) -> dict[str, bytes]:
        return {f"f{at}": f"{number if at % 5 == number % 5 else at} {at}".encode() * 50 for at in range(40)} | {
            "number": str(number).encode()
        }

    def read() -> None:
        while not stop.is_set():
            root = os.path.realpath(site.home / "live/current")
            if not os.path.isdir(root):
                time.sleep(0.01)
                continue
            try:
                files = {name: hashlib.sha256(Path(root, name).read_bytes()).hexdigest() for name in os.listdir(root)}
            except FileNotFoundError as error:
                wrong.append(f"{root}: {error}")
                continue
            seen.append(json.dumps([Path(root).name, files], sort_keys=True))

    reader = threading.Thread(target=read)
    running = site.run(wait=False)
    reader.start()
    try:
        for number in range(snapshots):
            write_tree(publisher.home / "tree", tree_of(number))
            if number % 4 == 2:  # killed in the middle of publishing; the next attempt finishes it
                with_agent = publisher.run(wait=False)
                threading.Timer(0.5, with_agent.kill).start()
                publisher.cli("snapshot", "publish", "models", timeout=60)
                with_agent.kill()
            identity = publish(publisher, {})
            trees[identity] = {name: hashlib.sha256(data).hexdigest() for name, data in tree_of(number).items()}
            if number % 3 == 1:
                running.kill()
                running = site.run(wait=False)
        eventually(lambda: current(site) == identity, timeout=60)
        eventually(lambda: running.get("/livez")[0] == 200)
        assert running.stop() == 143
    finally:
        stop.set()
        reader.join()
        running.kill()

    assert wrong == []
    met: list[tuple[str, dict[str, str]]] = [json.loads(line) for line in set(seen)]
    assert met and all(trees[identity] == files for identity, files in met)
