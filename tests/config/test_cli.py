"""`jetsync config validate|show|schema`, without the main command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from agent.cli.config import app
from agent.config.schema import json_schema
from agent.errors import ConfigError

TEXT = "version: 1\nnats: {servers: [nats://h]}\nbuckets: {b: {}}\nmappings: [{name: m, directory: m, bucket: b}]\n"


def run(*arguments: str, path: Path | None) -> Result:
    return CliRunner().invoke(app, arguments, obj=SimpleNamespace(config_path=path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(TEXT)
    return file


def test_validate_says_what_there_is(file: Path):
    result = run("validate", path=file)

    assert (result.exit_code, result.stdout) == (0, f"{file}: valid (1 declared bucket, 1 mapping)\n")


def test_validate_raises_all_problems(file: Path):
    file.write_text(TEXT + "a: 1\nb: 2\n")
    result = run("validate", path=file)

    assert isinstance(result.exception, ConfigError)
    assert len(result.exception.problems) == 2
    assert result.stdout == ""


def test_validate_json_has_the_problems_as_its_result(file: Path):
    file.write_text(TEXT + "zzz: 1\n")
    result = run("validate", "--json", path=file)

    assert result.exit_code == 78
    assert json.loads(result.stdout) == {
        "version": 1,
        "file": str(file),
        "valid": False,
        "problems": [{"file": str(file), "line": 5, "column": 1, "message": "zzz: unknown key"}],
        "warnings": [],
    }


def test_validate_warns_of_secret_files_that_are_not_here_and_strict_refuses_them(file: Path):
    file.write_text(TEXT.replace("[nats://h]", "[nats://h], token_file: t"))
    warned, refused = run("validate", path=file), run("validate", "--strict", path=file)

    assert warned.exit_code == 0
    assert warned.stderr == f"warning: {file}:2:41: nats.token_file: {file.parent}/t doesn't exist\n"
    assert isinstance(refused.exception, ConfigError)
    assert json.loads(run("validate", "--json", path=file).stdout)["warnings"][0]["line"] == 2


def test_show_gives_the_effective_values(file: Path):
    shown, as_json = run("show", path=file), run("show", "--json", path=file)

    assert "settle: 200ms\n" in shown.stdout
    assert json.loads(as_json.stdout)["mappings"][0]["settle"] == "200ms"


def test_schema_needs_no_configuration():
    assert json.loads(run("schema", path=Path("/nothing")).stdout) == json_schema()
