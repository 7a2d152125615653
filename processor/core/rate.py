"""Rates and limits of tasks: how often and how many at once, over all workers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from processor.core.errors import BadInput
from processor.core.names import check_labels, check_name

__all__ = ["MOST", "Limit", "Rate"]

MOST: Final = 100_000_000  # of a rate: times a day of milliseconds it still is a whole number in Lua's doubles
MOST_PLACES: Final = 100_000  # of a limit: the server keeps one member for each
_UNITS: Final = {
    **dict.fromkeys(("s", "sec", "second"), 1_000),
    **dict.fromkeys(("min", "minute"), 60_000),
    **dict.fromkeys(("h", "hour"), 3_600_000),
    **dict.fromkeys(("d", "day"), 86_400_000),
}
_RATE: Final = re.compile(r"([0-9]{1,12}) ?/ ?([a-z]+)", re.ASCII)


def _key(task: str, labels: Mapping[str, str], by: str | None, name: str | None) -> str:
    """Where it is counted. A name has no `=`, so that no name looks as another one's label."""
    whole = f"name:{name}" if name is not None else f"task:{task}"
    return whole if by is None else f"{whole}:{by}={labels.get(by, '')}"


def _check(what: str, by: str | None, name: str | None) -> None:
    if by is not None:
        check_labels({by: ""}, field=f"{what}'s by")
    if name is not None:
        check_name(name, what, field=f"{what}'s name")


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in a second, minute, hour or day: `60/min`, `5/s`, `90000/min`, `1000/h`, `10000/day`.

    They may come at once, up to `burst` of them; then one comes free every minute / 60. So in a time t at most
    burst + 60 * t / min pass. A smaller burst spreads them: burst=1 never lets two pass at once.
    Raises BadInput.
    """

    per: str
    by: str | None = None  # a label: counted for each of its values; runs without it are counted together
    name: str | None = None  # counted together with whatever has a rate of this name; by default each task by itself
    burst: int = 0  # 0: as many as its time has
    count: int = field(init=False, repr=False)
    period_ms: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        found = _RATE.fullmatch(self.per.strip()) if isinstance(self.per, str) else None
        if found is None or found[2] not in _UNITS:
            raise BadInput(
                f"rate is {self.per!r}, which is no rate.",
                remedy="Give how many and in which time: 60/min, 5/s, 90000/min, 1000/h or 10000/day.",
                field="rate",
                value=str(self.per),
            )
        count = int(found[1])
        if not 1 <= count <= MOST:
            raise BadInput(
                f"rate is {self.per!r}; from 1 to {MOST} are possible.",
                remedy="Rarer than once in a second is said with a longer time: 30/min, 1/day.",
                field="rate",
                value=self.per,
            )
        if not _is_whole(self.burst) or not 0 <= self.burst <= MOST:
            raise BadInput(
                f"burst is {self.burst!r}; give how many may come at once, 1 to {MOST}.",
                remedy="Without it as many may as the rate's time has.",
                field="burst",
                value=str(self.burst),
            )
        _check("rate", self.by, self.name)
        object.__setattr__(self, "count", count)
        object.__setattr__(self, "burst", self.burst or count)
        object.__setattr__(self, "period_ms", _UNITS[found[2]])

    @classmethod
    def of(cls, rate: Rate | str | None) -> Rate | None:
        """What `rate=` of a task was given. Raises BadInput."""
        return rate if rate is None or isinstance(rate, Rate) else cls(rate)

    @property
    def interval_ms(self) -> float:
        """Between two turns, once the burst is used up."""
        return self.period_ms / self.count

    def key(self, task: str, labels: Mapping[str, str]) -> str:
        """Behind `rate:`; equal ones are counted together."""
        return _key(task, labels, self.by, self.name)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many executions at once, over all workers. Raises BadInput."""

    at_most: int
    by: str | None = None  # a label: so many for each of its values; runs without it share their places
    name: str | None = None  # shared with whatever has a limit of this name; by default each task has its own

    def __post_init__(self) -> None:
        if not _is_whole(self.at_most) or not 1 <= self.at_most <= MOST_PLACES:
            raise BadInput(
                f"limit is {self.at_most!r}; give how many may run at once, 1 to {MOST_PLACES}.",
                remedy="Without a limit as many run as the workers have places.",
                field="limit",
                value=str(self.at_most),
            )
        _check("limit", self.by, self.name)

    @classmethod
    def of(cls, limit: Limit | int | None) -> Limit | None:
        """What `limit=` of a task was given. Raises BadInput."""
        return limit if limit is None or isinstance(limit, Limit) else cls(limit)

    def key(self, task: str, labels: Mapping[str, str]) -> str:
        """Behind `limit:`; equal ones share their places."""
        return _key(task, labels, self.by, self.name)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
