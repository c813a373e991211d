"""The effective configuration reads back as the same configuration, and shows no secret."""

from __future__ import annotations

from pathlib import Path

import yaml

from agent.config.load import load, loads
from agent.config.model import Config
from agent.config.show import effective

BASE = Path("/etc/example")
EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
HEAD = "version: 1\nnats: {servers: [nats://127.0.0.1:4222]}\n"


def config_of(text: str) -> Config:
    return loads(text, base=BASE, environ={})


def test_it_reads_back_as_the_same_configuration():
    config = load(EXAMPLE, environ={})

    back = loads(effective(config), base=Path("/elsewhere"), environ={})
    assert back.model_dump() == config.model_dump()  # where commands run is no part of the text


def test_it_reads_back_whatever_the_texts_look_like():
    texts = ["no", "0x10", "1_000", "1e3", "010", "12:30:00", "null", "a: b", "# c", "${X}", "$${X}", "é\n\t😀", " x "]
    lines = "\n".join(f"      {name}: {value!r}" for name, value in {"a": "12", "b": "true"}.items())
    config = config_of(
        HEAD + "http: false\nbuckets:\n  '12':\n    max_bytes: 0\n    metadata:\n" + lines + "\n"
        "mappings: [{name: m, directory: m, bucket: '12', mode: push-safe, max_size: 0, max_delete: 7, watch: false}]\n"
    )
    bucket = config.buckets["12"].model_copy(update={"metadata": {text: text for text in texts}})
    config = config.model_copy(update={"buckets": {"12": bucket}})

    assert config_of(effective(config)) == config


def test_it_is_the_same_in_yaml_1_1_so_that_other_tools_read_it_too():
    shown = yaml.safe_load(effective(load(EXAMPLE, environ={})))

    assert shown["mappings"][0]["settle"] == "200ms"
    assert shown["mappings"][0]["file_mode"] == "0666"
    assert shown["mappings"][0]["max_size"] == "10GiB"


def test_no_password_is_shown_in_any_form():
    config = config_of(
        "version: 1\nnats: {servers: ['nats://user:hunter2@h:4222', 'nats://hunter2@h2']}\n"
        "subscriptions:\n"
        "  - {name: s, repository: r, channel: c, directory: d, webhook: 'https://u:hunter2@h/x?token=hunter2&hunter2'}\n"
    )

    for text in (effective(config), repr(config), str(config), repr(config.nats), config.model_dump_json()):
        assert "hunter2" not in text
    assert config.nats.shown_servers == ("nats://***@h:4222", "nats://***@h2")
    assert "https://***@h/x?token=***&***" in effective(config)
    assert config.nats.servers[0] == "nats://user:hunter2@h:4222"
    assert config.nats.has_userinfo


def test_files_with_secrets_are_named_and_not_read(tmp_path: Path):
    (tmp_path / "password").write_text("hunter2")
    text = "version: 1\nnats: {servers: [nats://h], user: me, password_file: password}\n"
    config = loads(text, base=tmp_path, environ={})

    assert f"password_file: {tmp_path}/password" in effective(config)
    assert "hunter2" not in effective(config)
    assert config.nats.secret_files == {"password_file": tmp_path / "password"}
