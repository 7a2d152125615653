"""Work entries of consumers that are gone: found by their idle time, taken over by claim.lua, which alone decides.

A look costs little however long a pending list is: XPENDING with IDLE walks the whole list (80 ns an entry), so one of more than
WALK_ENTRIES is read page by page instead. Where a look at a stream ended, the next one goes on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, NamedTuple

import structlog
from redis.exceptions import ResponseError

from processor.core.keys import PartitionKeys
from processor.observe import metrics
from processor.store.connection import uncancelled
from processor.store.executing import GROUP, Taken
from processor.store.space import Scripted

__all__ = ["SILENT_MS", "Claims", "forget_consumers", "own"]

log = structlog.get_logger("tailrace.claims")

SILENT_MS: Final = 3_600_000  # a consumer that asked for nothing so long does not come back under its name
COUNT: Final = 100  # entries that a page of XPENDING IDLE names and a call takes: three commands each
WALK_ENTRIES: Final = 10_000  # as many may XPENDING walk for us: 0.8 ms of the server
PAGE: Final = 1_000  # entries of a longer list that a look reads: 0.7 ms, most of it ours
MEND_PAGES: Final = 20  # of each list, in a look while nobody claims

Take = Callable[[list[Taken]], None]


class _Stream(NamedTuple):
    keys: PartitionKeys
    task: str

    @property
    def name(self) -> str:
        return self.keys.work(self.task)


class _Pending(NamedTuple):
    """An entry as XPENDING saw it."""

    entry: str
    consumer: str
    idle_ms: int  # 0: given just now, or at a time to come, before the clock jumped back


class _Page(NamedTuple):
    entries: list[_Pending]  # of others, and idle
    after: str  # where the next page begins


class _Answer(NamedTuple):
    """What claim.lua said."""

    is_quiet: bool
    taken: list[Taken]
    deleted: list[str]  # consumers


class Claims:
    """One consumer's sweeps over the pending lists of its tasks."""

    def __init__(self, session: Scripted, consumer: str, *, idle_ms: int) -> None:
        """idle_ms: one visibility timeout."""
        self._session = session
        self._consumer = consumer
        self._idle_ms = idle_ms
        self._after: dict[str, str] = {}  # work stream → where its sweep goes on: XPENDING's start

    async def look(self, tasks: Sequence[str], room: Callable[[str], int], take: Take) -> None:
        """One look at every partition. Who has no room looks too: its note says that entries could be renewed.

        room: how many entries of a task may be taken now. take: called with what was taken of a stream, at once, so that an
        error behind it loses nothing. Raises redis-py's errors.
        """
        streams: list[_Stream] = []
        for keys in self._session.keys.partitions:
            of_partition = [_Stream(keys, task) for task in tasks]
            if of_partition and await self._is_quiet(of_partition[0]):
                for stream in of_partition:
                    await self._mend(stream)
            else:
                streams += [stream for stream in of_partition if room(stream.task) > 0]
        random.shuffle(streams)  # else the last ones find no room whenever there is much to take
        for stream, page in await self._peek(streams):
            taken = await self._take(stream, page, min(room(stream.task), COUNT))
            if taken:
                take(taken)

    async def _is_quiet(self, stream: _Stream) -> bool:
        """Notes the look; the note is the partition's, whatever the stream."""
        return (await self._claim(stream, [])).is_quiet

    async def _take(self, stream: _Stream, page: _Page, count: int) -> list[Taken]:
        chosen, rest = page.entries[: max(count, 0)], page.entries[max(count, 0) :]
        self._after[stream.name] = rest[0].entry if rest else page.after
        if not chosen:
            return []
        answer = await self._claim(stream, await _bodies(self._session, stream, [found.entry for found in chosen]))
        if answer.taken:
            consumers = sorted({found.consumer for found in chosen})
            log.info("entries_claimed", task=stream.task, count=len(answer.taken), consumers=consumers)
            metrics.claimed_entries_total.inc(len(answer.taken))
        return answer.taken

    async def _claim(self, stream: _Stream, entries: Sequence[tuple[str, Taken | None]]) -> _Answer:
        return await _call(self._session, stream, self._consumer, "others", entries, idle_ms=self._idle_ms)

    async def _peek(self, streams: Sequence[_Stream]) -> list[tuple[_Stream, _Page]]:
        """Streams with entries of others that seem idle. Two round trips; one where nobody else holds anything."""
        pipe = _pipeline(self._session)
        for stream in streams:
            pipe.xpending(stream.name, GROUP)
        lengths = {
            stream: known["pending"]
            for stream, known in zip(streams, await _replies(pipe), strict=True)
            if known and any(of["name"] != self._consumer.encode() for of in known["consumers"])
        }
        pipe = _pipeline(self._session)
        for stream, length in lengths.items():
            self._ask_for_page(pipe, stream, walk=length <= WALK_ENTRIES)
        found = []
        for stream, rows in zip(lengths, await _replies(pipe), strict=True):
            page = self._page(_parsed(rows), COUNT if lengths[stream] <= WALK_ENTRIES else PAGE)
            self._after[stream.name] = page.after
            if page.entries:
                found.append((stream, page))
        return found

    def _ask_for_page(self, pipe: Any, stream: _Stream, *, walk: bool) -> None:
        """walk: the server picks those that are idle; else it names all, and few at a time."""
        idle, count = (self._idle_ms, COUNT) if walk else (None, PAGE)
        pipe.xpending_range(stream.name, GROUP, self._after.get(stream.name, "-"), "+", count, idle=idle)

    def _page(self, found: list[_Pending], asked: int) -> _Page:
        idle = [one for one in found if one.consumer != self._consumer and one.idle_ms >= self._idle_ms]
        return _Page(idle, f"({found[-1].entry}" if len(found) == asked else "-")

    async def _mend(self, stream: _Stream) -> None:
        """After the clock jumped back, entries that were given before stay idle for 0 ms until it is there again.

        claim.lua makes their time begin now, while nobody claims; who lives and just renewed has no harm of it.
        """
        for _ in range(MEND_PAGES):
            pipe = _pipeline(self._session)
            self._ask_for_page(pipe, stream, walk=False)
            found = _parsed((await _replies(pipe))[0])
            ahead = [one.entry for one in found if one.consumer != self._consumer and one.idle_ms <= 0]
            if ahead:
                await self._claim(stream, [(entry, None) for entry in ahead])
            self._after[stream.name] = self._page(found, PAGE).after
            if len(found) < PAGE:
                return


async def own(
    session: Scripted, keys: PartitionKeys, task: str, consumer: str, *, known: Callable[[str], bool], count: int
) -> list[Taken]:
    """Entries that are pending for this consumer and that its process does not execute: it never saw the answer that gave
    them, or has the name of a process before it. They are renewed; counts of deliveries stay.

    known: whether an entry (its ID) is being executed. Raises redis-py's errors.
    """
    stream = _Stream(keys, task)
    start = "-"
    unknown: list[str] = []
    while len(unknown) < count:
        pipe = _pipeline(session)
        pipe.xpending_range(stream.name, GROUP, start, "+", PAGE, consumername=consumer)
        found = _parsed((await _replies(pipe))[0])
        unknown += [one.entry for one in found if not known(one.entry)]
        if len(found) < PAGE:
            break
        start = f"({found[-1].entry}"
    if not unknown:
        return []
    answer = await _call(session, stream, consumer, "own", await _bodies(session, stream, unknown[:count]))
    return [taken for taken in answer.taken if not known(taken.entry)]


async def forget_consumers(
    session: Scripted, keys: PartitionKeys, task: str, consumer: str, *, idle_ms: int, silent_ms: int = SILENT_MS
) -> list[str]:
    """Deletes consumers of a task that were silent for an hour and have nothing pending, in one step; never the caller.

    One that lives after all is made anew by its next read. idle_ms: one visibility timeout; nothing is deleted while nobody
    claims. Raises redis-py's errors.
    """
    answer = await _call(session, _Stream(keys, task), consumer, "others", [], idle_ms=idle_ms, silent_ms=silent_ms)
    if answer.deleted:
        log.info("consumers_forgotten", task=task, consumers=answer.deleted)
    return answer.deleted


async def _bodies(session: Scripted, stream: _Stream, entries: Sequence[str]) -> list[tuple[str, Taken | None]]:
    """What stands in the stream; None for an entry that was deleted or is none of ours."""
    pipe = _pipeline(session)
    for entry in entries:
        pipe.xrange(stream.name, entry, entry)
    return [
        (entry, _taken(stream.task, entry, found[0][1]) if found else None)
        for entry, found in zip(entries, await _replies(pipe), strict=True)
    ]


def _taken(task: str, entry: str, fields: Mapping[bytes, bytes]) -> Taken | None:
    if not fields.keys() >= {b"r", b"i", b"e"}:  # somebody added it by hand; claim.lua leaves it alone
        log.warning("entry_unreadable", task=task, entry=entry)
        return None
    return Taken(task, entry, fields[b"r"].decode(), fields[b"i"].decode(), fields[b"e"])


async def _call(
    session: Scripted,
    stream: _Stream,
    consumer: str,
    whose: Literal["others", "own"],
    entries: Sequence[tuple[str, Taken | None]],
    *,
    idle_ms: int = 0,
    silent_ms: int = 0,
) -> _Answer:
    """claim.lua's only caller. entries: with their bodies, None where there is none."""
    bodies = {entry: body for entry, body in entries if body is not None}
    without = [entry for entry, body in entries if body is None]
    names = [stream.keys.meta, stream.name, *(stream.keys.run(body.run) for body in bodies.values())]
    word, told, gone, deleted = await session.scripts.call(
        "claim", names, [consumer, whose, idle_ms, silent_ms, *bodies, *without]
    )
    for entry in gone:
        metrics.lost_entries_total.inc()
        log.warning("entry_body_lost", task=stream.task, entry=entry.decode())
    taken = [
        replace(bodies[entry.decode()], seen=exec.decode(), tries=tries)
        for entry, exec, tries in zip(told[::3], told[1::3], told[2::3], strict=True)
    ]
    return _Answer(word == b"quiet", taken, [name.decode() for name in deleted])


def _pipeline(session: Scripted) -> Any:
    """redis-py's own types are unions that nobody wants to narrow."""
    return session.redis.pipeline(transaction=False)


async def _replies(pipe: Any) -> list[Any]:
    """Of a pipeline; None where the stream or its group is not there. Raises redis-py's errors."""
    replies = await uncancelled(pipe.execute(raise_on_error=False)) if len(pipe) else []
    for reply in replies:
        if isinstance(reply, Exception) and not _is_no_group(reply):
            raise reply
    return [None if isinstance(reply, Exception) else reply for reply in replies]


def _is_no_group(error: Exception) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("NOGROUP")


def _parsed(rows: Sequence[Mapping[str, Any]] | None) -> list[_Pending]:
    return [
        _Pending(row["message_id"].decode(), row["consumer"].decode(), row["time_since_delivered"])
        for row in rows or ()
    ]
