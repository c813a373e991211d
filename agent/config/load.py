"""The door of this room: a file -> Config, or one ConfigError with everything that is wrong in it.

    read the file -> YAML values with positions, `${VAR}` expanded (positions) -> types (model) -> rules (checks)

Each step goes on after a problem, and the problems of all steps are reported together, in the file's order, as
`file:line:column: key: message`. `*_file` keys are paths here: secrets are read when connecting, and `check_files`
looks whether they can be. Loading follows symbolic links of directories to compare them, so with a dead network file
system it can block: don't call it in an event loop's thread.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agent.config.checks import Finding
from agent.config.model import Config
from agent.config.positions import MAX_BYTES, Document, Loc, parse
from agent.config.suggest import described
from agent.config.validate import validate
from agent.errors import ConfigError, ConfigProblem

DEFAULT_PATHS: Final = (Path("config.yaml"), Path("/etc/jetsync/config.yaml"))


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration with the file it came from. `document` has the positions; digest: SHA-256 of the file, in hex."""

    config: Config
    path: Path
    document: Document
    digest: str

    def problem(self, loc: Loc, message: str) -> ConfigProblem:
        """A problem at `loc`, with its position."""
        return _problem(str(self.path), self.document, Finding(loc, message))


def load(path: Path | None, *, environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `path`; None: of the first of DEFAULT_PATHS that exists.

    Raises ConfigError with all problems.
    """
    return read(path, environ=environ).config


def read(path: Path | None, *, environ: Mapping[str, str] = os.environ) -> Loaded:
    """As `load`, with the positions."""
    path = path if path is not None else find()
    raw = _raw(path)
    config, document = _build(_text(path, raw), str(path), base=_directory_of(path), environ=environ)
    return Loaded(config, path, document, hashlib.sha256(raw).hexdigest())


def loads(text: str, *, base: Path, file: str = "config.yaml", environ: Mapping[str, str] = os.environ) -> Config:
    """The configuration in `text`; relative paths are relative to `base`. Raises ConfigError, which names `file`."""
    return _build(text, file, base=base, environ=environ)[0]


def from_dict(values: Mapping[str, Any], *, base: Path, file: str = "configuration") -> Config:
    """The configuration of values that a program made: same keys, same rules, no `${VAR}`. Raises ConfigError."""
    config, findings = validate(dict(values), base=base)
    if config is None:
        document = Document()
        raise ConfigError([_problem(file, document, finding) for finding in findings])
    return config


def find(paths: Sequence[Path] = DEFAULT_PATHS) -> Path:
    """The first of `paths` that exists. Raises ConfigError."""
    for path in paths:
        if path.exists():
            return path
    looked = " and ".join(str(path) for path in paths)
    message = f"no configuration: looked for {looked}; name one with -c FILE or $JETSYNC_CONFIG"
    raise ConfigError([ConfigProblem(str(paths[0]), 0, 0, message)])


def state_dir_of(path: Path | None, *, environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where the state is, of a file that may be wrong otherwise; None when it doesn't tell."""
    try:
        path = path if path is not None else find()
        value = parse(_text(path, _raw(path)), environ).value
    except ConfigError:
        return None
    given = value.get("state_dir", Config.model_fields["state_dir"].default) if isinstance(value, dict) else None
    return Path(os.path.normpath(_directory_of(path) / given)) if isinstance(given, str) and given else None


def _directory_of(path: Path) -> Path:
    # As named, not where links lead: a Kubernetes ConfigMap's file is a link into a directory that changes.
    return Path(os.path.normpath(Path.cwd() / path.parent))


def _failure(path: Path, message: str, line: int = 0, column: int = 0) -> ConfigError:
    return ConfigError([ConfigProblem(str(path), line, column, message)])


def _raw(path: Path) -> bytes:
    """What the file has. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise _failure(path, "the file doesn't exist") from None
    except IsADirectoryError:
        raise _failure(path, "this is a directory; name the file in it") from None
    except PermissionError:
        raise _failure(path, "no permission to read the file; check its owner and mode") from None
    except (OSError, ValueError) as error:
        raise _failure(path, f"can't read the file: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise _failure(path, f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB")
    return raw


def digest(path: Path) -> str:
    """SHA-256 of the file in hex, as `Loaded.digest`; "" when it can't be read."""
    try:
        return hashlib.sha256(_raw(path)).hexdigest()
    except ConfigError:
        return ""


def _text(path: Path, raw: bytes) -> str:
    """The file's text, without BOM. Raises ConfigError."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _failure(path, "the file is UTF-16; save it as UTF-8", 1, 1)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message = f"byte 0x{raw[error.start]:02x} isn't UTF-8; save the file as UTF-8"
        raise _failure(path, message, line, column) from None


def _build(text: str, file: str, *, base: Path, environ: Mapping[str, str]) -> tuple[Config, Document]:
    document = parse(text, environ)
    problems = [ConfigProblem(file, *(found.position or (0, 0)), found.message) for found in document.problems]
    config: Config | None = None
    if isinstance(document.value, dict):
        config, findings = validate(document.value, base=base, broken=document.broken)
        problems += [_problem(file, document, finding) for finding in findings]
    elif not problems:
        problems = [_not_a_mapping(document, file)]
    if config is None or problems:
        raise ConfigError(_in_order(problems))
    return config, document


def _not_a_mapping(document: Document, file: str) -> ConfigProblem:
    if document.value is None:
        return ConfigProblem(file, 1, 1, "the file is empty; it needs at least version and nats")
    line, column = document.at(()) or (1, 1)
    return ConfigProblem(
        file, line, column, f"expected keys and values, such as version: 1, got {described(document.value)}"
    )


def _problem(file: str, document: Document, finding: Finding) -> ConfigProblem:
    position = document.at(finding.loc, key=finding.key)
    message = f"{name_of(finding.loc)}: {finding.message}" if finding.loc else finding.message
    other = document.at(finding.other, key=True) if finding.other else None
    if other:
        message += f" (line {other.line})"
    return ConfigProblem(file, *(position or (0, 0)), message)


def name_of(loc: Loc) -> str:
    """("mappings", 0, "settle") -> "mappings[0].settle"."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _in_order(problems: Iterable[ConfigProblem]) -> list[ConfigProblem]:
    return sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))


# ---- the files that it names


def check_files(config: Config, loaded: Loaded | None = None, *, file: str = "configuration") -> list[ConfigProblem]:
    """What is wrong with the files that hold keys, passwords and certificates: missing, no file, unreadable, empty.

    With `loaded` the problems have positions. Loading doesn't look at these files, since a configuration may be checked
    on another machine than the one it is for.
    """
    named: list[tuple[Loc, Path]] = [
        (("nats", *key.split(".")), path) for key, path in config.nats.secret_files.items()
    ]
    named += [
        (("publications", index, "sign_with"), publication.sign_with)
        for index, publication in enumerate(config.publications)
        if publication.sign_with
    ]
    found = []
    for loc, path in named:
        message = _unusable(path)
        if message and loaded:
            found.append(loaded.problem(loc, message))
        elif message:
            found.append(ConfigProblem(file, 0, 0, f"{name_of(loc)}: {message}"))
    return _in_order(found)


def _unusable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return "" if file.read(1) else f"{path} is empty"
    except FileNotFoundError:
        return f"{path} doesn't exist"
    except IsADirectoryError:
        return f"{path} is a directory, not a file"
    except PermissionError:
        return f"no permission to read {path}; check its owner and mode"
    except (OSError, ValueError) as error:
        return f"can't read {path}: {getattr(error, 'strerror', None) or error}"
