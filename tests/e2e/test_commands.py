"""The command line as scripts see it: exit codes, what is said where, and what refuses to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import MakeAgent
from tests.support.agent import Agent, environment, eventually, files, jetsync, mapping, read_tree, write_tree
from tests.support.server import NatsServer, free_port
from tests.support.stock import Stock

REPOSITORY = Path(__file__).parents[2]


def unreachable() -> str:
    return f"nats://127.0.0.1:{free_port()}"


# -- 78: the configuration ------------------------------------------------------------------------------------------


def test_all_problems_of_a_configuration_are_told_at_once_with_their_positions(tmp_path: Path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "version: 1\n"
        "nats: {servers: [nats://127.0.0.1:4222]}\n"
        "mappings:\n"
        "  - name: one\n"
        "    directory: ./one\n"
        "    bucket: one\n"
        "    mod: two-way\n"
        "    settle: 5 parsecs\n"
    )
    result = jetsync("-c", str(file), "sync", exit=78)

    assert f"{file}:7:5: " in result.err
    assert "did you mean" in result.err
    assert "mode" in result.err
    assert f"{file}:8:13: " in result.err
    assert result.out == ""


@pytest.mark.parametrize("command", [["run"], ["sync"], ["plan"], ["config", "validate"], ["config", "show"]])
def test_every_command_refuses_an_invalid_configuration(tmp_path: Path, command: list[str]):
    file = tmp_path / "config.yaml"
    file.write_text("version: 2\n")

    assert str(file) in jetsync("-c", str(file), *command, exit=78).err


def test_a_configuration_that_is_not_there_is_named(tmp_path: Path):
    missing = str(tmp_path / "nothing.yaml")

    assert missing in jetsync("-c", missing, "sync", exit=78).err


def test_a_bucket_name_that_is_none_is_a_configuration_error(make_agent: MakeAgent):
    agent = make_agent(bucket="no.dots.allowed")

    assert "no.dots.allowed" in agent.cli("sync", exit=78).err


def test_the_example_configuration_is_valid():
    jetsync("-c", str(REPOSITORY / "config.example.yaml"), "config", "validate", exit=0)


def test_config_show_gives_effective_values_and_hides_secrets(agent: Agent, tmp_path: Path):
    (tmp_path / "password").write_text("hunter2")
    agent.config["nats"] |= {"user": "me", "password_file": str(tmp_path / "password")}
    agent.write()
    result = agent.cli("config", "show", exit=0)
    shown = yaml.safe_load(result.out)

    assert shown["mappings"][0]["mode"] == "two-way"
    assert "hunter2" not in result.out + result.err


def test_config_schema_prints_the_schema_of_the_repository():
    printed = jetsync("config", "schema", exit=0).json

    assert printed == json.loads((REPOSITORY / "config.schema.json").read_text())


# -- 2: usage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["nonsense"], ["sync", "--nonsense"], ["sync", "no-such-mapping"]])
def test_a_wrong_command_line_exits_2_and_names_what_is_wrong(agent: Agent, arguments: list[str]):
    assert arguments[-1].lstrip("-") in agent.cli(*arguments, exit=2).err


@pytest.mark.parametrize("arguments", [["--help"], ["sync", "--help"], ["version"]])
def test_help_and_version_exit_0_on_stdout(arguments: list[str]):
    assert jetsync(*arguments, exit=0).out


# -- 5: the server --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["sync", "plan"])
def test_an_unreachable_server_exits_5_after_the_timeout(make_agent: MakeAgent, command: str):
    agent = make_agent(nats=unreachable())
    result = agent.cli(command, "--timeout", "1s", exit=5)

    assert agent.config["nats"]["servers"][0] in result.err + result.out


def test_offline_ok_is_0_only_when_this_state_converged_before(make_agent: MakeAgent, fresh_server: NatsServer):
    agent = make_agent(nats=fresh_server.url)
    fresh_server.stop()
    agent.cli("sync", "--offline-ok", "--timeout", "1s", exit=5)
    fresh_server.start()
    agent.sync()
    fresh_server.stop()

    agent.cli("sync", "--offline-ok", "--timeout", "1s", exit=0)


def test_sync_waits_for_a_server_that_comes_within_the_timeout(make_agent: MakeAgent, fresh_server: NatsServer):
    agent = make_agent(nats=fresh_server.url)
    write_tree(agent.directory(), {"file": b"1"})
    fresh_server.stop()
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "-c", str(agent.config_file), "sync", "--timeout", "40s"],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(2)
    fresh_server.start()

    assert process.wait(50) == 0


def test_a_server_without_jetstream_exits_5_and_says_so(make_agent: MakeAgent, make_server):
    agent = make_agent(nats=make_server(jetstream=False).url)

    assert "jetstream" in agent.cli("sync", "--timeout", "2s", exit=5).err.lower()


def test_a_wrong_password_exits_5(make_agent: MakeAgent, make_server, tmp_path: Path):
    server = make_server(config_extra="authorization: {user: me, password: right}")
    (tmp_path / "password").write_text("wrong\n")
    agent = make_agent(nats={"servers": [server.url], "user": "me", "password_file": str(tmp_path / "password")})
    result = agent.cli("sync", "--timeout", "2s", exit=5)

    assert "authori" in result.err.lower()
    assert "wrong" not in result.err
    (tmp_path / "password").write_text("right\n")
    agent.sync()


def test_a_missing_permission_exits_5_and_names_the_subject(make_agent: MakeAgent, make_server, tmp_path: Path):
    server = make_server(
        config_extra='authorization: {users: [{user: me, password: p, permissions: {publish: "nothing.>"}}]}'
    )
    (tmp_path / "password").write_text("p")
    agent = make_agent(nats={"servers": [server.url], "user": "me", "password_file": str(tmp_path / "password")})

    assert "permission" in agent.cli("sync", "--timeout", "5s", exit=5).err.lower()


# -- 1 and 3: mappings that fail, and partly done -------------------------------------------------------------------


def test_an_undeclared_bucket_that_does_not_exist_fails_and_is_not_made(
    make_agent: MakeAgent, stock: Stock, bucket_name: str
):
    agent = make_agent(buckets={})
    write_tree(agent.directory(), {"file": b"1"})
    result = agent.sync(exit=1)

    assert result["state"] == "failed"
    assert bucket_name in result["errors"][0]
    assert "error" in stock.api(f"STREAM.INFO.OBJ_{bucket_name}")


def test_a_declared_bucket_is_made(agent: Agent, stock: Stock, bucket_name: str):
    agent.config["buckets"] = {bucket_name: {"description": "made by jetsync", "max_bytes": "1GiB"}}
    agent.write()
    agent.sync()
    config = stock.api(f"STREAM.INFO.OBJ_{bucket_name}")["config"]

    assert config["subjects"] == [f"$O.{bucket_name}.C.>", f"$O.{bucket_name}.M.>"]
    assert (config["description"], config["max_bytes"]) == ("made by jetsync", 2**30)
    assert (config["discard"], config["allow_rollup_hdrs"], config["allow_direct"]) == ("new", True, True)


def test_a_stream_that_is_no_object_store_fails_and_stays_as_it_is(agent: Agent, stock: Stock, bucket_name: str):
    stock.api(f"STREAM.CREATE.OBJ_{bucket_name}", {"name": f"OBJ_{bucket_name}", "subjects": [f"other.{bucket_name}"]})
    result = agent.sync(exit=1)

    assert "object store" in result["errors"][0].lower()
    assert stock.api(f"STREAM.INFO.OBJ_{bucket_name}")["config"]["subjects"] == [f"other.{bucket_name}"]


def test_a_missing_directory_fails_and_is_named(agent: Agent, stock: Stock, bucket: str):
    stock.put(bucket, "theirs", b"1")
    agent.directory().rmdir()
    result = agent.sync(exit=1)

    assert result["state"] == "failed"
    assert str(agent.directory()) in result["errors"][0]
    assert stock.names(bucket) == {"theirs"}


def test_a_directory_that_is_a_file_fails(agent: Agent):
    agent.directory().rmdir()
    agent.directory().write_bytes(b"")

    assert str(agent.directory()) in agent.sync(exit=1)["errors"][0]


def test_one_failed_mapping_of_two_exits_3_and_the_other_is_done(agent: Agent, stock: Stock, bucket: str):
    agent.config["mappings"].append(mapping("no-such-bucket", name="broken"))
    agent.write()
    agent.directory("broken").mkdir()
    write_tree(agent.directory(), {"file": b"1"})
    result = agent.sync(exit=3)

    assert [part["state"] for part in result["mappings"]] == ["converged", "failed"]
    assert stock.names(bucket) == {"file"}


def test_problems_exit_3_unless_tolerated(agent: Agent):
    write_tree(agent.directory(), {"fine": b"1"})
    (agent.directory() / "outside").symlink_to("/etc/hostname")
    result = agent.sync(exit=3)

    assert (result["state"], result["uploads"]) == ("partial", 1)
    agent.cli("sync", "--tolerate", "conflicts", exit=3)
    agent.cli("sync", "--tolerate", "problems", exit=0)


# -- 4: differences --------------------------------------------------------------------------------------------------


def test_detailed_exitcode_is_4_with_differences_and_0_without(agent: Agent):
    write_tree(agent.directory(), {"file": b"1"})

    agent.cli("plan", exit=0)
    agent.cli("plan", "--detailed-exitcode", exit=4)
    agent.sync()
    agent.cli("plan", "--detailed-exitcode", exit=0)


# -- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_waiting_sync(make_agent: MakeAgent, number: int, code: int):
    agent = make_agent(nats=unreachable())
    process = subprocess.Popen(
        [sys.executable, "-m", "agent", "-c", str(agent.config_file), "sync", "--timeout", "60s"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    eventually((agent.state_dir / "lock").exists)
    time.sleep(0.5)
    process.send_signal(number)
    _, err = process.communicate(timeout=20)

    assert (process.returncode, b"Traceback" in err) == (code, False), err.decode()


# -- one state, one agent --------------------------------------------------------------------------------------------


def test_a_second_agent_on_the_same_state_is_refused_and_told_who_runs(agent: Agent):
    with agent.run() as running:
        result = agent.cli("run", exit=1)

        assert str(running.pid) in result.err


def test_with_an_agent_running_sync_and_plan_are_carried_out_by_it(agent: Agent, stock: Stock, bucket_name: str):
    with agent.run():
        write_tree(agent.directory(), {"file": b"1"})
        result = agent.sync()

        assert result["state"] == "converged"
        assert stock.contents(bucket_name) == {"file": b"1"}
        assert agent.plan()["actions"] == []
        agent.cli("plan", "--detailed-exitcode", exit=0)


def test_status_tells_of_the_running_agent_and_fails_without(agent: Agent):
    agent.cli("status", exit=1)
    with agent.run():
        page = agent.cli("status", "--json", exit=0).json

        assert page["version"] == 1
        assert page["mappings"][0]["name"] == "files"
        assert "files" in agent.cli("status", exit=0).out


def test_the_control_socket_is_the_owners_alone(agent: Agent):
    with agent.run():
        assert (agent.state_dir / "control.sock").stat().st_mode & 0o777 == 0o600


def test_an_agent_with_a_very_long_state_path_is_reached(make_agent: MakeAgent):
    agent = make_agent("long-" + "x" * 120)
    with agent.run():
        agent.cli("status", exit=0)


# -- buckets ---------------------------------------------------------------------------------------------------------


def test_bucket_list_and_show_tell_of_buckets_on_the_server(agent: Agent, bucket: str, stock: Stock):
    stock.put(bucket, "object", b"12345")

    assert bucket in agent.cli("bucket", "list", exit=0).out
    assert bucket in agent.cli("bucket", "show", bucket, exit=0).out
    assert "no-such-bucket" in agent.cli("bucket", "show", "no-such-bucket", exit=1).err


def test_bucket_apply_makes_and_shapes_declared_buckets(agent: Agent, stock: Stock, bucket: str):
    agent.config["buckets"][bucket] = {"description": "shaped"}
    agent.write()
    agent.cli("bucket", "apply", exit=0)

    assert stock.api(f"STREAM.INFO.OBJ_{bucket}")["config"]["description"] == "shaped"
    agent.cli("bucket", "apply", exit=0)


# -- the embedded server and the demo --------------------------------------------------------------------------------


def test_an_embedded_server_is_private_and_ends_with_the_agent(make_agent: MakeAgent):
    agent = make_agent(nats={"embedded": {"store_dir": "./nats", "port": 0}})
    write_tree(agent.directory(), {"file": b"1"})

    assert agent.sync()["uploads"] == 1
    with agent.run() as running:
        assert agent.plan()["actions"] == []
        servers = children(running.pid)
        assert servers
        secrets = [
            path for path in agent.state_dir.rglob("*") if path.is_file() and "password" in path.read_text("latin1")
        ]
        assert secrets
        assert all(path.stat().st_mode & 0o077 == 0 for path in secrets)
        running.kill()
        eventually(lambda: not any(alive(pid) for pid in servers))


def test_the_demo_ends_by_itself_and_leaves_nothing_behind(tmp_path: Path):
    place = tmp_path / "tmp"
    place.mkdir()
    result = jetsync("demo", exit=0, timeout=55, env={"TMPDIR": str(place)})

    assert result.out
    assert list(place.iterdir()) == []
    assert not [pid for pid in processes() if str(place) in command_line(pid)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_demo_leaves_nothing_behind_when_it_is_ended_or_its_terminal_is_closed(tmp_path: Path, number: int):
    place = tmp_path / "tmp"
    place.mkdir()
    command = [sys.executable, "-m", "agent", "demo"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment({"TMPDIR": str(place)}),
        start_new_session=True,
        # Who runs the tests may ignore it, as nohup does.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # noqa: PLW1509 - no threads run here
    ) as demo:
        assert demo.stdout is not None
        assert any("embedded nats-server" in line for line in demo.stdout)
        demo.send_signal(number)
        demo.stdout.read()

    assert demo.returncode == 128 + number
    assert list(place.iterdir()) == []
    assert not [pid for pid in processes() if str(place) in command_line(pid)]


def processes() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def test_the_working_directory_is_where_config_yaml_is_looked_for(agent: Agent):
    write_tree(agent.directory(), {"file": b"1"})
    jetsync("sync", exit=0, cwd=agent.home)

    assert read_tree(agent.directory()) == files({"file": b"1"})
    assert agent.plan()["actions"] == []
