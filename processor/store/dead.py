"""Dead letters of tasks: executions that failed for good, each with what is needed to look into it and to run it again.

A letter stands in a stream of its task and partition, whose entry IDs say when it was written. At the stream's limit the
oldest go.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import groupby
from typing import Any, Final, NamedTuple

import structlog

from processor.core.cursor import FeedId
from processor.core.events import Draft, draft
from processor.core.json import loads
from processor.core.partition import root_of
from processor.core.start import start_hash
from processor.core.ulid import ulid
from processor.store.connection import execute, uncancelled
from processor.store.rates import Asking
from processor.store.runs import rfc3339
from processor.store.scripts import Packing
from processor.store.space import Space

__all__ = [
    "DeadLetter",
    "Place",
    "Requeued",
    "Wanted",
    "counts",
    "find",
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


class Place(NamedTuple):
    """Where a letter stands."""

    partition: int
    task: str
    entry: str  # "<ms>-<n>"


@dataclass(frozen=True)
class DeadLetter:
    """One failed run."""

    place: Place
    run: str
    queued: str  # feed ID of its run.queued, "" if it was lost
    payload: bytes  # of its run.queued, b"" if it was lost
    failed: bytes  # payload of its run.failed

    @property
    def task(self) -> str:
        return self.place.task

    @property
    def died(self) -> int:
        """When it failed for good, in ms by the server's clock."""
        return int(self.place.entry.partition("-")[0])

    @property
    def began(self) -> int | None:
        """When it was queued, in ms by the server's clock."""
        return FeedId.parse(self.queued).ms if self.queued else None

    @cached_property
    def _end(self) -> Mapping[str, Any]:
        return _members(self.failed)

    @cached_property
    def _origin(self) -> Mapping[str, Any]:
        return _members(self.payload)

    @property
    def attempts(self) -> int:
        """How often it was begun."""
        attempt = self._end.get("attempt")
        return attempt if isinstance(attempt, int) else 0

    @property
    def error(self) -> str:
        return str(_data(self._end).get("error") or "")

    @property
    def reason(self) -> str:
        """As run.failed has it: error, timeout, given_up, poison …"""
        return str(_data(self._end).get("reason") or "")

    @property
    def traceback(self) -> str | None:
        found = _data(self._end).get("traceback")
        return found if isinstance(found, str) else None

    @property
    def input(self) -> Any:
        return _data(self._origin).get("input", {})

    @property
    def labels(self) -> Mapping[str, str]:
        return self._origin.get("labels") or {}

    def json(self) -> dict[str, Any]:
        """What a list says of it: absent members left out, times RFC 3339."""
        members: dict[str, Any] = {
            "run": self.run,
            "task": self.task,
            "error": self.error,
            "reason": self.reason,
            "attempts": self.attempts,
            "labels": dict(self.labels),
            "queued": rfc3339(self.began) if self.began is not None else None,
            "dead": rfc3339(self.died),
        }
        return {name: value for name, value in members.items() if value is not None}

    def whole_json(self, thread: str | None) -> dict[str, Any]:
        """The same with what belongs to one letter alone."""
        more = {"thread": thread, "traceback": self.traceback, "input": self.input if self.payload else None}
        return {**self.json(), **{name: value for name, value in more.items() if value is not None}}


def _members(payload: bytes) -> Mapping[str, Any]:
    if not payload:
        return {}
    found = loads(b"{" + payload)
    return found if isinstance(found, dict) else {}


def _data(members: Mapping[str, Any]) -> Mapping[str, Any]:
    data = members.get("data")
    return data if isinstance(data, dict) else {}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant."""

    task: str | None = None
    error: str | None = None  # a pattern of the error's text, as in a shell: Timeout*
    since_ms: int = 0  # dead since then

    def matches(self, letter: DeadLetter) -> bool:
        return self.error is None or fnmatchcase(letter.error, self.error)


# Reading.


async def counts(space: Space) -> dict[str, int]:
    """Task → letters, of every task that has any. Walks the keyspace: for people and tools."""
    streams = await _streams(space, None)
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for partition, task in streams:
            untyped.execute_command("XLEN", space.keys.partitions[partition].dead_task(task))
        lengths = await uncancelled(untyped.execute())
    found: dict[str, int] = {}
    for (_, task), length in zip(streams, lengths, strict=True):
        if length:
            found[task] = found.get(task, 0) + length
    return dict(sorted(found.items()))


async def _streams(space: Space, task: str | None) -> list[tuple[int, str]]:
    """(partition, task) of every stream of letters; without a task the keyspace is walked, since no key lists the tasks."""
    if task is not None:
        return [(number, task) for number in range(len(space.keys.partitions))]
    heads = {partition.dead_task(""): number for number, partition in enumerate(space.keys.partitions)}
    found = set()
    async for key in space.redis.scan_iter(match=space.keys.any_dead_task, count=1000):
        name = key.decode()
        number = next((number for head, number in heads.items() if name.startswith(head)), None)
        if number is not None:
            found.add((number, name[len(space.keys.partitions[number].dead_task("")) :]))
    return sorted(found)


async def letters(space: Space, wanted: Wanted) -> AsyncIterator[DeadLetter]:
    """Newest first, over all partitions."""
    streams = [_Stream(space, partition, task, wanted) for partition, task in await _streams(space, wanted.task)]
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
    """Letters of one task and partition, a page at a time; the next one stands last in `page`."""

    def __init__(self, space: Space, partition: int, task: str, wanted: Wanted) -> None:
        self._space, self._partition, self._task = space, partition, task
        self._since = str(wanted.since_ms) if wanted.since_ms else "-"
        self._before = "+"
        self.page: list[DeadLetter] = []

    async def fill(self) -> None:
        if not self._before:
            return
        name = self._space.keys.partitions[self._partition].dead_task(self._task)
        reply = await execute(self._space.redis, "XREVRANGE", name, self._before, self._since, "COUNT", PAGE)
        self.page = [_letter(self._partition, self._task, *entry) for entry in reversed(reply)]
        self._before = f"({self.page[0].place.entry}" if len(reply) == PAGE else ""

    @property
    def front(self) -> tuple[int, int, int, str, _Stream]:
        """Sorts the streams by their next letter, newest first; task and partition are one of a kind."""
        ms, _, n = self.page[-1].place.entry.partition("-")
        return -int(ms), -int(n), self._partition, self._task, self


def _letter(partition: int, task: str, id: bytes, held: Mapping[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        Place(partition, task, id.decode()),
        held[b"r"].decode(),
        held.get(b"i", b"").decode(),
        held.get(b"e", b""),
        held.get(b"f", b""),
    )


async def find(space: Space, text: str, *, limit: int = 10) -> list[DeadLetter]:
    """The letter of that run, else those of runs that begin or end with the text, at most so many."""
    found: list[DeadLetter] = []
    async for letter in letters(space, Wanted()):
        if letter.run == text:
            return [letter]
        if len(found) < limit and (letter.run.startswith(text) or letter.run.endswith(text)):
            found.append(letter)
    return found


async def read(space: Space, places: Sequence[Place]) -> list[DeadLetter | None]:
    """The letters at these places; None where one has gone."""
    async with space.redis.pipeline(transaction=False) as pipe:
        untyped: Any = pipe
        for partition, task, entry in places:
            untyped.execute_command("XRANGE", space.keys.partitions[partition].dead_task(task), entry, entry)
        replies = await uncancelled(untyped.execute())
    return [
        _letter(place.partition, place.task, *reply[0]) if reply else None
        for place, reply in zip(places, replies, strict=True)
    ]


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
    for (partition, task), group in groupby(sorted(places), key=lambda place: place[:2]):
        name = space.keys.partitions[partition].dead_task(task)
        entries = [place.entry for place in group]
        for first in range(0, len(entries), PURGED_AT_ONCE):
            deleted += await execute(space.redis, "XDEL", name, *entries[first : first + PURGED_AT_ONCE])
    if deleted:
        log.info("dead_letters_purged", letters=deleted)
    return deleted


class Requeued(NamedTuple):
    """What became of a letter. word: requeued gone busy full exists corrupt lost (its origin is not known)."""

    letter: DeadLetter
    run: str  # the new one, where the word is requeued
    word: str
    detail: str = ""  # the run that keeps the thread busy, or who is behind


async def requeue(session: Asking, found: Sequence[DeadLetter]) -> list[Requeued]:
    """Runs the letters again, as new runs; in this order. A letter that cannot be run again now stays where it is."""
    answers = {letter.place: Requeued(letter, "", "lost") for letter in found}
    known = [letter for letter in found if letter.payload]
    of = dict(zip((letter.place for letter in known), await threads(session, [one.run for one in known]), strict=True))
    for partition in sorted({letter.place.partition for letter in known}):
        here = [letter for letter in known if letter.place.partition == partition]
        for first in range(0, len(here), REQUEUED_AT_ONCE):
            for answer in await _requeue(session, here[first : first + REQUEUED_AT_ONCE], of):
                answers[answer.letter.place] = answer
    return [answers[letter.place] for letter in found]


async def _requeue(session: Asking, found: Sequence[DeadLetter], threads: Mapping[Place, str | None]) -> list[Requeued]:
    """One call of requeue.lua: letters of one partition."""
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
