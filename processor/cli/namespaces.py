"""`tailrace namespaces create|list`."""

from __future__ import annotations

from typing import Annotated

import typer

from processor.cli.exits import REFUSED
from processor.cli.opening import checked, wait_for
from processor.cli.options import EPILOG
from processor.cli.output import Output, output_of
from processor.core.names import check_namespace
from processor.store.topology import create_topology, read_topology
from processor.store.topology import namespaces as names_of

__all__ = ["namespaces"]

namespaces = typer.Typer(help="Namespaces: separate runs, groups and rights on one server.", no_args_is_help=True)


@namespaces.command("list", epilog=EPILOG)
def list_(ctx: typer.Context) -> None:
    """All namespaces of the server."""
    wait_for(_list(output_of(ctx)))


@namespaces.command("create", epilog=EPILOG)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="1 to 41 of a-z 0-9 -")],
    partitions: Annotated[int | None, typer.Option(min=1, max=512, help="Fixed for ever; default 8.")] = None,
) -> None:
    """Make a namespace, so that HTTP may use it. Harmless if it exists."""
    raise typer.Exit(wait_for(_create(output_of(ctx), check_namespace(name), partitions)))


async def _list(out: Output) -> None:
    async with checked(out.options.settings(), writes=False) as redis:
        rows = []
        for name in await names_of(redis):
            known = await read_topology(redis, name)
            rows.append((name, len(known.partitions) if known else 0))
    if not out.pretty:
        for name, partitions in rows:
            out.record({"namespace": name, "partitions": partitions})
        return
    out.table(("NAMESPACE", "PARTITIONS"), [(name, str(partitions)) for name, partitions in rows])
    if not rows:
        out.say("none yet: the first run makes `default`; others by `tailrace namespaces create NAME`")


async def _create(out: Output, name: str, partitions: int | None) -> int:
    settings = out.options.settings()
    async with checked(settings, writes=True) as redis:
        known = await read_topology(redis, name)
        made = known or await create_topology(redis, name, partitions or settings.partitions)
    has = len(made.partitions)
    if not out.pretty:
        out.record({"namespace": name, "partitions": has, "created": known is None})
    elif known is None:
        out.line(f"{name}: created with {has} partitions")
    else:
        out.line(f"{name}: exists, with {has} partitions")
    if partitions not in (None, has):
        out.say(f"{name} keeps its {has} partitions: another number is a new namespace.")
        return REFUSED
    return 0
