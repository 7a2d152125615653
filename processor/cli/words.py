"""Durations, times, labels and JSON as people type them, and times as people read them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from processor.core.ago import ago
from processor.core.cursor import FeedId
from processor.core.errors import BadCursor, BadInput
from processor.core.names import check_labels

__all__ = [
    "Place",
    "clock",
    "in_local_time",
    "parse_duration",
    "parse_json",
    "parse_labels",
    "parse_place",
    "parse_time",
    "took",
]

ANY_JSON = """Quote it for the shell: '{"text": "hello"}', '"a string"', 42 or null."""
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}


def parse_duration(text: str, *, field: str) -> float:
    """Seconds of `30s`, `5m`, `1.5h`, `2d`, `500ms`; a bare number is seconds. Raises BadInput."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d|)", text.strip())
    if not found:
        remedy = "Give a number and a unit: 500ms, 30s, 5m, 2h or 1d."
        raise BadInput(f"{field} is {text!r}, which is no duration.", remedy=remedy, field=field, value=text)
    return float(found[1]) * _UNITS[found[2]]


def parse_time(text: str, now: datetime, *, field: str) -> datetime:
    """A moment: so long ago (`10m`), or a date and time (UTC unless it says otherwise; a time alone is today, local).

    now: aware. Raises BadInput.
    """
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?(ms|s|m|h|d)", text):
        return now - timedelta(seconds=parse_duration(text, field=field))
    try:
        if re.fullmatch(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?", text):
            local = now.astimezone()
            hours, minutes, *seconds = text.split(":")
            whole = float(seconds[0]) if seconds else 0.0
            start = local.replace(hour=int(hours), minute=int(minutes), second=0, microsecond=0)
            return start + timedelta(seconds=whole)
        moment = datetime.fromisoformat(text)
    except ValueError:
        remedy = "Give how long ago (10m, 2h), a time of today (14:05:30) or 2026-11-24T14:05:30Z."
        raise BadInput(f"{field} is {text!r}, which is no time.", remedy=remedy, field=field, value=text) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Place:
    """A place in a feed: a seq, a feed ID or a moment."""

    __slots__ = ("ms", "seq")

    def __init__(self, *, seq: int | None = None, ms: int | None = None) -> None:
        self.seq, self.ms = seq, ms

    def before(self, id: FeedId) -> bool:
        """Whether the place lies before this event (a place at the event itself does not)."""
        return id.seq > self.seq if self.seq is not None else id.ms > (self.ms or 0)

    def after(self, id: FeedId) -> bool:
        return id.seq < self.seq if self.seq is not None else id.ms < (self.ms or 0)


def parse_place(text: str, now: datetime, *, field: str) -> Place:
    """`42`, `42-1795506276265`, or what parse_time takes. Raises BadInput."""
    if re.fullmatch(r"[0-9]{1,16}", text):
        return Place(seq=int(text))
    if re.fullmatch(r"[0-9]{1,16}-[0-9]{1,16}", text):
        return Place(seq=FeedId.parse(text).seq)
    try:
        return Place(ms=int(parse_time(text, now, field=field).timestamp() * 1000))
    except BadInput as error:
        remedy = "Give an event's number (42), its id (42-1795506276265), 14:05:30 or how long ago (10m)."
        raise BadCursor(f"{field} is {text!r}, which is no place.", remedy=remedy, field=field, value=text) from error


def parse_labels(pairs: Sequence[str]) -> Mapping[str, str]:
    """`user=ada` each. Raises BadInput."""
    labels: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise BadInput(
                f"--label is {pair!r}.", remedy="Give name=value, such as user=ada.", field="--label", value=pair
            )
        labels[name] = value
    return check_labels(labels, field="--label")


def parse_json(text: str, *, field: str, remedy: str = ANY_JSON) -> object:
    """Raises BadInput with the place of the fault."""

    def refuse(word: str) -> object:
        raise ValueError(f"{word} is not JSON")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError as error:
        raise BadInput(f"{field} is no JSON: {error}.", remedy=remedy, field=field, value=text[:200]) from None


def took(seconds: float) -> str:
    """`630 ms`, `3.2 s`, and longer ones as `ago` has them."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else ago(seconds)


def clock(moment: datetime, now: datetime) -> str:
    """Local time for eyes: `14:05:30` of today, else with the date."""
    local, today = moment.astimezone(), now.astimezone()
    return local.strftime("%H:%M:%S" if local.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def in_local_time(text: str, now: datetime) -> str:
    """The text with its UTC times (RFC 3339) as `clock` has them."""
    return _UTC.sub(lambda found: clock(datetime.fromisoformat(found[0]), now), text)
