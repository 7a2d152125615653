"""Schedules: when a task is due, without a clock and without I/O.

Wall times come from cronsim, asked without a time zone; what a change of the clocks does to them is decided here, as Debian's
cron does: where minute and hour are given, a job runs once a day, at the first moment behind the gap if its time does not
exist, and at the first of two equal ones. Where one of them begins with `*` it runs whenever the clock shows such a time.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from itertools import islice, takewhile
from typing import Final, Literal, NamedTuple, get_args

from processor.core.errors import BadInput

__all__ = ["Misfire", "Plan", "Schedule", "due_name", "plan"]

Misfire = Literal["skip", "once", "all"]

DAY_SECONDS: Final = 86_400
LONGEST_SECONDS: Final = 366 * DAY_SECONDS
_FIELDS: Final = ("second", "minute", "hour", "day-of-month", "month", "day-of-week")
_WANTED: Final = {
    "second": "0 to 59",
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day-of-month": "1 to 31 (one that the months have), L or LW",
    "month": "1 to 12 or JAN to DEC",
    "day-of-week": "0 to 7 (0 and 7 are Sunday) or SUN to SAT, 5#2 (the second Friday), 5L (the last)",
}
_NAMED: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_LONGEST_FOLD: Final = timedelta(hours=3)  # clocks went back by two hours at most since 1970
_MISSED_AT_ONCE: Final = 100  # of `skip` and `all` in one plan, so that a pass stays short; the next plan goes on


@dataclass(frozen=True)
class Schedule:
    """When a task is due: a cron expression in a time zone, or an interval counted from 1970 UTC.

    cron: minute, hour, day of month, month, day of week, with a field for seconds in front if there are six; or @hourly,
    @daily, @weekly, @monthly, @yearly. every_seconds: 1 or more; equal in all processes, whenever they began.
    misfire: what becomes of times that passed while nobody could run them: `skip` leaves them out, `once` runs the newest,
    `all` runs each, oldest first. Raises BadInput whose `field` names what is wrong.
    """

    cron: str | None = None
    every_seconds: float | None = None
    timezone: str = "UTC"
    misfire: Misfire = "skip"

    def __post_init__(self) -> None:
        if (self.cron is None) == (self.every_seconds is None):
            given = "neither" if self.cron is None else "both"
            raise _bad("cron", given, f"cron and every_seconds: {given} is given", "Give one of them.")
        if self.misfire not in get_args(Misfire):
            raise _bad("misfire", self.misfire, f"misfire is {self.misfire!r}", "Give skip, once or all.")
        if self.cron is not None:
            _check_cron(self.cron)
        else:
            self._check_interval()
        _ = self.zone

    def _check_interval(self) -> None:
        seconds = self.every_seconds
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)
        if seconds is None or not is_number or not 1 <= seconds <= LONGEST_SECONDS:
            remedy = "Give seconds from 1 to 31622400 (366 days)."
            raise _bad("every_seconds", seconds, f"every_seconds is {seconds!r}", remedy)
        if self.timezone != "UTC":
            remedy = "Leave it out, or give the times as cron."
            raise _bad(
                "timezone", self.timezone, f"timezone is {self.timezone!r}, which an interval cannot heed", remedy
            )

    @cached_property
    def zone(self) -> tzinfo:
        """Raises BadInput for a name that this machine's time zones do not have."""
        if self.timezone == "UTC":  # known without a database of zones
            return UTC
        from zoneinfo import ZoneInfo

        try:
            return ZoneInfo(self.timezone)
        except (KeyError, OSError, ValueError, TypeError) as error:  # ZoneInfoNotFoundError is a KeyError
            remedy = "Give an IANA name such as Europe/Berlin; on a machine without time zones: pip install tzdata."
            message = f"timezone is {self.timezone!r}, which is not known here"
            raise _bad("timezone", self.timezone, message, remedy) from error

    def due_times(self, after_ms: int, until_ms: int, *, limit: int | None = None) -> list[int]:
        """Milliseconds since 1970 of all times behind after_ms up to and with until_ms, in order; the first `limit` of them."""
        times = takewhile(lambda due: due <= until_ms, self._times(after_ms))
        return list(islice(times, limit))

    def next_after(self, after_ms: int) -> int | None:
        """The first time behind after_ms; None if there is none any more (30 February, say)."""
        return next(self._times(after_ms), None)

    def newest_until(self, until_ms: int, *, after_ms: int) -> int | None:
        """The last time up to and with until_ms, if it is behind after_ms. Looks back in growing steps: an outage may be long."""
        back_ms = 60_000
        while True:
            found = self.due_times(max(after_ms, until_ms - back_ms), until_ms)
            if found:
                return found[-1]
            if until_ms - back_ms <= after_ms:
                return None
            back_ms *= 8

    def _times(self, after_ms: int) -> Iterator[int]:
        if self.every_seconds is not None:
            return _grid(round(self.every_seconds * 1000), after_ms)
        return self._cron_times(after_ms)

    def _cron_times(self, after_ms: int) -> Iterator[int]:
        """Each moment once, in order."""
        earliest: list[int] = []
        last = after_ms
        for wall in self._walls(after_ms):
            moments = self._moments(wall)
            for moment in moments:
                heapq.heappush(earliest, moment)
            # A later wall time has no moment before the first one of this: what waits up to there is in order.
            while earliest and moments and earliest[0] <= moments[0]:
                moment = heapq.heappop(earliest)
                if moment > last:
                    last = moment
                    yield moment
        for moment in sorted(set(earliest)):
            if moment > last:
                yield moment

    def _walls(self, after_ms: int) -> Iterator[datetime]:
        """Wall times that may lie behind after_ms, without time zone, in order."""
        from cronsim import CronSim  # only where there are schedules

        start = datetime.fromtimestamp(after_ms // 1000, self.zone).replace(tzinfo=None)
        if self.zone is not UTC:
            start -= _LONGEST_FOLD
        try:
            yield from CronSim(self._expression, start)
        except OverflowError:  # the year 9999
            return

    def _moments(self, wall: datetime) -> list[int]:
        """When the clock shows this time: once, twice, or never."""
        first = wall.replace(tzinfo=self.zone, fold=0)
        if self.zone is UTC:
            return [_ms(first)]
        second = first.replace(fold=1)
        if first.utcoffset() == second.utcoffset():
            return [_ms(first)]
        exists = _ms(first) < _ms(second)  # in a gap, the offset before it (fold 0) leads to the later moment
        if exists:
            return [_ms(first)] if self._is_daily else [_ms(first), _ms(second)]
        return [_behind_gap(wall, self.zone)] if self._is_daily else []

    @cached_property
    def _expression(self) -> str:
        assert self.cron is not None
        return _NAMED.get(self.cron.strip().lower(), self.cron)

    @cached_property
    def _is_daily(self) -> bool:
        """Whether minute and hour are given: such a job is meant to run once a day, whatever the clocks do."""
        minute, hour = self._expression.split()[-5:-3]
        return not minute.startswith("*") and not hour.startswith("*")


def _bad(field: str, value: object, message: str, remedy: str) -> BadInput:
    return BadInput(f"schedule: {message}.", remedy=remedy, field=field, value=str(value))


def _check_cron(cron: object) -> None:
    """Raises BadInput that names the field of the expression."""
    from cronsim import CronSim, CronSimError

    if not isinstance(cron, str):
        raise _bad("cron", cron, f"cron is {cron!r}", 'Give text such as "*/5 * * * *".')
    expression = _NAMED.get(cron.strip().lower(), cron)
    parts = expression.split()
    if len(parts) not in (5, 6):
        remedy = "Give minute, hour, day of month, month, day of week: 30 4 * * MON-FRI. Or @hourly, @daily, @weekly."
        raise _bad("cron", cron, f"cron {cron!r} has {len(parts)} fields", remedy)
    try:
        CronSim(expression, datetime(2000, 1, 1))
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        part = parts[_FIELDS.index(name) - (6 - len(parts))]
        raise _bad(
            f"cron.{name}",
            part,
            f"cron {cron!r}: {name} is {part!r}",
            f"Give {_WANTED[name]}; lists 1,2, ranges 1-5 and steps */15.",
        ) from error


def _grid(step_ms: int, after_ms: int) -> Iterator[int]:
    due = (after_ms // step_ms + 1) * step_ms
    while True:
        yield due
        due += step_ms


def _ms(moment: datetime) -> int:
    return round(moment.timestamp()) * 1000


def _behind_gap(wall: datetime, zone: tzinfo) -> int:
    """The first moment whose wall time is not before this one, which does not exist: the end of the gap."""
    # Both readings of a time in a gap lie on its two sides, and the gap's end between them.
    low, high = (_ms(wall.replace(tzinfo=zone, fold=fold)) // 1000 for fold in (1, 0))
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).replace(tzinfo=None) < wall:
            low = middle
        else:
            high = middle
    return high * 1000


class Plan(NamedTuple):
    """What to start now, oldest first, and what `next` is once all of it was accepted."""

    due: list[int]
    next: int | None


def plan(schedule: Schedule, next_ms: int, now_ms: int, *, grace_ms: int) -> Plan:
    """next_ms: the first time that was not dealt with yet; grace_ms: so late is still in time for `skip`.

    `all` and `skip` plan at most 100 times at once; what is left is due in the next plan.
    """
    if now_ms < next_ms:
        return Plan([], next_ms)
    if schedule.misfire == "once":
        newest = schedule.newest_until(now_ms, after_ms=next_ms - 1)
        return Plan([newest] if newest is not None else [], schedule.next_after(now_ms))
    first = next_ms - 1 if schedule.misfire == "all" else max(next_ms - 1, now_ms - grace_ms - 1)
    due = schedule.due_times(first, now_ms, limit=_MISSED_AT_ONCE)
    behind = due[-1] if len(due) == _MISSED_AT_ONCE else now_ms
    return Plan(due, schedule.next_after(behind))


def due_name(due_ms: int) -> str:
    """The second part of a scheduled run's ID: `20261124T030000Z`."""
    return datetime.fromtimestamp(due_ms // 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
