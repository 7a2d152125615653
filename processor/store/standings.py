"""How groups stand: what each has still to handle of the log, how old that is, and who handles it.

All figures come from counters of our own. Entries of a log are numbered without holes (`<ms>-<number>`), so what lies between
two of them needs no counting; XINFO's own lag is null or wrong after trims and deletes. Only entries that somebody deletes by
hand (XDEL) are counted until the group has passed them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from redis.exceptions import ResponseError

from processor.core.worker import Workers, WorkerState
from processor.store.connection import uncancelled
from processor.store.space import Space
from processor.store.workers import read_workers

__all__ = ["Group", "Groups", "Position", "Standing", "read_groups"]

SAMPLE: Final = 1_000  # of what is delayed in a partition: the oldest retry is looked for among those due first


@dataclass(frozen=True, slots=True)
class Group:
    """What a group is, as its members told it; "" and 0 where the record is lost, until one tells again."""

    name: str
    mode: str = ""  # shared | ordered
    when_behind: str = ""  # detach | refuse
    start: str = ""  # first | now: where it began
    created: int = 0  # ms
    bindings: Mapping[str, int] = field(default_factory=dict)  # binding → when a member told it last (ms)

    @property
    def told(self) -> int:
        """When a member told anything last, 0 if none ever did (ms)."""
        return max(self.bindings.values(), default=0)


@dataclass(frozen=True, slots=True)
class Position:
    """Of a group in one partition."""

    partition: int
    bound: bool = False  # the group reads the partition's log
    delivered: str = "0-0"  # entry that it was given last
    lag: int = 0  # entries that it was not given yet
    pending: int = 0  # given to a member, not settled
    delayed: int = 0  # retries that wait for their time
    oldest: int | None = None  # when the first of these came into the log (ms)
    dead: int = 0  # letters
    cut: str = ""  # first entry that was left when the log was cut while the group was behind
    owner: str = ""  # member that has the lease, of an ordered group
    until: int = 0  # when the lease ends unless it is renewed (ms)

    @property
    def backlog(self) -> int:
        return self.lag + self.pending + self.delayed


@dataclass(frozen=True, slots=True)
class Standing:
    """Of one group, over all partitions."""

    now: int  # the server's time (ms)
    group: Group
    members: Sequence[WorkerState]  # live workers that run its reactions
    last_member: WorkerState | None  # of those gone
    positions: Sequence[Position]

    @property
    def lag(self) -> int:
        return sum(position.lag for position in self.positions)

    @property
    def pending(self) -> int:
        return sum(position.pending for position in self.positions)

    @property
    def delayed(self) -> int:
        return sum(position.delayed for position in self.positions)

    @property
    def backlog(self) -> int:
        return self.lag + self.pending + self.delayed

    @property
    def dead(self) -> int:
        return sum(position.dead for position in self.positions)

    @property
    def cut(self) -> list[int]:
        """Partitions in which events went before the group had them."""
        return [position.partition for position in self.positions if position.cut]

    @property
    def oldest_ms(self) -> int:
        """How long ago the first event of the backlog came; 0 without one."""
        return max((self.age_ms(position) for position in self.positions), default=0)

    def age_ms(self, position: Position) -> int:
        return 0 if position.oldest is None else max(0, self.now - position.oldest)

    @property
    def unattended(self) -> bool:
        """Events wait, and no live worker has the group."""
        return self.backlog > 0 and not self.members


@dataclass(frozen=True, slots=True)
class Groups:
    """The workers there are, and the groups by name."""

    workers: Workers
    all: Sequence[Standing] = ()


class _Place(NamedTuple):
    group: str
    partition: int


class _Reader(NamedTuple):
    """A group of a log, as XINFO tells it."""

    pending: int
    delivered: str


class _Log(NamedTuple):
    length: int
    readers: Mapping[str, _Reader]


async def read_groups(space: Space, names: Iterable[str] | None = None) -> Groups:
    """Four round trips, whatever the number of groups. names: only these, where there are such; None: all."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        untyped.execute_command("TIME")
        untyped.execute_command("HGETALL", space.keys.workers)
        untyped.execute_command("HKEYS", space.keys.groups)
        for keys in space.keys.partitions:
            untyped.execute_command("XLEN", keys.log)
            untyped.xinfo_groups(keys.log)
        time, said, recorded, *replies = await uncancelled(untyped.execute(raise_on_error=False))
    for reply in (time, said, recorded):
        if isinstance(reply, Exception):
            raise reply
    workers = read_workers(time, said)
    logs = [_log(*replies[n : n + 2]) for n in range(0, len(replies), 2)]
    known = {name.decode() for name in recorded}.union(*(log.readers for log in logs))
    groups = await _records(space, sorted(known if names is None else known & set(names)))
    positions = await _with_ages(space, await _positions(space, groups, logs))
    return Groups(workers, [_standing(workers, group, positions) for group in groups])


def _standing(workers: Workers, group: Group, positions: Mapping[_Place, Position]) -> Standing:
    own = [position for place, position in positions.items() if place.group == group.name]
    return Standing(workers.now, group, workers.members(group.name), workers.last_member(group.name), own)


def _log(length: Any, readers: Any) -> _Log:
    if isinstance(length, Exception):
        raise length
    if isinstance(readers, Exception):
        if not isinstance(readers, ResponseError):  # that there is no such key
            raise readers
        return _Log(0, {})
    found = {}
    for reader in readers:
        found[reader["name"].decode()] = _Reader(reader["pending"], reader["last-delivered-id"].decode())
    return _Log(length, found)


async def _records(space: Space, names: Sequence[str]) -> list[Group]:
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for name in names:
            untyped.hgetall(space.keys.group(name))
        records = await uncancelled(untyped.execute())
    return [_group(name, record) for name, record in zip(names, records, strict=True)]


def _group(name: str, record: Mapping[bytes, bytes]) -> Group:
    said = {key.decode(): value.decode() for key, value in record.items()}
    return Group(
        name,
        mode=said.get("mode", ""),
        when_behind=said.get("behind", ""),
        start=said.get("start", ""),
        created=int(said.get("created", 0)),
        bindings={key[2:]: int(value) for key, value in sorted(said.items()) if key.startswith("b:")},
    )


async def _positions(space: Space, groups: Sequence[Group], logs: Sequence[_Log]) -> dict[_Place, Position]:
    """Of each group in each partition, but for the age."""
    places = [_Place(group.name, number) for group in groups for number in range(len(logs))]
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for name, number in places:
            keys = space.keys.partitions[number]
            untyped.hmget(keys.meta, "logged", f"g:{name}", f"w:{name}", f"cut:{name}")
            untyped.xlen(keys.dead_group(name))
            untyped.hmget(keys.lease(name), "owner", "until")
        replies = await uncancelled(untyped.execute())
    return {
        place: _position(place, logs[place.partition], *replies[3 * at : 3 * at + 3]) for at, place in enumerate(places)
    }


def _position(place: _Place, log: _Log, of_meta: Any, dead: int, lease: Any) -> Position:
    logged, bound, delayed, cut = of_meta
    owner, until = lease
    reader = log.readers.get(place.group)
    delivered = reader.delivered if reader else "0-0"
    behind = int(logged or 0) - int(delivered.partition("-")[2])
    return Position(
        partition=place.partition,
        bound=bound is not None and reader is not None,
        delivered=delivered,
        lag=max(0, min(behind, log.length)) if reader else 0,
        pending=reader.pending if reader else 0,
        delayed=max(0, int(delayed or 0)),
        dead=dead,
        cut=(cut or b"").decode(),
        owner=(owner or b"").decode(),
        until=int(until or 0),
    )


async def _with_ages(space: Space, positions: Mapping[_Place, Position]) -> dict[_Place, Position]:
    """With when the first entry of each one's lag, of what is pending and of the retries came into the log."""
    asked: list[tuple[_Place, str]] = []
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for place, found in positions.items():
            keys = space.keys.partitions[place.partition]
            if found.lag:
                asked.append((place, "lag"))
                untyped.xrange(keys.log, f"({found.delivered}", "+", count=1)
            if found.pending:
                asked.append((place, "pending"))
                untyped.xpending_range(keys.log, place.group, "-", "+", 1)
            if found.delayed:
                asked.append((place, "delayed"))
                untyped.zrange(keys.delayed, 0, SAMPLE - 1)
        replies = await uncancelled(untyped.execute(raise_on_error=False))
    dates: dict[_Place, list[int]] = {place: [] for place in positions}
    for (place, what), reply in zip(asked, replies, strict=True):
        if isinstance(reply, Exception) and not isinstance(reply, ResponseError):  # that the group went meanwhile
            raise reply
        dates[place] += _dates(what, reply, place.group)
    return {place: replace(found, oldest=min(dates[place], default=None)) for place, found in positions.items()}


def _dates(what: str, reply: Any, group: str) -> list[int]:
    if isinstance(reply, Exception):
        return []
    if what == "delayed":
        head = f"{group}\n".encode()
        ids = [member[len(head) :] for member in reply if member.startswith(head)]
    else:
        ids = [row[0] if what == "lag" else row["message_id"] for row in reply]
    return [int(id.partition(b"-")[0]) for id in ids]
