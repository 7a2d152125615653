"""Groups at a terminal: the table, and one of them in full."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from rich.text import Text

from processor.cli.output import Output
from processor.cli.words import clock
from processor.core.ago import ago
from processor.store.standings import Position, Standing

__all__ = ["COLUMNS", "describe", "events", "events_wait", "letters", "numbers", "row", "workers"]

COLUMNS: Final = ("GROUP", "MODE", "BACKLOG", "LAG", "PENDING", "RETRIES", "OLDEST", "DEAD", "MEMBERS", "STATE")


def row(standing: Standing) -> list[str | Text]:
    oldest = ago(standing.oldest_ms / 1000) if standing.backlog else ""
    figures = (standing.backlog, standing.lag, standing.pending, standing.delayed)
    return [
        standing.group.name,
        standing.group.mode,
        *map(str, figures),
        oldest,
        str(standing.dead or ""),
        str(len(standing.members)),
        _state(standing),
    ]


def _state(standing: Standing) -> Text:
    parts = []
    if standing.unattended:
        parts.append(("waits for a worker: none that has it is alive", "yellow"))
    elif not standing.members:
        parts.append(("no live worker has it", ""))
    if standing.cut:
        parts.append((f"was cut while behind (partition {numbers(standing.cut)})", "red"))
    return Text.assemble(*[part for each in parts for part in (("; ", ""), each)][1:])


def describe(out: Output, standing: Standing) -> None:
    group, now = standing.group, datetime.fromtimestamp(standing.now / 1000, UTC)
    out.line(Text.assemble((group.name, "bold"), f"  {group.mode or 'mode unknown'}"))
    if standing.unattended:
        last = _last(standing, now)
        out.line(f"  {events_wait(standing.backlog)} for a worker: none that has group {group.name} is alive{last}")
        out.line("  Start one: `tailrace worker MODULE:TAIL`")
    oldest = f", the oldest {ago(standing.oldest_ms / 1000)} old" if standing.backlog else ""
    figures = f"{standing.lag} to be given, {standing.pending} in members' hands, {standing.delayed} to be tried again"
    lines = {
        "backlog": f"{standing.backlog}: {figures}{oldest}",
        "dead": f"{standing.dead}: `tailrace dead list {group.name} --group`" if standing.dead else "",
        "members": ", ".join(worker.name for worker in standing.members) or "none alive",
        "behind": _behind(group.when_behind),
        "began": _began(standing, now),
    }
    for name, value in lines.items():
        if value:
            out.line(Text.assemble((f"  {name:<9}", "bright_black"), value))
    for text, told in group.bindings.items():
        out.line(
            Text.assemble(("  binding  ", "bright_black"), text, f"  (told {ago((standing.now - told) / 1000)} ago)")
        )
    if standing.cut:
        cut = f"  Events went before the group had them, in partition {numbers(standing.cut)}: it was behind when the log was full."
        out.line(Text(cut, style="red"))
    out.line()
    _partition_table(out, standing)


def _partition_table(out: Output, standing: Standing) -> None:
    columns = ["PARTITION", "LAG", "PENDING", "RETRIES", "OLDEST", "DEAD", "GIVEN LAST"]
    ordered, cut = standing.group.mode == "ordered", bool(standing.cut)
    columns += (["OWNER"] if ordered else []) + (["FIRST LEFT BY A CUT"] if cut else [])
    rows = []
    for position in standing.positions:
        oldest = ago(standing.age_ms(position) / 1000) if position.backlog else ""
        row = [str(position.partition), str(position.lag), str(position.pending), str(position.delayed), oldest]
        row += [str(position.dead or ""), position.delivered if position.bound else "not bound"]
        row += ([_owner(standing, position)] if ordered else []) + ([position.cut] if cut else [])
        rows.append(row)
    out.table(columns, rows)


def _owner(standing: Standing, position: Position) -> str:
    if not position.owner:
        return "nobody"
    left = (position.until - standing.now) / 1000
    return f"{position.owner}, {f'for {ago(left)} more' if left > 0 else f'until {ago(-left)} ago'}"


def _last(standing: Standing, now: datetime) -> str:
    last = standing.last_member
    if last is None:
        return ""
    when = clock(datetime.fromtimestamp(last.last / 1000, UTC), now)
    return f" (last: {last.name}, {'stopped' if last.stopped is not None else 'silent since'} {when})"


def _behind(policy: str) -> str:
    words = {
        "detach": "when the log is full the oldest events go, and it is told (detach)",
        "refuse": "when the log is full producers are refused until it has caught up (refuse)",
    }
    return words.get(policy, "")


def _began(standing: Standing, now: datetime) -> str:
    group = standing.group
    if not group.created:
        return ""
    at = {"first": "the first event in the log", "now": "the next event"}.get(group.start, group.start)
    return f"{clock(datetime.fromtimestamp(group.created / 1000, UTC), now)}, at {at}"


def events(count: int) -> str:
    return f"{count} event{'' if count == 1 else 's'}"


def events_wait(count: int) -> str:
    return f"{events(count)} wait{'s' if count == 1 else ''}"


def workers(count: int) -> str:
    return f"{count} live worker{'' if count == 1 else 's'}"


def letters(count: int) -> str:
    return f"{count} dead letter{'' if count == 1 else 's'}"


def numbers(some: Sequence[int]) -> str:
    return ", ".join(map(str, some))
