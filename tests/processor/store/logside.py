"""A log with groups: events come through append, what members do is done by hand, as react.lua does it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from processor.client.session import Session
from processor.core.events import compose, draft
from processor.core.json import dumps
from processor.core.keys import PartitionKeys
from processor.core.routing import Binding
from processor.store.groups import Declared, bind
from processor.store.scripts import Batch
from processor.store.standings import Position, Standing, read_groups
from tests.support.servers import TestServer

__all__ = ["LogSide", "letter"]

_numbers = itertools.count(1)


class LogSide:
    """Of a namespace. Close it."""

    def __init__(self, server: TestServer, session: Session) -> None:
        self.client = cast("Any", server.client())  # redis-py's own types are unions that nobody wants to narrow
        self.session = session
        self.keys = session.keys
        for part in self.keys.partitions:
            self.client.hset(part.meta, "layout", self.keys.layout)

    def close(self) -> None:
        self.client.close()

    # -- what members and producers do

    async def bind(
        self,
        group: str,
        *patterns: str,
        mode: Literal["shared", "ordered"] = "shared",
        start: Literal["first", "now"] = "first",
        when_behind: Literal["detach", "refuse"] = "detach",
    ) -> None:
        bindings = [Binding(pattern) for pattern in patterns or ("#",)]
        await bind(self.session, Declared(group, mode, bindings, start=start, when_behind=when_behind))

    async def emit(self, run: str, count: int = 1, type: str = "usage", data: bytes = b"{}") -> None:
        """Events, in calls of 200 by a producer of its own each."""
        while count > 0:
            batch = Batch(run, f"p:{next(_numbers)}", 0, 1, [draft(type, data)] * min(count, 200))
            word, found = await self.session.scripts.append(self.keys.of(run), self.keys.layout, [batch])
            assert (word, {outcome.split(" ")[0] for outcome in found[0]}) == ("ok", {"appended"}), found
            count -= 200

    def read(self, group: str, run: str, count: int, consumer: str = "m") -> list[str]:
        """Entries that a member is given, of the run's partition."""
        reply = self.client.xreadgroup(group, consumer, {self.keys.of(run).log: ">"}, count=count)
        return [id.decode() for _, entries in reply for id, _ in entries]

    def ack(self, group: str, run: str, entries: Sequence[str]) -> None:
        assert self.client.xack(self.keys.of(run).log, group, *entries) == len(entries)

    def fail(self, group: str, run: str, entry: str, *, due: int) -> None:
        """The entry goes into `delayed`, due at that time (ms)."""
        keys = self.keys.of(run)
        [(_, held)] = self.client.xrange(keys.log, entry, entry)
        self.ack(group, run, [entry])
        member = f"{group}\n{entry}"
        self.client.hset(keys.delayed_body, member, b"%b\n%b\n1\n%b" % (held[b"r"], held[b"i"], held[b"e"]))
        self.client.zadd(keys.delayed, {member: due})
        self.client.hincrby(keys.meta, f"w:{group}", 1)

    def lease(self, group: str, run: str, **fields: str) -> None:
        self.client.hset(
            self.keys.of(run).lease(group), mapping={"token": "3-aa", "owner": "m", "until": "9", **fields}
        )

    # -- what there is

    def part(self, run: str) -> PartitionKeys:
        return self.keys.of(run)

    def entries(self, run: str) -> list[str]:
        return [id.decode() for id, _ in self.client.xrange(self.keys.of(run).log)]

    def meta(self, run: str) -> Mapping[str, str]:
        """But for the layout."""
        found = self.client.hgetall(self.keys.of(run).meta)
        return {name.decode(): value.decode() for name, value in found.items() if name != b"layout"}

    async def standing(self, group: str) -> Standing:
        [found] = (await read_groups(self.session, [group])).all
        return found

    async def position(self, group: str, run: str) -> Position:
        return (await self.standing(group)).positions[self.keys.number(run)]

    async def figures(self, group: str, run: str) -> tuple[int, int, int]:
        """Lag, pending and delayed in the run's partition."""
        found = await self.position(group, run)
        return found.lag, found.pending, found.delayed


def letter(
    side: LogSide,
    group: str,
    run: str,
    seq: int = 1,
    *,
    died: int,
    error: str = "KeyError: 'price'",
    reason: str = "error",
    attempts: int = 3,
    traceback: str | None = None,
    labels: Mapping[str, str] | None = None,
    type: str = "order.paid",
    data: Any = None,
) -> str:
    """A dead letter of a reaction, died at that time (ms). Returns its entry ID."""
    failure = {"error": error, "reason": reason, "attempts": attempts} | ({"traceback": traceback} if traceback else {})
    event = compose(type, dumps(data if data is not None else {"cents": 500}), labels=labels)
    fields = {"r": run, "i": f"{seq}-{max(1, died - 60_000)}", "e": event, "f": dumps(failure)}
    name = side.keys.of(run).dead_group(group)
    return str(side.client.xadd(name, fields, id=f"{died}-{next(_numbers)}").decode())
