"""`tailrace schedules list|pause|resume|fire`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from processor.cli.exits import UnknownSchedule
from processor.cli.opening import opened, reading, wait_for
from processor.cli.options import EPILOG
from processor.cli.output import Output, output_of
from processor.cli.words import clock
from processor.core.ago import ago
from processor.store.connection import speaking_of
from processor.store.runs import rfc3339
from processor.store.schedules import Registered, list_schedules, pause, read_schedule, resume
from processor.store.space import Scripted

__all__ = ["schedules"]

schedules = typer.Typer(help="Tasks that start by themselves: @tail.task(cron=…).", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The schedule's name, which is its task's.")]
Change = Callable[[Scripted, str], Awaitable[Registered | None]]


@schedules.command("list", epilog=EPILOG)
def list_(ctx: typer.Context) -> None:
    """All schedules, when each is due next, and why one is not."""
    wait_for(_list(output_of(ctx)))


@schedules.command("pause", epilog=EPILOG)
def pause_(ctx: typer.Context, name: Name) -> None:
    """Start nothing by this schedule until it is resumed. Runs that began go on."""
    wait_for(_change(output_of(ctx), name, pause))


@schedules.command("resume", epilog=EPILOG)
def resume_(ctx: typer.Context, name: Name) -> None:
    """Go on with the next time. What came during the pause is not made up for."""
    wait_for(_change(output_of(ctx), name, resume))


@schedules.command("fire", epilog=EPILOG)
def fire_(ctx: typer.Context, name: Name) -> None:
    """Start an extra run now, whether the schedule is paused or not; its times stay."""
    wait_for(_fire(output_of(ctx), name))


async def _list(out: Output) -> None:
    async with reading(out.options) as space:
        now, records = await list_schedules(space)
    if not out.pretty:
        for record in records:
            out.record(_record(record, now))
        return
    columns = ("SCHEDULE", "TASK", "WHEN", "NEXT", "LAST", "STATE")
    out.table(columns, [_row(record, now) for record in records])
    if not records:
        out.say('no schedules: a worker registers those of its tasks, such as @tail.task(cron="*/5 * * * *")')


async def _change(out: Output, name: str, change: Change) -> None:
    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            record = await change(session, name)
            now, _ = await list_schedules(session)
    _tell(out, _known(name, record), now)


async def _fire(out: Output, name: str) -> None:
    from processor.worker.scheduler import fire  # late: lists and pauses need no client

    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            record = _known(name, await read_schedule(session, name))
        run = await fire(tail, record)
        state = await run.state()
    if out.pretty:
        out.line(run.id)
    else:
        out.record(state.json())
    if state.waiting_for:
        out.say(f"{run.id}  {state.status}, waits for {state.waiting_for}")


def _known(name: str, record: Registered | None) -> Registered:
    if record is None:
        remedy = "tailrace schedules list names them; a worker registers those of its tasks when it begins."
        raise UnknownSchedule(f'there is no schedule "{name}".', remedy=remedy)
    return record


def _tell(out: Output, record: Registered, now: int) -> None:
    if not out.pretty:
        out.record(_record(record, now))
        return
    out.line(f"{record.name}: {_state(record, now)}{f', next {_next(record, now)}' if _is_on(record, now) else ''}")


def _record(record: Registered, now: int) -> dict[str, Any]:
    """Absent members left out, times RFC 3339. `next` is there only where something will be started then."""
    members = {
        "schedule": record.name,
        "task": record.task,
        "cron": record.cron,
        "every_seconds": record.every,
        "timezone": record.timezone,
        "misfire": record.misfire,
        "state": record.state(now),
        "next": rfc3339(record.next) if record.next is not None and _is_on(record, now) else None,
        "last": rfc3339(record.last) if record.last is not None else None,
        "seen": rfc3339(record.seen),
    }
    return {name: value for name, value in members.items() if value is not None}


def _row(record: Registered, now: int) -> list[str]:
    last = f"{ago((now - record.last) / 1000)} ago" if record.last is not None else ""
    return [record.name, record.task, record.when, _next(record, now), last, _state(record, now)]


def _is_on(record: Registered, now: int) -> bool:
    return record.state(now) == "on"


def _next(record: Registered, now: int) -> str:
    """In this machine's time, and how far it is by the server's clock."""
    if record.next is None or not _is_on(record, now):
        return ""
    moment = datetime.fromtimestamp(record.next / 1000, UTC)
    return f"{clock(moment, datetime.now(UTC))}, in {ago((record.next - now) / 1000)}"


def _state(record: Registered, now: int) -> str:
    state = record.state(now)
    if state == "abandoned":
        return f"not started: no worker has had it for {ago((now - record.seen) / 1000)}"
    if state == "unreadable":
        return "not started: its time or time zone cannot be read here"
    return "over: no time is left" if state == "ended" else state
