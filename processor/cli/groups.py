"""`tailrace groups list|show|reset|delete`: who reacts, how far behind, and where a group goes on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from processor.cli.confirm import confirm
from processor.cli.exits import GroupInUse, UnknownGroup, Usage
from processor.cli.groups_text import COLUMNS, describe, events, events_wait, letters, numbers, row, workers
from processor.cli.opening import opened, reading, wait_for
from processor.cli.options import EPILOG
from processor.cli.output import Output, output_of
from processor.cli.words import parse_time
from processor.core.ago import ago
from processor.core.errors import BadInput
from processor.core.json import loads
from processor.store.connection import speaking_of
from processor.store.resets import Deleted, Moved, Place, delete_group, reset_group
from processor.store.runs import rfc3339
from processor.store.space import Space
from processor.store.standings import Position, Standing, read_groups

__all__ = ["groups"]

groups = typer.Typer(help="Groups that react to events: @tail.on(…).", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
JUST_TOLD_SECONDS = 120  # members tell every minute


@groups.command("list", epilog=EPILOG)
def list_(ctx: typer.Context) -> None:
    """All groups: what each has still to do, how old that is, and who does it."""
    wait_for(_list(output_of(ctx)))


@groups.command(epilog=EPILOG)
def show(ctx: typer.Context, name: Name) -> None:
    """One group with its bindings, its members and where it stands in each partition."""
    wait_for(_show(output_of(ctx), name))


@groups.command(epilog=EPILOG)
def reset(
    ctx: typer.Context,
    name: Name,
    to: Annotated[str, typer.Option(help="start, end, a time (1h, 14:05, 2026-11-24T14:05Z) or an entry ID.")],
    partition: Annotated[int | None, typer.Option(min=0, help="Only in this partition.")] = None,
) -> None:
    """Let it go on elsewhere in the log. What its members have in their hands has no effect any more. Asks first."""
    out = output_of(ctx)
    standing = wait_for(_read(out, name))
    place = _place(to, standing.now)
    partitions = _partitions(standing, partition)
    confirm(out, _reset_question(standing, to, partition))
    wait_for(_reset(out, name, place, partitions))


@groups.command(epilog=EPILOG)
def delete(ctx: typer.Context, name: Name) -> None:
    """Take it away, with its place in the log; with the last group the log goes. Not while workers run it. Asks first."""
    out = output_of(ctx)
    standing = wait_for(_read(out, name))
    _check_unused(standing)
    confirm(out, _delete_question(standing))
    wait_for(_delete(out, standing))


# What is meant.


async def _standing(space: Space, name: str) -> Standing:
    """Raises UnknownGroup."""
    found = (await read_groups(space, [name])).all
    if not found:
        remedy = "`tailrace groups list` names them; a process with its reactions makes it when it begins."
        raise UnknownGroup(f"there is no group {name!r} in namespace {space.keys.namespace}.", remedy=remedy)
    return found[0]


async def _read(out: Output, name: str) -> Standing:
    async with reading(out.options) as space:
        return await _standing(space, name)


def _place(text: str, now: int) -> Place:
    """now: the server's, in ms. Raises BadInput."""
    if text in ("start", "end"):
        return Place(text)
    place = Place(text)
    if place.entry is not None:
        return place
    try:
        moment = parse_time(text, datetime.fromtimestamp(now / 1000, UTC), field="--to")
    except BadInput as error:
        remedy = (
            "Give start, end, how long ago (1h), a time (14:05:30, 2026-11-24T14:05:30Z) or an entry ID of the log."
        )
        raise BadInput(f"--to is {text!r}, which is no place.", remedy=remedy, field="--to", value=text) from error
    return Place.at(int(moment.timestamp() * 1000))


def _partitions(standing: Standing, partition: int | None) -> Sequence[int]:
    """Raises Usage."""
    every = [position.partition for position in standing.positions]
    if partition is None:
        return every
    if partition not in every:
        raise Usage(f"--partition is {partition}; there are 0 to {len(every) - 1}.", remedy="Give one of them.")
    return [partition]


def _check_unused(standing: Standing) -> None:
    """Raises GroupInUse: its members would bind it anew within a minute, and begin where a new group begins."""
    if standing.members:
        names = ", ".join(worker.name for worker in standing.members)
        raise GroupInUse(
            f"group {standing.group.name} is run by {workers(len(standing.members))} ({names}), which would make it anew "
            "within a minute.",
            remedy="Stop them first, or deploy without its reactions; a worker that was killed counts for 15 s more.   "
            f"To begin elsewhere in the log: tailrace groups reset {standing.group.name} --to end",
        )


# What is asked.


def _reset_question(standing: Standing, to: str, partition: int | None) -> str:
    where = "" if partition is None else f" in partition {partition}"
    return f"Let group {standing.group.name} go on at {to!r}{where}? {_waiting(standing)}"


def _delete_question(standing: Standing) -> str:
    return f"Delete group {standing.group.name}? {_waiting(standing)}"


def _waiting(standing: Standing) -> str:
    if not standing.backlog:
        return "Nothing waits for it."
    return f"{events_wait(standing.backlog)} for it, {standing.pending} of them in members' hands."


# What is done.


async def _list(out: Output) -> None:
    async with reading(out.options) as space:
        found = (await read_groups(space)).all
    if not out.pretty:
        for standing in found:
            out.record(_record(standing))
        return
    out.table(COLUMNS, [row(standing) for standing in found])
    if not found:
        out.say('no groups: a process binds those of its reactions, such as @tail.on("run.failed")')


async def _show(out: Output, name: str) -> None:
    standing = await _read(out, name)
    if out.pretty:
        describe(out, standing)
    else:
        out.record(_whole_record(standing))


async def _reset(out: Output, name: str, place: Place, partitions: Sequence[int]) -> None:
    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            moved = await reset_group(session, name, place, partitions)
            standing = await _standing(session, name)
    _tell_reset(out, standing, place, moved)


def _tell_reset(out: Output, standing: Standing, place: Place, moved: Sequence[Moved]) -> None:
    name = standing.group.name
    acknowledged, dropped = sum(one.acknowledged for one in moved), sum(one.dropped for one in moved)
    lacking = [one.partition for one in moved if one.lacks(place)]
    if out.pretty:
        out.line(
            f"{name}: {events(standing.lag)} to come; {acknowledged} in members' hands and {_retries(dropped)} dropped"
        )
    else:
        told = {"group": name, "lag": standing.lag, "acknowledged": acknowledged, "dropped": dropped}
        out.record({**told, "partitions": [one.partition for one in moved], "lacking": lacking})
    if lacking:
        out.say(
            f"In partition {numbers(lacking)} the log begins later than that: what every group had handled, or what was cut, "
            "is gone. The group goes on at the first event still there."
        )
    if place != Place("end") and standing.lag:
        out.say("Increments (tokens, log lines) that no group had bound when they came were never in the log.")


async def _delete(out: Output, standing: Standing) -> None:
    name = standing.group.name
    async with opened(out.options) as tail:
        session = await tail.session()
        with speaking_of(session.server.address.url):
            _check_unused(await _standing(session, name))  # one may have begun while the user was asked
            deleted = await delete_group(session, name)
    _tell_deleted(out, standing, deleted)


def _tell_deleted(out: Output, standing: Standing, deleted: Deleted) -> None:
    name = standing.group.name
    if out.pretty:
        out.line(f"{name}: deleted; {events(standing.lag + deleted.pending + deleted.dropped)} had waited")
    else:
        told = {"group": name, "deleted": True, "lag": standing.lag, "pending": deleted.pending}
        out.record({**told, "delayed": deleted.dropped, "dead": standing.dead})
    if standing.dead:
        out.say(
            f"{letters(standing.dead)} kept: `tailrace dead list {name} --group`, `tailrace dead purge {name} --group`."
        )
    since = (standing.now - standing.group.told) / 1000
    if since < JUST_TOLD_SECONDS:
        out.say(f"A process told its bindings {ago(since)} ago. One that still has its reactions makes it anew.")


def _retries(count: int) -> str:
    return f"{count} retr{'y' if count == 1 else 'ies'}"


# For programs.


def _record(standing: Standing) -> dict[str, Any]:
    """Absent members left out. The same names as GET /api/{ns}/groups has."""
    members = {
        "group": standing.group.name,
        "mode": standing.group.mode or None,
        "when_behind": standing.group.when_behind or None,
        "backlog": standing.backlog,
        "lag": standing.lag,
        "pending": standing.pending,
        "delayed": standing.delayed,
        "oldest_seconds": round(standing.oldest_ms / 1000, 1),
        "members": len(standing.members),
        "dead": standing.dead,
        "cut": standing.cut,
    }
    return {name: value for name, value in members.items() if value is not None}


def _whole_record(standing: Standing) -> dict[str, Any]:
    group = standing.group
    more = {
        "start": group.start or None,
        "created": rfc3339(group.created) if group.created else None,
        "bindings": [_binding(text) | {"told": rfc3339(told)} for text, told in group.bindings.items()],
        "workers": [worker.name for worker in standing.members],
        "partitions": [_position_record(standing, position) for position in standing.positions],
    }
    return {**_record(standing), **{name: value for name, value in more.items() if value is not None}}


def _binding(text: str) -> dict[str, Any]:
    pattern, _, where = text.partition(" ")
    return {"pattern": pattern, "where": loads(where.encode())} if where else {"pattern": pattern}


def _position_record(standing: Standing, position: Position) -> dict[str, Any]:
    members = {
        "partition": position.partition,
        "lag": position.lag,
        "pending": position.pending,
        "delayed": position.delayed,
        "oldest_seconds": round(standing.age_ms(position) / 1000, 1),
        "dead": position.dead,
        "delivered": position.delivered,
        "cut": position.cut or None,
        "owner": position.owner or None,
        "owner_until": rfc3339(position.until) if position.owner else None,
    }
    return {name: value for name, value in members.items() if value is not None}
