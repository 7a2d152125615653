"""Dead letters of tasks and of groups: found, looked into, given back, deleted.

A letter stands in a stream of its task or group and partition, whose entry IDs say when it was written. At the stream's limit
the oldest go.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Any, Final, NamedTuple

import structlog

from processor.core.events import Draft, draft
from processor.core.keys import PartitionKeys
from processor.core.partition import root_of
from processor.core.start import start_hash
from processor.core.ulid import ulid
from processor.store.connection import execute, uncancelled
from processor.store.letters import DeadLetter, Kind, Place
from processor.store.rates import Asking
from processor.store.scripts import Packing, partition_keys
from processor.store.space import Space

__all__ = [
    "DeadLetter",
    "Place",
    "Requeued",
    "Wanted",
    "counts",
    "find",
    "kinds_of",
    "letters",
    "purge",
    "read",
    "requeue",
    "threads",
]

log = structlog.get_logger("tailrace.dead")
PAGE: Final = 50  # letters of a stream read at once: each may have as many KiB as an event, and a traceback
REQUEUED_AT_ONCE: Final = 50  # letters of one call
PURGED_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant: of the task, of the group, or of both; of all where neither is named."""

    task: str | None = None
    group: str | None = None
    error: str | None = None  # a pattern of the error's text, as in a shell: Timeout*
    since_ms: int = 0  # dead since then

    def matches(self, letter: DeadLetter) -> bool:
        return self.error is None or fnmatchcase(letter.error, self.error)

    @property
    def sources(self) -> list[_Source]:
        """None where all are meant."""
        named: list[tuple[Kind, str | None]] = [("task", self.task), ("group", self.group)]
        return [_Source(kind, name) for kind, name in named if name is not None]


class _Source(NamedTuple):
    """Whose letters."""

    kind: Kind
    name: str

    def stream(self, keys: PartitionKeys) -> str:
        return keys.dead_task(self.name) if self.kind == "task" else keys.dead_group(self.name)


# Reading.


async def counts(space: Space) -> dict[str, int]:
    """Task → letters, of every task that has any. Walks the keyspace: for people and tools."""
    streams = [stream for stream in await _streams(space, Wanted()) if stream[1].kind == "task"]
    lengths = await _lengths(space, streams)
    found: dict[str, int] = {}
    for (_, source), length in zip(streams, lengths, strict=True):
        if length:
            found[source.name] = found.get(source.name, 0) + length
    return dict(sorted(found.items()))


async def kinds_of(space: Space, name: str) -> set[Kind]:
    """Whether letters of a task of that name are there, of a group, or of both."""
    streams = await _streams(space, Wanted(task=name, group=name))
    lengths = await _lengths(space, streams)
    return {source.kind for (_, source), length in zip(streams, lengths, strict=True) if length}


async def _lengths(space: Space, streams: Sequence[tuple[int, _Source]]) -> list[int]:
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for partition, source in streams:
            untyped.execute_command("XLEN", source.stream(space.keys.partitions[partition]))
        lengths: list[int] = await uncancelled(untyped.execute())
    return lengths


async def _streams(space: Space, wanted: Wanted) -> list[tuple[int, _Source]]:
    """Partition and source of every stream of letters; without a name the keyspace is walked, since no key lists them."""
    if wanted.sources:
        return [(number, source) for number in range(len(space.keys.partitions)) for source in wanted.sources]
    found = []
    patterns: list[tuple[Kind, str]] = [("task", space.keys.any_dead_task), ("group", space.keys.any_dead_group)]
    for kind, pattern in patterns:
        heads = [_Source(kind, "").stream(partition) for partition in space.keys.partitions]
        async for key in space.redis.scan_iter(match=pattern, count=1000):
            name = key.decode()
            number = next((number for number, head in enumerate(heads) if name.startswith(head)), None)
            if number is not None:
                found.append((number, _Source(kind, name[len(heads[number]) :])))
    return sorted(set(found))


async def letters(space: Space, wanted: Wanted) -> AsyncIterator[DeadLetter]:
    """Newest first, over all partitions."""
    streams = [_Stream(space, partition, source, wanted) for partition, source in await _streams(space, wanted)]
    await asyncio.gather(*(stream.fill() for stream in streams))
    fronts = [stream.front for stream in streams if stream.page]
    heapq.heapify(fronts)
    while fronts:
        stream = heapq.heappop(fronts)[-1]
        letter = stream.page.pop()
        if wanted.matches(letter):
            yield letter
        if not stream.page:
            await stream.fill()
        if stream.page:
            heapq.heappush(fronts, stream.front)


class _Stream:
    """Letters of one task or group and partition, a page at a time; the next one stands last in `page`."""

    def __init__(self, space: Space, partition: int, source: _Source, wanted: Wanted) -> None:
        self._space, self._partition, self._source = space, partition, source
        self._since = str(wanted.since_ms) if wanted.since_ms else "-"
        self._before = "+"
        self.page: list[DeadLetter] = []

    async def fill(self) -> None:
        if not self._before:
            return
        name = self._source.stream(self._space.keys.partitions[self._partition])
        reply = await execute(self._space.redis, "XREVRANGE", name, self._before, self._since, "COUNT", PAGE)
        self.page = [_letter(self._partition, self._source, *entry) for entry in reversed(reply)]
        self._before = f"({self.page[0].place.entry}" if len(reply) == PAGE else ""

    @property
    def front(self) -> tuple[int, int, int, _Source, _Stream]:
        """Sorts the streams by their next letter, newest first; partition and source are one of a kind."""
        ms, _, n = self.page[-1].place.entry.partition("-")
        return -int(ms), -int(n), self._partition, self._source, self


def _letter(partition: int, source: _Source, id: bytes, held: Mapping[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        Place(partition, source.kind, source.name, id.decode()),
        held[b"r"].decode(),
        held.get(b"i", b"").decode(),
        held.get(b"e", b""),
        held.get(b"f", b""),
        held.get(b"x", b"").decode(),
        {name[2:].decode(errors="replace"): held[name].decode(errors="replace") for name in held if name[:2] == b"f:"},
    )


async def find(space: Space, text: str, wanted: Wanted | None = None, *, limit: int = 10) -> list[DeadLetter]:
    """The letters of that run, else those of runs that begin or end with the text, at most `limit`; newest first.

    text: a run, `<run>@<seq>` for those of one of its events, `<inlet>@<entry>` for an inlet's entry.
    """
    name, at, seq = text.partition("@")  # neither runs nor inlets have an @ in their names
    exact: list[DeadLetter] = []
    found: list[DeadLetter] = []
    async for letter in letters(space, wanted or Wanted()):
        if at and seq not in (str(letter.seq), letter.entry):
            continue
        if (at and seq == letter.entry and letter.group == name) or letter.run == name:
            exact.append(letter)
        elif len(found) < limit and (letter.run.startswith(name) or letter.run.endswith(name)):
            found.append(letter)
    return exact or found


async def read(space: Space, places: Sequence[Place]) -> list[DeadLetter | None]:
    """The letters at these places; None where one has gone."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for place in places:
            name = _source(place).stream(space.keys.partitions[place.partition])
            untyped.execute_command("XRANGE", name, place.entry, place.entry)
        replies = await uncancelled(untyped.execute())
    return [
        _letter(place.partition, _source(place), *reply[0]) if reply else None
        for place, reply in zip(places, replies, strict=True)
    ]


def _source(place: Place) -> _Source:
    return _Source(place.kind, place.name)


async def threads(space: Space, runs: Sequence[str]) -> list[str | None]:
    """The thread that each run belongs to, as far as its hash has not expired."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for run in runs:
            untyped.execute_command("HGET", space.keys.of(run).run(run), "thread")
        replies = await uncancelled(untyped.execute())
    return [reply.decode() if reply else None for reply in replies]


# Taking out.


async def purge(space: Space, places: Iterable[Place]) -> int:
    """Deletes the letters at these places for good; how many there were."""
    deleted = 0
    for (partition, kind, of), here in groupby(sorted(places), key=lambda place: place[:3]):
        name = _Source(kind, of).stream(space.keys.partitions[partition])
        entries = [place.entry for place in here]
        for first in range(0, len(entries), PURGED_AT_ONCE):
            deleted += await execute(space.redis, "XDEL", name, *entries[first : first + PURGED_AT_ONCE])
    if deleted:
        log.info("dead_letters_purged", letters=deleted)
    return deleted


class Requeued(NamedTuple):
    """What became of a letter. word: requeued gone busy full exists corrupt lost (its origin is not known) unbound (no such group)."""

    letter: DeadLetter
    run: str  # the new one, where the word is requeued; of a reaction the event's
    word: str
    detail: str = ""  # the run that keeps the thread busy, or who is behind


async def requeue(session: Asking, found: Sequence[DeadLetter]) -> list[Requeued]:
    """Runs the letters of tasks again, as new runs, and gives those of reactions back to their groups; in this order.

    A letter that cannot be given back now stays where it is.
    """
    answers = {letter.place: Requeued(letter, "", "lost") for letter in found}
    known = [letter for letter in found if letter.payload]
    of = dict(zip((letter.place for letter in known), await threads(session, [one.run for one in known]), strict=True))
    for partition in sorted({letter.place.partition for letter in known}):
        here = [letter for letter in known if letter.place.partition == partition]
        tasks = [letter for letter in here if letter.task]
        for first in range(0, len(tasks), REQUEUED_AT_ONCE):
            for answer in await _requeue(session, tasks[first : first + REQUEUED_AT_ONCE], of):
                answers[answer.letter.place] = answer
        for group in dict.fromkeys(letter.group for letter in here if letter.group):
            own = [letter for letter in here if letter.group == group]
            for first in range(0, len(own), REQUEUED_AT_ONCE):
                for answer in await _give_back(session, own[first : first + REQUEUED_AT_ONCE]):
                    answers[answer.letter.place] = answer
    return [answers[letter.place] for letter in found]


async def _give_back(session: Asking, found: Sequence[DeadLetter]) -> list[Requeued]:
    """One call of requeue_reaction.lua: letters of one group and partition."""
    group, keys = found[0].group, session.keys.partitions[found[0].place.partition]
    names = [*partition_keys(keys), keys.dead_group(group), keys.lease(group)]
    reply = await session.scripts.call("requeue_reaction", names, [group, *(letter.place.entry for letter in found)])
    answers = []
    for letter, text in zip(found, reply, strict=True):
        word = text.decode()
        log.info("dead_letter_requeued", run=letter.run, group=group, id=letter.queued, outcome=word)
        answers.append(Requeued(letter, letter.run if word == "requeued" else "", word))
    return answers


async def _requeue(session: Asking, found: Sequence[DeadLetter], threads: Mapping[Place, str | None]) -> list[Requeued]:
    """One call of requeue.lua: letters of tasks, of one partition."""
    keys = session.keys.partitions[found[0].place.partition]
    call = Packing.of(keys)
    runs = [f"{root_of(letter.run)}~{ulid()}" for letter in found]
    for letter, run in zip(found, runs, strict=True):
        call.names.append(keys.dead_task(letter.task))
        call.add_run(run)
        call.args += (letter.place.entry, run)
        call.add_events([_queued(letter, threads.get(letter.place) or "")])
    script = session.scripts.named("requeue")
    reply = await session.scripts.send(script, call.command(script, session.keys.layout, session.scripts.limits))
    answers = []
    for letter, run, text in zip(found, runs, reply, strict=True):
        word, _, rest = text.decode().partition(" ")
        log.info("dead_letter_requeued", run=letter.run, task=letter.task, outcome=word, new=run)
        answers.append(Requeued(letter, run if word == "requeued" else "", word, rest.partition(" ")[2]))
    return answers


def _queued(letter: DeadLetter, thread: str) -> Draft:
    """Its run.queued as it was, byte for byte, with what the script may not read from it."""
    composed = draft(
        "run.queued",
        b"{}",
        task=letter.task,
        start=start_hash(letter.task, letter.input),
        thread=thread,
        labels=letter.labels,
    )
    return composed._replace(payload=letter.payload)
