"""Results for people: tables and sentences on stdout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.cli.screen import Piece, Styled, say, table

SHOWN = 20  # paths of a kind before "and n more"

_DONE = (
    ("uploads", "uploaded"),
    ("downloads", "downloaded"),
    ("moves_local", "moved here"),
    ("moves_remote", "moved in the bucket"),
    ("deletes_local", "deleted here"),
    ("deletes_remote", "deleted in the bucket"),
    ("metadata_updates", "metadata updated"),
)


def reports(mappings: Sequence[Mapping[str, Any]]) -> None:
    """What `sync` did: one sentence for each mapping, then what needs attention."""
    for report in mappings:
        done = [f"{report[key]} {words}" for key, words in _DONE if report[key]]
        size = [
            f"{human(report[key])} {words}"
            for key, words in (("bytes_up", "up"), ("bytes_down", "down"))
            if report[key]
        ]
        said = ": " + ", ".join(done + size) if done else ": nothing to do" if report["state"] == "converged" else ""
        say(f"{report['name']}: ", styled_state(report["state"]), said)
        _attention(report)


def snapshots(reports_: Sequence[Mapping[str, Any]]) -> None:
    """What publications and subscriptions did: one sentence each, then what went wrong."""
    for report in reports_:
        done = [
            f"{report[count]} contents {words} ({human(report[size])})"
            for count, size, words in (("uploads", "bytes_up", "sent"), ("downloads", "bytes_down", "fetched"))
            if report[count]
        ]
        done += [f"{report['reused']} reused"] if report["reused"] else []
        said = f": {report['id'] or 'no snapshot'}"
        if report["id"] and report["id"] == report["previous"]:
            said += ", as before"
        elif done:
            said += ": " + ", ".join(done)
        say(f"{report['name']}: ", styled_state(report["state"]), said)
        for error in report["errors"]:
            say(Styled("  error: " + printable(error), "yellow"))


def plan(mappings: Sequence[Mapping[str, Any]]) -> None:
    """What `sync` would do: a line for each action."""
    for report in mappings:
        actions = report["actions"]
        if report["state"] == "failed":
            say(f"{report['name']}: ", Styled("failed", "red"))
        else:
            say(f"{report['name']}: {len(actions)} actions" if actions else f"{report['name']}: nothing to do")
        for action in actions:
            target = f" -> {printable(action['to'])}" if action["to"] else ""
            size = f" ({human(action['bytes'])})" if action["bytes"] else ""
            say(f"  {action['action']:<16} {printable(action['path'])}{target}{size}  {action['reason']}")
        _attention(report)


def status(answer: Mapping[str, Any]) -> None:
    """The running agent: a line about the connection, tables of mappings and of what has snapshots, then problems."""
    nats, agent = answer["nats"], answer["agent"]
    state = "connected to" if nats["connected"] else "not connected to"
    say(f"{agent['name']} (jetsync {agent['version']}, pid {agent['pid']}), {state} {nats['server']}")
    _configuration(agent["config"], answer.get("config") or {})
    _mappings(answer["mappings"])
    _items(answer["snapshots"])


def _mappings(mappings: Sequence[Mapping[str, Any]]) -> None:
    rows: list[list[Piece]] = [
        [
            mapping["name"],
            styled_state(mapping["state"]),
            mapping["mode"],
            *(f"{mapping[side]['objects']} / {human(mapping[side]['bytes'])}" for side in ("local", "remote")),
            str(mapping["pending"]["objects"]),
            str(mapping["conflicts"]),
            str(sum(mapping["problems"].values())),
        ]
        for mapping in mappings
    ]
    if rows:
        table(("MAPPING", "STATE", "MODE", "LOCAL", "REMOTE", "PENDING", "CONFLICTS", "PROBLEMS"), rows)
    for mapping in mappings:
        _last_error(mapping)
        if mapping["watch_detail"]:
            say(Styled(f"{mapping['name']}: {mapping['watch_detail']}", "yellow"))
        for problem in mapping["problem_paths"][:SHOWN]:
            say(f"  {printable(problem['path'])}: {problem['reason']}: {printable(problem['remedy'])}")


def _items(items: Sequence[Mapping[str, Any]]) -> None:
    """Publications and subscriptions: what each is, where it stands, then what is wrong."""
    rows: list[list[Piece]] = [
        [
            item["name"],
            item["kind"],
            styled_state(item["state"]),
            item["repository"],
            item["channel"] or "pinned",
            item["snapshot"] or "none yet",
        ]
        for item in items
    ]
    if rows:
        table(("NAME", "KIND", "STATE", "REPOSITORY", "CHANNEL", "SNAPSHOT"), rows)
    for item in items:
        _last_error(item)
        if item["foreign"]:
            names = ", ".join(printable(name) for name in item["foreign"])
            say(
                Styled(
                    f"{item['name']}: not of this agent, left alone in {printable(item['directory'])}: {names}",
                    "yellow",
                )
            )


def _last_error(one: Mapping[str, Any]) -> None:
    if error := one["last_error"]:
        text = f"{one['name']}: {error['message']}; {error['remedy']}".rstrip("; ")
        say(Styled(printable(text), "yellow"))


def _configuration(file: str, config: Mapping[str, Any]) -> None:
    """The file that is in force, and what isn't."""
    if loaded := config.get("loaded"):
        say(f"configuration {printable(file)}, loaded {loaded}")
    if error := config.get("error"):
        say(Styled(printable(f"the file as it is now is not in force: {error}"), "yellow"))
    if keys := config.get("restart_needed"):
        say(Styled(f"in force after a restart: {', '.join(keys)}", "yellow"))


def _attention(report: Mapping[str, Any]) -> None:
    lines = [f"conflict: {path}" for path in report["conflicts"]]
    lines += [f"conflict copy: {path}" for path in report["conflict_copies"]]
    lines += [f"{item['reason']}: {item['path']}: {item['detail']}" for item in report["problems"]]
    lines += [f"error: {text}" for text in report["errors"]]
    for line in lines[:SHOWN]:
        say(Styled("  " + printable(line), "yellow"))
    if len(lines) > SHOWN:
        say(Styled(f"  and {len(lines) - SHOWN} more; see --json", "yellow"))
    if report["skipped"]:
        say("  skipped: " + ", ".join(f"{n} {reason}" for reason, n in report["skipped"].items()))
    if report["diverged"]:
        say(f"  {report['diverged']} paths differ on the receiving side and were left alone")


def human(size: float) -> str:
    """1536 -> "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def printable(text: str) -> str:
    """A path, or words that may have one in them, as they may be shown on a terminal: control characters escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def styled_state(state: str) -> Styled:
    return Styled(state, {"converged": "green", "idle": "green", "failed": "red", "halted": "red"}.get(state, "yellow"))
