from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from processor.cli.words import (
    clock,
    in_local_time,
    parse_duration,
    parse_json,
    parse_labels,
    parse_place,
    parse_time,
    took,
)
from processor.core.ago import ago
from processor.core.cursor import FeedId
from processor.core.errors import BadInput

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172800), ("500ms", 0.5), ("7", 7)]
)
def test_durations(text: str, seconds: float) -> None:
    """A number and a unit; a bare number is seconds."""
    assert parse_duration(text, field="--wait") == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "1 hour", "1e3", "inf"])
def test_no_durations(text: str) -> None:
    """Anything else is refused with the units."""
    with pytest.raises(BadInput, match=r"--wait is .*no duration") as caught:
        parse_duration(text, field="--wait")
    assert "500ms, 30s, 5m, 2h or 1d" in caught.value.remedy


def test_times() -> None:
    """So long ago, a time of today, a date with or without zone."""
    assert parse_time("10m", NOW, field="x") == NOW - timedelta(minutes=10)
    assert parse_time("2026-11-24T10:00:00Z", NOW, field="x") == NOW - timedelta(hours=2)
    assert parse_time("2026-11-24 10:00", NOW, field="x") == NOW - timedelta(hours=2)
    assert parse_time("2026-11-24T12:00:00+02:00", NOW, field="x") == NOW - timedelta(hours=2)
    local = parse_time("07:30:05.5", NOW, field="x").astimezone()
    assert (local.date(), local.hour, local.minute, local.second) == (NOW.astimezone().date(), 7, 30, 5)
    assert local.microsecond == 500_000


@pytest.mark.parametrize("text", ["25:00", "now", "2026-13-01", "10"])
def test_no_times(text: str) -> None:
    """What is neither is refused with examples."""
    with pytest.raises(BadInput, match=r"--since is .*no time"):
        parse_time(text, NOW, field="--since")


def test_places() -> None:
    """A place is a number, an id or a moment, and knows which events lie before and behind it."""
    number, id, moment = (parse_place(text, NOW, field="x") for text in ("42", "42-7", "2026-11-24T12:00:00Z"))
    ms = int(NOW.timestamp() * 1000)
    assert [p.before(FeedId(43, ms + 1)) for p in (number, id, moment)] == [True] * 3
    assert [p.before(FeedId(42, ms)) for p in (number, id, moment)] == [False] * 3
    assert [p.after(FeedId(41, ms - 1)) for p in (number, id, moment)] == [True] * 3
    assert [p.after(FeedId(42, ms)) for p in (number, id, moment)] == [False] * 3


def test_labels() -> None:
    """name=value, the value with any further =."""
    assert parse_labels(["user=ada", "q=a=b"]) == {"user": "ada", "q": "a=b"}
    for bad in ("user", "=ada", "a b=c"):
        with pytest.raises(BadInput):
            parse_labels([bad])


def test_json() -> None:
    """Strict JSON; NaN is none."""
    assert parse_json('{"a": [1]}', field="input") == {"a": [1]}
    for bad in ("NaN", "{'a': 1}", ""):
        with pytest.raises(BadInput, match="input is no JSON"):
            parse_json(bad, field="input")


def test_for_eyes() -> None:
    """Spans in their largest unit; today's times without the date."""
    assert [ago(s) for s in (-1, 41, 190, 7200, 5 * 86400)] == ["0 s", "41 s", "3 min", "2 h", "5 d"]
    assert [took(s) for s in (-1, 0.0074, 0.9996, 3.21, 9.96, 41)] == ["0 ms", "7 ms", "1.0 s", "3.2 s", "9 s", "41 s"]
    assert len(clock(NOW, NOW)) == 8
    assert clock(NOW - timedelta(days=2), NOW).startswith("2026-11-22 ")


def test_times_within_sentences() -> None:
    """UTC times in a sentence are told as the reader's clock has them; the rest stays."""
    today, past = NOW - timedelta(minutes=3), NOW - timedelta(days=3)
    text = "its time, 2026-11-24T11:57:00Z (2026-11-21T12:00:00.123Z, 2026-11-24, T1Z)"
    assert in_local_time(text, NOW) == f"its time, {clock(today, NOW)} ({clock(past, NOW)}, 2026-11-24, T1Z)"
