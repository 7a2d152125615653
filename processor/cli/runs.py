"""`tailrace runs`: a list of runs, newest change first."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.live import Live
from rich.text import Text

from processor.cli.exits import Usage
from processor.cli.opening import reading, wait_for
from processor.cli.output import Output, output_of, status_text, table_text
from processor.cli.words import in_local_time, parse_labels, parse_time, took
from processor.core.ago import ago
from processor.core.lifecycle import TERMINAL
from processor.store.runs import RunState, Space, list_runs

__all__ = ["runs"]

STATUSES = ("queued", "running", "waiting", *sorted(TERMINAL))
PAGE = 1000
WATCH_SECONDS = 1.0  # the index tells of lifecycle changes only: a look a second is what the console does too


def runs(
    ctx: typer.Context,
    status: Annotated[
        str | None, typer.Option(help="queued, running, waiting, succeeded, failed or cancelled.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only runs of this task.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="name=value; may be repeated.")] = None,
    since: Annotated[str | None, typer.Option(help="Changed since: 10m, 14:05, 2026-11-24T14:05Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many.")] = 50,
    watch: Annotated[bool, typer.Option("--watch", help="Stay, and tell every change.")] = False,
) -> None:
    """Runs, newest change first."""
    if status is not None and status not in STATUSES:
        raise Usage(f"--status is {status!r}.", remedy=f"One of {', '.join(STATUSES)}.", field="--status", value=status)
    out = output_of(ctx)
    labels = parse_labels(label or [])
    after = int(parse_time(since, datetime.now(UTC), field="--since").timestamp() * 1000) if since else 0
    wait_for(_runs(out, _Wanted(status, task, dict(labels), after, limit), watch))


class _Wanted:
    """What `runs` was asked for."""

    def __init__(self, status: str | None, task: str | None, labels: dict[str, str], after: int, limit: int) -> None:
        self.status, self.task, self.labels, self.after, self.limit = status, task, labels, after, limit
        self.some_only = bool(status or task or labels or after)

    async def read(self, space: Space) -> list[RunState]:
        """Newest change first. The index is in the order of lifecycle changes: a run that only streams may stand far behind."""
        found: list[RunState] = []
        place: str | None = None
        while True:
            page, place = await list_runs(
                space,
                status=self.status,
                task=self.task,
                labels=self.labels,
                after=place,
                limit=PAGE if self.after else min(PAGE, self.limit - len(found)),
            )
            found += [state for state in page if max(state.updated, state.ended or 0) >= self.after]
            if place is None or len(found) >= self.limit:
                return found[: self.limit]


async def _runs(out: Output, wanted: _Wanted, watch: bool) -> None:
    async with reading(out.options) as space:
        found = await wanted.read(space)
        if not out.pretty:
            for state in found:
                out.record(state.json())
            if watch:
                await _watch_records(out, space, wanted, found)
            return
        if watch:
            await _watch_table(out, space, wanted)
            return
        out.line(_table(found))
        if not found:
            out.say("no such runs" if wanted.some_only else "no runs; `tailrace demo` makes one to look at")


async def _watch_records(out: Output, space: Space, wanted: _Wanted, seen: Sequence[RunState]) -> None:
    """Each run again whenever its lifecycle changed."""
    known = {state.run: (state.status, state.attempt) for state in seen}
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        for state in reversed(await wanted.read(space)):
            if known.get(state.run) != (state.status, state.attempt):
                known[state.run] = (state.status, state.attempt)
                out.record(state.json())


async def _watch_table(out: Output, space: Space, wanted: _Wanted) -> None:
    with Live(console=out.console, auto_refresh=False, screen=False) as live:
        while True:
            live.update(_table(await wanted.read(space)), refresh=True)
            await asyncio.sleep(WATCH_SECONDS)


def _table(found: Sequence[RunState]) -> Text:
    now = datetime.now(UTC)
    rows = [_row(state, now) for state in found]
    # The last two say nothing of most runs: a column without a word is not shown.
    shown = [name for name in _COLUMNS if name not in ("LABELS", "WAITS FOR") or any(row[name] for row in rows)]
    return table_text(shown, [[row[name] for name in shown] for row in rows])


_COLUMNS = ("RUN", "STATUS", "TASK", "EVENTS", "CHANGED", "TOOK", "LABELS", "WAITS FOR")


def _row(state: RunState, now: datetime) -> dict[str, str | Text]:
    changed = (state.ended or state.updated) / 1000
    end = state.ended / 1000 if state.ended else now.timestamp()
    cells = (
        state.run,
        status_text(state.status),
        state.task or "",
        (state.tail or "0").partition("-")[0],
        f"{ago(now.timestamp() - changed)} ago",
        took(end - state.created / 1000),
        " ".join(f"{name}={value}" for name, value in state.labels.items()),
        in_local_time(state.waiting_for or "", now),
    )
    return dict(zip(_COLUMNS, cells, strict=True))
