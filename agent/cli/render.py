"""Results for people: tables and sentences on stdout. Colour and width are rich's business (NO_COLOR is respected)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

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


def out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def reports(mappings: Sequence[Mapping[str, Any]]) -> None:
    """What `sync` did: one sentence for each mapping, then what needs attention."""
    console = out()
    for report in mappings:
        done = [f"{report[key]} {words}" for key, words in _DONE if report[key]]
        size = [
            f"{human(report[key])} {words}"
            for key, words in (("bytes_up", "up"), ("bytes_down", "down"))
            if report[key]
        ]
        text = Text(f"{report['name']}: ").append(report["state"], style=_style(report["state"]))
        text.append(
            ": " + ", ".join(done + size) if done else ": nothing to do" if report["state"] == "converged" else ""
        )
        console.print(text)
        _attention(console, report)


def plan(mappings: Sequence[Mapping[str, Any]]) -> None:
    """What `sync` would do: a line for each action."""
    console = out()
    for report in mappings:
        actions = report["actions"]
        if report["state"] == "failed":
            console.print(Text(f"{report['name']}: ").append("failed", style="red"))
        else:
            console.print(
                Text(f"{report['name']}: {len(actions)} actions" if actions else f"{report['name']}: nothing to do")
            )
        for action in actions:
            target = f" -> {printable(action['to'])}" if action["to"] else ""
            size = f" ({human(action['bytes'])})" if action["bytes"] else ""
            console.print(
                Text(f"  {action['action']:<16} {printable(action['path'])}{target}{size}  {action['reason']}")
            )
        _attention(console, report)


def status(answer: Mapping[str, Any]) -> None:
    """The running agent: a line about the connection, a table of the mappings, then problems."""
    console = out()
    nats, agent = answer["nats"], answer["agent"]
    state = "connected to" if nats["connected"] else "not connected to"
    console.print(Text(f"{agent['name']} (jetsync {agent['version']}, pid {agent['pid']}), {state} {nats['server']}"))
    table = Table(box=None, pad_edge=False)
    for column in ("MAPPING", "STATE", "MODE", "LOCAL", "REMOTE", "PENDING", "CONFLICTS", "PROBLEMS"):
        table.add_column(column, no_wrap=True)
    for mapping in answer["mappings"]:
        table.add_row(
            mapping["name"],
            Text(mapping["state"], style=_style(mapping["state"])),
            mapping["mode"],
            *(f"{mapping[side]['objects']} / {human(mapping[side]['bytes'])}" for side in ("local", "remote")),
            str(mapping["pending"]["objects"]),
            str(mapping["conflicts"]),
            str(sum(mapping["problems"].values())),
        )
    console.print(table)
    for mapping in answer["mappings"]:
        if error := mapping["last_error"]:
            text = f"{mapping['name']}: {error['message']}; {error['remedy']}".rstrip("; ")
            console.print(Text(printable(text), style="yellow"))
        if mapping["watch_detail"]:
            console.print(Text(f"{mapping['name']}: {mapping['watch_detail']}", style="yellow"))
        for problem in mapping["problem_paths"][:SHOWN]:
            console.print(Text(f"  {printable(problem['path'])}: {problem['reason']}: {printable(problem['remedy'])}"))


def _attention(console: Console, report: Mapping[str, Any]) -> None:
    lines = [f"conflict: {path}" for path in report["conflicts"]]
    lines += [f"conflict copy: {path}" for path in report["conflict_copies"]]
    lines += [f"{item['reason']}: {item['path']}: {item['detail']}" for item in report["problems"]]
    lines += [f"error: {text}" for text in report["errors"]]
    for line in lines[:SHOWN]:
        console.print(Text("  " + printable(line), style="yellow"))
    if len(lines) > SHOWN:
        console.print(Text(f"  and {len(lines) - SHOWN} more; see --json", style="yellow"))
    if report["skipped"]:
        console.print(Text("  skipped: " + ", ".join(f"{n} {reason}" for reason, n in report["skipped"].items())))
    if report["diverged"]:
        console.print(Text(f"  {report['diverged']} paths differ on the receiving side and were left alone"))


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


def _style(state: str) -> str:
    return {"converged": "green", "idle": "green", "failed": "red", "halted": "red"}.get(state, "yellow")
