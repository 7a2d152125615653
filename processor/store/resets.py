"""Groups that go on at another place of the log (reset.lua), or are taken away (unbind.lua).

Both are safe while members run: what is in their hands is settled by nobody any more, so its effects do not happen; who reads
meets NOGROUP or a fence, and asks again.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from processor.core.keys import PartitionKeys
from processor.store.connection import execute
from processor.store.reacting import Delivery
from processor.store.space import Scripted, Space

__all__ = ["NOBODY", "Deleted", "Moved", "Place", "current", "delete_group", "reset_group"]

log = structlog.get_logger("tailrace.groups")
NOBODY: Final = "\n"  # no group's name: what is for it is acknowledged unhandled
_ENTRY: Final = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group is to go on: `start` (the first entry still there), `end` (the next one to come), or the first from an entry ID."""

    text: str

    @classmethod
    def at(cls, ms: int) -> Place:
        """The first entry of that time or later."""
        return cls(f"{ms}-0")

    @property
    def entry(self) -> _Entry | None:
        return _Entry.parse(self.text) if _ENTRY.fullmatch(self.text) else None


class _Entry(NamedTuple):
    """An ID of a log, compared as two integers."""

    ms: int
    number: int

    @classmethod
    def parse(cls, text: str) -> _Entry:
        ms, _, number = text.partition("-")
        return cls(int(ms), int(number))


@dataclass(frozen=True, slots=True)
class Moved:
    """What a reset did in one partition."""

    partition: int
    given: str  # the entry behind which the group goes on
    first: str  # first entry still there, "" in an empty log
    acknowledged: int  # entries that were in members' hands
    dropped: int  # retries that waited

    def lacks(self, place: Place) -> bool:
        """Whether events that should have come are gone: the wanted place lies before the first entry, and others were before that."""
        wanted = place.entry
        if wanted is None:
            return False
        if not self.first:
            return wanted <= _Entry.parse(self.given)
        first = _Entry.parse(self.first)
        return wanted < first and first.number > 1


class Deleted(NamedTuple):
    """What was taken away with a group."""

    pending: int
    dropped: int  # retries that waited


async def reset_group(space: Scripted, group: str, place: Place, partitions: Iterable[int]) -> list[Moved]:
    """A step for each partition; partitions that do not have the group are left out. Raises redis-py's errors."""
    moved = []
    for number in partitions:
        keys = space.keys.partitions[number]
        nonce = secrets.token_hex(4)
        word, *said = await space.scripts.call("reset", _keys(keys, group), [group, place.text, nonce])
        if word == b"reset":
            given, first, acknowledged, dropped = said
            moved.append(Moved(number, given.decode(), first.decode(), acknowledged, dropped))
    log.info("group_reset", group=group, to=place.text, partitions=[one.partition for one in moved])
    return moved


async def current(space: Space, group: str, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    """The same, but retries that a reset dropped are for NOBODY: their events stand in the log too, or lie before the reset.

    Nothing is asked where no retry is among them. Raises redis-py's errors.
    """
    partitions = {one.partition for one in deliveries if one.group == group}
    marks = {number: await _mark(space, group, number) for number in partitions}
    if not any(marks.values()):
        return deliveries
    return [
        one._replace(group=NOBODY)
        if one.group == group and (mark := marks[one.partition]) and _Entry.parse(one.entry) <= mark
        else one
        for one in deliveries
    ]


async def _mark(space: Space, group: str, partition: int) -> _Entry | None:
    found = await execute(space.redis, "HGET", space.keys.partitions[partition].meta, f"reset:{group}")
    return _Entry.parse(found.decode()) if found else None


async def delete_group(space: Scripted, group: str) -> Deleted:
    """A step for each partition, then the namespace's record: what was begun and broke off is finished by the next call.

    Its dead letters stay. Raises redis-py's errors.
    """
    pending = dropped = 0
    for keys in space.keys.partitions:
        word, *said = await space.scripts.call("unbind", _keys(keys, group), [group])
        if word == b"unbound":
            pending += said[0]
            dropped += said[1]
    await execute(space.redis, "HDEL", space.keys.groups, group)
    await execute(space.redis, "DEL", space.keys.group(group), space.keys.members(group))
    log.info("group_deleted", group=group, pending=pending, dropped=dropped)
    return Deleted(pending, dropped)


def _keys(keys: PartitionKeys, group: str) -> list[str]:
    return [keys.meta, keys.log, keys.delayed, keys.delayed_body, keys.lease(group)]
