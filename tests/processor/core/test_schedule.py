from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processor.core.errors import BadInput
from processor.core.names import check_run
from processor.core.schedule import Misfire, Plan, Schedule, due_name, plan

ZONES = [
    "UTC",
    "Europe/Berlin",  # at 02:00 and 03:00
    "America/New_York",
    "America/Sao_Paulo",  # at midnight, until 2019
    "Australia/Lord_Howe",  # by half an hour
    "Asia/Beirut",  # at midnight
    "Pacific/Apia",  # 30 December 2011 did not exist
    "Africa/Casablanca",  # four changes a year
    "Asia/Kathmandu",  # +05:45, none
]
MINUTE = 60_000


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    """Of `2026-03-29T03:00`, read in the zone."""
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def told(times: list[int], zone: str) -> list[str]:
    return [datetime.fromtimestamp(time / 1000, ZoneInfo(zone)).isoformat(timespec="minutes") for time in times]


# -- an oracle that looks at every minute


@st.composite
def _field(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """A field's text, and the values it means."""
    kind = draw(st.sampled_from(["*", "step", "list", "range"]))
    if kind == "*":
        return "*", set(range(low, high + 1))
    if kind == "step":
        step = draw(st.integers(2, high))
        return f"*/{step}", set(range(low, high + 1, step))
    if kind == "list":
        values = draw(st.lists(st.integers(low, high), min_size=1, max_size=3, unique=True))
        return ",".join(map(str, values)), set(values)
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    return f"{first}-{last}", set(range(first, last + 1))


Field = tuple[str, set[int]]


def matching(wall: datetime, minutes: Field, hours: Field, days: Field, weekdays: Field) -> bool:
    by_day, by_weekday = wall.day in days[1], wall.isoweekday() % 7 in {day % 7 for day in weekdays[1]}
    both = days[0].startswith("*") or weekdays[0].startswith("*")
    day = (by_day and by_weekday) if both else (by_day or by_weekday)
    return wall.minute in minutes[1] and wall.hour in hours[1] and day


def looked_up(zone: str, start_ms: int, end_ms: int, fields: tuple[Field, Field, Field, Field]) -> list[int]:
    """Every minute of (start, end], asked whether the job runs in it.

    Daily jobs run when the clock first reaches or passes a time; the others whenever it shows one.
    """
    tz = ZoneInfo(zone)
    is_daily = not fields[0][0].startswith("*") and not fields[1][0].startswith("*")
    before = start_ms - 4 * 60 * MINUTE  # so that a fold in which it begins is known as one
    highest = datetime.fromtimestamp(before / 1000, tz).replace(tzinfo=None)
    found = []
    for now_ms in range(before + MINUTE, end_ms + 1, MINUTE):
        wall = datetime.fromtimestamp(now_ms / 1000, tz).replace(tzinfo=None)
        if is_daily:
            passed = [highest + timedelta(minutes=n) for n in range(1, (wall - highest) // timedelta(minutes=1) + 1)]
            highest = max(highest, wall)
        else:
            passed = [wall]
        if now_ms > start_ms and any(matching(one, *fields) for one in passed):
            found.append(now_ms)
    return found


CHANGES = {
    "Europe/Berlin": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/New_York": ["2026-03-08T07:00", "2026-11-01T06:00"],
    "America/Sao_Paulo": ["2017-10-15T03:00", "2018-02-18T02:00"],
    "Australia/Lord_Howe": ["2026-10-03T15:30", "2026-04-04T15:00"],
    "Asia/Beirut": ["2026-03-28T22:00", "2026-10-24T21:00"],
    "Pacific/Apia": ["2011-12-30T10:00"],
    "Africa/Casablanca": ["2026-02-15T02:00", "2026-03-22T02:00"],
}
CHANGE_TIMES = sorted(change for changes in CHANGES.values() for change in changes)
around = st.one_of(
    st.sampled_from([(zone, change) for zone, changes in CHANGES.items() for change in changes]),
    st.tuples(st.sampled_from(ZONES), st.sampled_from(["2024-02-28T20:00", "2026-02-28T20:00", "2026-12-31T20:00"])),
)


@given(
    around,
    st.integers(-600, 30),
    st.integers(1, 900),
    st.tuples(_field(0, 59), _field(0, 23), _field(1, 31), _field(0, 7)),
)
@example(
    ("Pacific/Apia", "2011-12-30T10:00"),
    -600,
    900,
    (("0", {0}), ("12", {12}), ("*", set(range(1, 32))), ("*", set(range(8)))),
)
def test_as_a_look_at_every_minute(
    place: tuple[str, str], offset: int, length: int, fields: tuple[Field, Field, Field, Field]
) -> None:
    """Around changes of the clocks, leap days and turns of years no time is missed and none comes twice."""
    zone, moment = place
    start = ms(moment) + offset * MINUTE
    end = start + length * MINUTE
    try:
        schedule = Schedule(f"{fields[0][0]} {fields[1][0]} {fields[2][0]} * {fields[3][0]}", timezone=zone)
    except BadInput as error:
        assert error.field == "cron.day-of-month"  # noqa: PT017 - a day that no month has
        return
    assert schedule.due_times(start, end) == looked_up(zone, start, end, fields)


every_schedule = st.one_of(
    st.builds(
        lambda minute, hour, zone: Schedule(f"{minute[0]} {hour[0]} * * *", timezone=zone),
        _field(0, 59),
        _field(0, 23),
        st.sampled_from(ZONES),
    ),
    st.builds(lambda seconds: Schedule(every_seconds=seconds), st.floats(1, 100_000)),
)


@given(every_schedule, st.sampled_from(CHANGE_TIMES), st.lists(st.integers(0, 2000), min_size=1))
def test_windows_join(schedule: Schedule, moment: str, cuts: list[int]) -> None:
    """A span read in pieces, wherever it is cut, gives what it gives as a whole: in order, each once."""
    start = ms(moment) - 1000 * MINUTE
    borders = sorted({start, *(start + cut * MINUTE for cut in cuts)})
    whole = schedule.due_times(borders[0], borders[-1])
    pieces = [due for a, b in pairwise(borders) for due in schedule.due_times(a, b)]
    assert pieces == whole == sorted(set(whole))


@given(every_schedule, st.sampled_from(CHANGE_TIMES), st.integers(-3000, 3000), st.integers(1, 9))
def test_next_and_newest(schedule: Schedule, moment: str, offset: int, count: int) -> None:
    """next_after begins what due_times goes on with, and newest_until is its end."""
    at = ms(moment) + offset * 7_000
    first = schedule.next_after(at)
    assert first is not None
    times = schedule.due_times(at, first + count * 3600_000)
    assert times[0] == first
    assert schedule.due_times(at, first + count * 3600_000, limit=3) == times[:3]
    assert schedule.newest_until(first + count * 3600_000, after_ms=at) == times[-1]
    assert schedule.newest_until(first - 1, after_ms=at) is None


# -- the cases that people meet


@pytest.mark.parametrize(
    ("cron", "zone", "start", "wanted"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T03:00+02:00", "2026-03-30T02:30+02:00"]),
        ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T02:30+02:00", "2026-10-26T02:30+01:00"]),
        ("0,30 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T03:00+02:00", "2026-03-29T03:30+02:00"]),
        ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-30T02:00+02:00", "2026-03-30T02:30+02:00"]),
        ("*/40 * * * *", "Europe/Berlin", "2026-10-25T02:00", ["2026-10-25T02:40+02:00", "2026-10-25T02:00+01:00"]),
        ("0 0 * * *", "America/Sao_Paulo", "2017-10-14T12:00", ["2017-10-15T01:00-02:00", "2017-10-16T00:00-02:00"]),
        ("0 12 * * *", "Pacific/Apia", "2011-12-29T13:00", ["2011-12-31T00:00+14:00", "2011-12-31T12:00+14:00"]),
        ("0 0 29 2 *", "UTC", "2026-01-01T00:00", ["2028-02-29T00:00+00:00", "2032-02-29T00:00+00:00"]),
        ("0 0 31 * *", "UTC", "2026-01-31T00:00", ["2026-03-31T00:00+00:00", "2026-05-31T00:00+00:00"]),
        ("0 0 L * *", "UTC", "2026-01-31T00:00", ["2026-02-28T00:00+00:00", "2026-03-31T00:00+00:00"]),
        ("0 9 * * 5#2", "UTC", "2026-01-01T00:00", ["2026-01-09T09:00+00:00", "2026-02-13T09:00+00:00"]),
        ("@monthly", "UTC", "2026-01-01T00:00", ["2026-02-01T00:00+00:00", "2026-03-01T00:00+00:00"]),
    ],
)
def test_known_cases(cron: str, zone: str, start: str, wanted: list[str]) -> None:
    """A time in the gap runs at its end, a time that comes twice runs once, wildcards follow the clock; months end as they do."""
    schedule = Schedule(cron, timezone=zone)
    first = schedule.next_after(ms(start, zone))
    assert first is not None
    second = schedule.next_after(first)
    assert second is not None
    assert told([first, second], zone) == wanted


def test_seconds_and_intervals() -> None:
    """Six fields have seconds in front; an interval is counted from 1970, so that all processes agree."""
    at = ms("2026-11-24T12:00")
    assert Schedule("*/20 * * * * *").due_times(at, at + 60_000) == [at + 20_000, at + 40_000, at + 60_000]
    assert Schedule(every_seconds=1.5).due_times(0, 5_000) == [1500, 3000, 4500]
    assert Schedule(every_seconds=3600).next_after(at + 1) == at + 3_600_000


def test_never() -> None:
    """A weekday that a date never has is a schedule that never runs, and takes no long time to find out."""
    never = Schedule("0 0 */31 * 1#5", misfire="once")  # the fifth Monday is never the first day
    assert never.next_after(ms("2026-01-01T00:00")) is None
    assert plan(never, 0, MINUTE, grace_ms=0) == Plan([], None)


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({}, "cron", "cron and every_seconds: neither is given"),
        ({"cron": "* * * * *", "every_seconds": 5}, "cron", "both"),
        ({"cron": "* * * *"}, "cron", "has 4 fields"),
        ({"cron": "@fortnightly"}, "cron", "has 1 fields"),
        ({"cron": 5}, "cron", "cron is 5"),
        ({"cron": "61 * * * *"}, "cron.minute", "minute is '61'"),
        ({"cron": "* 24 * * *"}, "cron.hour", "hour is '24'"),
        ({"cron": "* * 0 * *"}, "cron.day-of-month", "day-of-month is '0'"),
        ({"cron": "0 0 30 2 *"}, "cron.day-of-month", "day-of-month is '30'"),
        ({"cron": "* * * MAY-13 *"}, "cron.month", "month is 'MAY-13'"),
        ({"cron": "* * * * 8"}, "cron.day-of-week", "day-of-week is '8'"),
        ({"cron": "x * * * * *"}, "cron.second", "second is 'x'"),
        ({"cron": "*/٣ * * * *"}, "cron.minute", "minute is"),
        ({"every_seconds": 0.5}, "every_seconds", "every_seconds is 0.5"),
        ({"every_seconds": float("nan")}, "every_seconds", "every_seconds is nan"),
        ({"every_seconds": "5"}, "every_seconds", "every_seconds is '5'"),
        ({"every_seconds": 5, "timezone": "Europe/Berlin"}, "timezone", "an interval cannot heed"),
        ({"cron": "* * * * *", "timezone": "Europe/Berlni"}, "timezone", "timezone is 'Europe/Berlni'"),
        ({"cron": "* * * * *", "timezone": "../etc/passwd"}, "timezone", "timezone is"),
        ({"cron": "* * * * *", "timezone": ""}, "timezone", "timezone is ''"),
        ({"cron": "* * * * *", "misfire": "twice"}, "misfire", "misfire is 'twice'"),
    ],
)
def test_refusals_name_the_field(arguments: dict[str, object], field: str, words: str) -> None:
    """What is wrong is refused when it is written, with the field's name, its value and what it may be."""
    with pytest.raises(BadInput) as caught:
        Schedule(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert words in caught.value.message
    assert caught.value.remedy


# -- what is to be started


def times(*minutes: float) -> list[int]:
    return [round(minute * MINUTE) for minute in minutes]


@pytest.mark.parametrize(
    ("misfire", "now", "due", "next"),
    [
        ("skip", 4.5, [], 5),
        ("skip", 5, [5], 6),
        ("skip", 5.9, [5], 6),
        ("skip", 9.5, [9], 10),
        ("once", 5.9, [5], 6),
        ("once", 9.5, [9], 10),
        ("all", 5.9, [5], 6),
        ("all", 9.5, [5, 6, 7, 8, 9], 10),
        ("all", 500, list(range(5, 105)), 105),
    ],
)
def test_plan(misfire: Misfire, now: float, due: list[int], next: int) -> None:
    """skip runs what is no later than the grace, once the newest, all each and a hundred at once; none is dealt with twice."""
    planned = plan(Schedule("* * * * *", misfire=misfire), 5 * MINUTE, round(now * MINUTE), grace_ms=59_000)
    assert planned == Plan(times(*due), next * MINUTE)


@given(st.sampled_from(["skip", "once", "all"]), st.lists(st.integers(1, 4_000), min_size=1, max_size=30))
def test_plans_follow_each_other(misfire: Misfire, pauses: list[int]) -> None:
    """However irregular the looks are: no time is planned twice, they rise, and `all` leaves none out."""
    schedule = Schedule(every_seconds=60, misfire=misfire)
    now, next_ms, done = 0, schedule.next_after(0), list[int]()
    for pause in pauses:
        now += pause * 1000
        assert next_ms is not None
        planned = plan(schedule, next_ms, now, grace_ms=90_000)
        done += planned.due
        next_ms = planned.next
    assert done == sorted(set(done))
    assert next_ms is not None
    if misfire == "all":
        assert done == schedule.due_times(0, next_ms - 1)
    if misfire == "once":
        assert len(done) <= len(pauses)
    assert set(done) <= set(schedule.due_times(0, now))


def test_a_long_outage_is_planned_at_once() -> None:
    """A year away from a schedule of every second costs no walk through it."""
    year = 365 * 86_400_000
    seconds = Schedule("* * * * * *", misfire="once")
    assert plan(seconds, 1000, year, grace_ms=0) == Plan([year], year + 1000)
    assert seconds.newest_until(year, after_ms=0) == year
    daily = Schedule("0 3 * * *", misfire="once")
    assert plan(daily, 1000, year, grace_ms=0).due == [year - 21 * 3_600_000]


def test_run_ids() -> None:
    """The due time in a run's ID is UTC to the second, and allowed there."""
    due = int(datetime(2026, 11, 24, 3, 0, tzinfo=UTC).timestamp() * 1000)
    assert due_name(due) == due_name(due + 999) == "20261124T030000Z"
    assert check_run(f"nightly~{due_name(due)}")


def test_values_are_values() -> None:
    """Equal schedules are equal and hash alike."""
    one, two = Schedule("@daily", timezone="Europe/Berlin"), Schedule("@daily", timezone="Europe/Berlin")
    assert one == two
    assert len({one, two}) == 1
