"""`tailrace tail`: follow runs to their end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from processor.cli.exits import DONE, FAILED, Usage
from processor.cli.find import find_run
from processor.cli.opening import opened, wait_for
from processor.cli.output import Output, harmless, output_of
from processor.cli.view import View, text_of
from processor.cli.words import parse_duration
from processor.core.cursor import parse_cursor
from processor.core.errors import RunNotFound
from processor.core.events import GAP, Event

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Viewing", "follow_runs", "shown", "tail"]

LOOK_SECONDS = 0.2  # how often --wait looks whether the run has appeared


@dataclass(frozen=True, slots=True)
class Viewing:
    """What of a run is shown, and how."""

    types: Sequence[str] = field(default=())  # patterns such as message.*; none: all
    text: bool = False  # only the assembled text

    def wants(self, event: Event[Any]) -> bool:
        """What is missing is told whatever was asked for."""
        return not self.types or event.type == GAP or any(fnmatchcase(event.type, pattern) for pattern in self.types)


def tail(
    ctx: typer.Context,
    run: Annotated[list[str], typer.Argument(help="IDs, or their beginnings or ends.")],
    after: Annotated[str | None, typer.Option(help="Only what follows this event's id.")] = None,
    type: Annotated[
        list[str] | None, typer.Option("--type", help="Only such types: message.*; may be repeated.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Only the assembled text, in a pipe too.")] = False,
    wait: Annotated[str | None, typer.Option(help="For a run that does not exist yet: 30s.")] = None,
) -> None:
    """Follow runs live, from their beginning to their end. Ends with 1 if one failed or was cancelled."""
    if after is not None and len(run) > 1:
        raise Usage(
            "--after belongs to one run.", remedy="Follow one run, or leave it out.", field="--after", value=after
        )
    parse_cursor(after, field="--after")
    seconds = parse_duration(wait, field="--wait") if wait else 0.0
    out = output_of(ctx)
    raise typer.Exit(wait_for(_tail(out, run, after, Viewing(type or (), text), seconds)))


async def _tail(out: Output, texts: Sequence[str], after: str | None, viewing: Viewing, wait: float) -> int:
    async with opened(out.options) as client:
        runs = [await _appeared(client, text, wait) for text in texts]
        return await follow_runs(out, client, runs, viewing, after=after)


async def _appeared(client: Tailrace, text: str, wait: float) -> str:
    """The run, once it is there. Raises RunNotFound after `wait` seconds."""
    session = await client.session()
    deadline = asyncio.get_running_loop().time() + wait
    while True:
        try:
            return await find_run(session, text)
        except RunNotFound:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(LOOK_SECONDS)


async def follow_runs(
    out: Output, client: Tailrace, runs: Sequence[str], viewing: Viewing, *, after: str | None = None
) -> int:
    """To the end of all of them. 1 if one failed or was cancelled."""
    several = len(runs) > 1
    work = [_follow(out, client, run, viewing, after, run[-6:] if several else "") for run in runs]
    return max(await asyncio.gather(*work), default=DONE)


async def _follow(out: Output, client: Tailrace, run: str, viewing: Viewing, after: str | None, label: str) -> int:
    view = View(out, label)
    code = DONE
    # Text of attempts that are over already is void; what has been printed of one that ends from here on stays.
    attempt = (await client.run(run).state()).attempt if viewing.text else 0
    printed = False
    async for event in client.run(run).follow(after=after):
        if event.ends in ("failed", "cancelled"):
            code = FAILED
        if viewing.text and text_of(event):
            if event.attempt and event.attempt < attempt:
                continue
            if event.attempt and event.attempt > attempt and printed:
                out.raw(b"\n")
                out.say(f"{run}: attempt {event.attempt} begins again; the text before this line is void")
            attempt = max(attempt, event.attempt or 0)
            printed = True
        if viewing.wants(event):
            shown(out, view, event, viewing)
    view.close()
    return code


def shown(out: Output, view: View, event: Event[Any], viewing: Viewing) -> None:
    """One event, as text, drawn, or as one JSON object a line."""
    if viewing.text:
        text = text_of(event)
        out.raw((harmless(text) if out.pretty else text).encode("utf-8", "replace"))
    elif out.pretty:
        view.show(event)
    else:
        out.record(event.raw)
