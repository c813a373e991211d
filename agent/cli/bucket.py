"""`bucket list|show|apply`: what buckets there are, how they are made, and bringing declared ones to their shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

import typer
from rich.table import Table

from agent.cli import render
from agent.cli.context import Context, print_json, run_async, start_logging
from agent.errors import UsageError

if TYPE_CHECKING:
    from agent.config.model import Config
    from agent.objectstore import Buckets, BucketStatus

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True)
JSON = typer.Option(False, "--json", help="Print the result as JSON on stdout.")


@app.command("list")
def list_(ctx: typer.Context, json_: bool = JSON) -> None:
    """List the account's buckets."""

    async def work(buckets: Buckets) -> list[BucketStatus]:
        return await buckets.list()

    found = _with_buckets(ctx, work)
    if json_:
        print_json({"version": 1, "buckets": [_as_json(status) for status in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("BUCKET", "SIZE", "STORAGE", "REPLICAS", "TTL", "SEALED", "MIRROR OF", "DESCRIPTION"):
        table.add_column(column, no_wrap=True)
    for status in found:
        table.add_row(
            status.name,
            render.human(status.size),
            status.storage,
            str(status.replicas),
            f"{status.ttl:g}s" if status.ttl else "",
            "yes" if status.sealed else "",
            status.mirror.bucket if status.mirror else "",
            render.printable(status.description),
        )
    render.out().print(table)


@app.command()
def show(ctx: typer.Context, name: str = typer.Argument(..., metavar="BUCKET"), json_: bool = JSON) -> None:
    """Show one bucket."""

    async def work(buckets: Buckets) -> BucketStatus:
        return await (await buckets.bind(name)).status()

    status = _as_json(_with_buckets(ctx, work))
    if json_:
        print_json({"version": 1, **status})
        return
    for key, value in status.items():
        render.out().print(f"{key:<14}{value}", markup=False)


@app.command()
def apply(
    ctx: typer.Context,
    names: list[str] = typer.Argument(None, metavar="[BUCKET]...", help="Declared buckets; all when none is named."),
    json_: bool = JSON,
) -> None:
    """Create the declared buckets that don't exist, and bring the others to their declared shape."""
    from agent.objectstore import BucketSpec

    config = ctx.obj.load()
    for name in names or []:
        if name not in config.buckets:
            raise UsageError(f"the bucket {name!r} isn't declared", remedy="declare it under `buckets:`")

    async def work(buckets: Buckets) -> list[dict[str, Any]]:
        results = []
        for name in names or config.buckets:
            bucket, changes = await buckets.ensure(name, BucketSpec.of(config.buckets[name]), may_create=True)
            results.append({"name": name, "changes": list(changes), "warnings": list(bucket.warnings)})
        return results

    results = _with_buckets(ctx, work)
    if json_:
        print_json({"version": 1, "buckets": results})
        return
    for result in results:
        print(f"{result['name']}: {', '.join(result['changes']) or 'as declared'}")
        for warning in result["warnings"]:
            print(f"  {warning}")


def _with_buckets(ctx: typer.Context, work: Callable[[Buckets], Awaitable[T]]) -> T:
    """Connect as the configuration says, and do the work."""
    context: Context = ctx.obj
    config = context.load()
    start_logging(config)
    return run_async(lambda: _connected(config, work))


async def _connected(config: Config, work: Callable[[Buckets], Awaitable[T]]) -> T:
    from agent.objectstore import Buckets
    from agent.supervisor import connected

    async with connected(config) as connection:
        return await work(Buckets(connection))


def _as_json(status: BucketStatus) -> dict[str, Any]:
    return {
        "name": status.name,
        "description": status.description,
        "size": status.size,
        "messages": status.messages,
        "storage": status.storage,
        "replicas": status.replicas,
        "ttl": status.ttl,
        "max_bytes": status.max_bytes,
        "compression": status.compression,
        "sealed": status.sealed,
        "mirror": status.mirror.bucket if status.mirror else None,
        "created": status.created,
        "metadata": dict(status.metadata),
    }
