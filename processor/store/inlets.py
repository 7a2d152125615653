"""An inlet's two ends: the foreign stream, which is only read, and the partitions, which take its entries (relay.lua).

Nothing is read through a consumer group: a process that was frozen could take entries away from the others. Reads and
appends go over connections of their own; nothing is sent again by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from processor.core.chain import Outcome
from processor.core.inlet import NOTHING, Letter, Parcel
from processor.core.json import dumps
from processor.store.line import Line
from processor.store.scripts import Packing
from processor.store.space import Scripted
from processor.store.writer import refusal

__all__ = ["RawEntry", "Source", "State", "Stream", "Target"]

ANSWER_SECONDS: Final = 5.0  # behind the end of a block
LETTER_BYTES: Final = 64 * 1024  # of an entry's fields that a dead letter keeps
LETTER_FIELDS: Final = 256

RawEntry = tuple[str, list[bytes]]  # ID; names and values in turn


@dataclass(frozen=True, slots=True)
class Stream:
    """What the server tells of a foreign stream. added: entries that it ever had, -1 where the server does not tell."""

    length: int = 0
    added: int = 0
    first: str = NOTHING  # entry that it still has
    end: str = NOTHING  # the last one that it still has
    last: str = NOTHING  # the last one that it ever had
    deleted: str = NOTHING  # greatest entry that was deleted from its midst


class Source:
    """A foreign stream. Its line is for nothing else: it is blocked while nothing comes."""

    def __init__(self, line: Line, key: str) -> None:
        self._line, self.key = line, key

    async def read(self, after: str, count: int, *, seconds: float) -> list[RawEntry]:
        """Entries behind that one; waits so long for the first. Raises ServerError."""
        command = ("XREAD", "COUNT", count, "BLOCK", int(seconds * 1000), "STREAMS", self.key, after)
        reply = await self._line.call(*command, seconds=seconds + ANSWER_SECONDS)
        if not reply:
            return []
        return [(id.decode(), fields) for id, fields in reply[0][1]]

    async def look(self) -> Stream:
        """Empty where there is none yet. Raises ServerError."""
        if not await self._line.call("EXISTS", self.key):
            return Stream()
        info = await self._line.call("XINFO", "STREAM", self.key)
        told = {name.decode(): value for name, value in zip(info[::2], info[1::2], strict=True)}
        first, end = told.get("first-entry"), told.get("last-entry")
        return Stream(
            length=told["length"],
            added=told.get("entries-added", -1),
            first=first[0].decode() if first else NOTHING,
            end=end[0].decode() if end else NOTHING,
            last=told["last-generated-id"].decode(),
            deleted=told.get("max-deleted-entry-id", b"0-0").decode(),
        )


@dataclass(frozen=True, slots=True)
class State:
    """How far an inlet is, as it was noted."""

    stream: str
    done: str = NOTHING
    added: int | None = None  # entries that the stream ever had up to there
    marks: Mapping[int, str] = field(default_factory=dict)  # of the partitions, when all up to `done` was dealt with

    @classmethod
    def parse(cls, held: Mapping[str, str]) -> State | None:
        if not held:
            return None
        added = held.get("added", "")
        marks = {int(name): mark for name, mark in held.items() if name.isdigit()}
        return cls(held["stream"], held["done"], int(added) if added else None, marks)


class Target:
    """The partitions of a namespace, as one inlet sees them."""

    def __init__(
        self,
        space: Scripted,
        line: Line,
        name: str,
        *,
        relaid: Callable[[int, str], Awaitable[object]],
    ) -> None:
        """relaid: is told the layout that a partition has, if it is not the namespace's."""
        self._space, self._line, self.name = space, line, name
        self._source = f"in:{name}"
        self._relaid = relaid

    async def marks(self) -> list[str]:
        """By partition, the last entry that it took. Raises ServerError."""
        found = await asyncio.gather(
            *(self._line.call("HGET", keys.marks, self._source) for keys in self._space.keys.partitions)
        )
        return [mark.decode() if mark else NOTHING for mark in found]

    async def state(self) -> State | None:
        """None: it was never noted. Raises ServerError."""
        held = await self._line.call("HGETALL", self._space.keys.inlet(self.name))
        texts = [text.decode() for text in held]
        return State.parse(dict(zip(texts[::2], texts[1::2], strict=True)))

    async def note(self, state: State) -> str:
        """noted, behind, or `other <stream>`. Raises ServerError."""
        script = self._space.scripts.named("inlet")
        args: list[str | int] = [state.stream, state.done, "" if state.added is None else state.added]
        for number, mark in state.marks.items():
            args += (number, mark)
        key = self._space.keys.inlet(self.name)
        reply: bytes = await self._line.script(script, b"EVALSHA", script.sha, 1, key, *args)
        return reply.decode()

    async def send(self, partition: int, parcels: Sequence[Parcel]) -> list[str]:
        """What became of each, as far as they were looked at. Raises ServerError."""
        letter = parcels[0].letter
        if letter is not None:
            return [await self._set_aside(partition, parcels[0], letter)]
        keyspace, scripts = self._space.keys, self._space.scripts
        keys = keyspace.partitions[partition]
        call = Packing.of(keys, keys.marks)
        call.args.append(self._source)
        for parcel in parcels:
            call.add_run(parcel.run)
            call.args += (parcel.before, parcel.id, parcel.run)
            items = parcel.items
            call.add_events(items[0].events if len(items) == 1 else [one for item in items for one in item.events])
        script = scripts.named("relay")
        command = call.command(script, keyspace.layout, scripts.limits)
        answers = [answer.decode() for answer in await self._line.script(script, *command)]
        if answers[0].startswith("topology"):
            await self._relaid(partition, answers[0].partition(" ")[2])
            if self._space.keys.layout == keyspace.layout:  # it had none yet
                answers = [answer.decode() for answer in await self._line.script(script, *command)]
        return answers

    async def _set_aside(self, partition: int, parcel: Parcel, letter: Letter) -> str:
        keys, limits = self._space.keys.partitions[partition], self._space.scripts.limits
        script = self._space.scripts.named("set_aside")
        names = (keys.marks, keys.dead_group(self.name))
        args = (self._source, parcel.before, parcel.id, limits.dead, *_letter_fields(parcel.id, letter))
        reply: bytes = await self._line.script(script, b"EVALSHA", script.sha, len(names), *names, *args)
        return reply.decode()


def _letter_fields(id: str, letter: Letter) -> list[bytes | str | int]:
    """What stands in a letter: `r` the run, `x` the entry, `f` why, as letters of groups have it, and the entry's own fields
    behind `f:`."""
    why = {"error": _error(letter), "reason": letter.kind, "attempts": 1}
    told: list[bytes | str | int] = ["r", letter.run, "x", id]
    told += ("f", dumps(why | ({"traceback": letter.traceback} if letter.traceback else {})))
    room, raw = LETTER_BYTES, letter.raw
    for at in range(0, len(raw), 2):
        room -= len(raw[at]) + len(raw[at + 1])
        if room < 0 or at == 2 * LETTER_FIELDS:
            told += ("cut", (len(raw) - at) // 2)
            break
        told += (b"f:" + raw[at], raw[at + 1])
    return told


def _error(letter: Letter) -> str:
    """In words: what a run says is an outcome as scripts write it."""
    word, _, rest = letter.reason.partition(" ")
    if letter.kind == "error" or word not in ("closed", "illegal", "busy", "exists"):
        return letter.reason
    return refusal(letter.run, "it", Outcome(word, detail=rest.partition(" ")[2])).message
