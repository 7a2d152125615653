"""The registry of schedules: which task starts by itself and when, as workers registered it, and how far that has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, cast

from processor.core.errors import BadInput
from processor.core.json import dumps, loads
from processor.core.schedule import Misfire, Schedule
from processor.store.connection import execute, uncancelled
from processor.store.space import Scripted, Space, ms_of

__all__ = [
    "SEEN_MS",
    "Registered",
    "State",
    "advance",
    "list_schedules",
    "pause",
    "read_schedule",
    "register",
    "resume",
]

SEEN_MS: Final = 60_000  # how often a worker tells that it still has a schedule
_OLD_MS: Final = 300_000  # a definition that nobody told for so long gives way to another one
_ABANDONED_MS: Final = 86_400_000  # a task that nobody has for a day was taken out of the code

State = Literal["on", "paused", "abandoned", "ended", "unreadable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One schedule's record. Times in ms since 1970, by the server's clock."""

    name: str
    task: str
    cron: str | None = None
    every: float | None = None  # seconds
    timezone: str = "UTC"
    misfire: str = "skip"
    next: int | None = None  # the first time that was not dealt with; None: there is none any more
    paused: bool = False
    last: int | None = None  # the last time that a run was started for
    seen: int = 0  # when a worker told last that it has this

    @property
    def schedule(self) -> Schedule:
        """Raises BadInput: another release, or a machine with other time zones, may have written it."""
        return Schedule(self.cron, self.every, self.timezone, cast("Misfire", self.misfire))

    @property
    def when(self) -> str:
        """For eyes: `*/5 * * * * Europe/Berlin`, `every 90 s`."""
        if self.every is not None:
            return f"every {self.every:g} s"
        return f"{self.cron} {self.timezone}" if self.timezone != "UTC" else f"{self.cron}"

    def state(self, now: int) -> State:
        """`abandoned`: no worker has registered it for a day, so it is not fired any more; `ended`: it has no time left."""
        if self.paused:
            return "paused"
        if now - self.seen > _ABANDONED_MS:
            return "abandoned"
        try:
            _ = self.schedule
        except BadInput:
            return "unreadable"
        return "ended" if self.next is None else "on"

    def json(self) -> bytes:
        """As it is stored: members without a value are left out; the name is the field's."""
        return dumps({name: value for name, value in self._members().items() if value is not None})

    def _members(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _MEMBERS}

    @classmethod
    def parse(cls, name: str, data: bytes) -> Registered | None:
        """None for what no release wrote. Members that a newer release added are left out."""
        try:
            said = loads(data)
            return cls(name=name, **{member: said[member] for member in _MEMBERS if member in said})
        except (ValueError, TypeError):
            return None


_MEMBERS: Final = ("task", "cron", "every", "timezone", "misfire", "next", "paused", "last", "seen")


async def list_schedules(space: Space) -> tuple[int, list[Registered]]:
    """The server's time in ms, and all schedules by name. One round trip."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HGETALL", space.keys.schedules)
        time, reply = await uncancelled(untyped.execute())
    pairs = reply.items() if isinstance(reply, Mapping) else zip(reply[::2], reply[1::2], strict=True)
    records = (Registered.parse(name.decode(), data) for name, data in sorted(pairs))
    return ms_of(time), [record for record in records if record is not None]


async def read_schedule(space: Space, name: str) -> Registered | None:
    data = await execute(space.redis, "HGET", space.keys.schedules, name)
    return Registered.parse(name, data) if data else None


Change = Callable[[Registered | None, int], Registered | None]  # record and the server's time → what it becomes


async def _change(space: Scripted, name: str, change: Change) -> Registered | None:
    """The record as it is afterwards. change is asked again when somebody else was faster; None: leave it as it is."""
    now = ms_of(await execute(space.redis, "TIME"))
    data: bytes = await execute(space.redis, "HGET", space.keys.schedules, name) or b""
    while True:
        before = Registered.parse(name, data) if data else None
        after = change(before, now)
        if after is None or after == before:
            return before
        said = await space.scripts.call("schedule", [space.keys.schedules], [name, data, after.json()])
        if said[0] == b"written":
            return after
        data = said[1]


async def register(space: Scripted, name: str, task: str, schedule: Schedule, *, first: bool) -> Registered:
    """Tells that a worker has this schedule: at its start (first), and every SEEN_MS.

    What a starting worker brings counts. A running one with another definition, an older release say, brings it back only
    when nobody has told the newer one for five minutes. A pause stays.
    """
    wanted = _record(name, task, schedule)

    def change(before: Registered | None, now: int) -> Registered:
        if before is None:
            return replace(wanted, seen=now, next=schedule.next_after(now))
        if _definition(before) == _definition(wanted):
            return before if now - before.seen < SEEN_MS // 2 else replace(before, seen=now)
        if not first and now - before.seen < _OLD_MS:
            return before
        goes_on = _times(before) == _times(wanted)
        return replace(
            wanted,
            seen=now,
            next=before.next if goes_on else schedule.next_after(now),
            paused=before.paused,
            last=before.last,
        )

    record = await _change(space, name, change)
    assert record is not None, "change never leaves it out"
    return record


def _record(name: str, task: str, schedule: Schedule) -> Registered:
    return Registered(
        name=name,
        task=task,
        cron=schedule.cron,
        every=schedule.every_seconds,
        timezone=schedule.timezone,
        misfire=schedule.misfire,
    )


def _times(record: Registered) -> tuple[object, ...]:
    return record.cron, record.every, record.timezone


def _definition(record: Registered) -> tuple[object, ...]:
    return record.task, record.misfire, *_times(record)


async def pause(space: Scripted, name: str) -> Registered | None:
    """Nothing is started for times that come from now on. None for an unknown name."""
    return await _change(space, name, lambda before, _: before and replace(before, paused=True))


async def resume(space: Scripted, name: str) -> Registered | None:
    """Times that passed during the pause are not missed ones: it goes on with the next. None for an unknown name.

    Raises BadInput for a record that cannot be read here.
    """

    def change(before: Registered | None, now: int) -> Registered | None:
        if before is None or not before.paused:
            return before
        return replace(before, paused=False, next=before.schedule.next_after(now))

    return await _change(space, name, change)


async def advance(space: Scripted, seen: Registered, *, next: int | None, last: int | None) -> None:
    """What is before `next` was dealt with. seen: the record that this was decided on; somebody who was faster wins."""

    def change(before: Registered | None, _: int) -> Registered | None:
        if before is None or before.next != seen.next or _times(before) != _times(seen):
            return before
        return replace(before, next=next, last=last if last is not None else before.last)

    await _change(space, seen.name, change)
