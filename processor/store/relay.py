"""The outbox: settled events of one partition on their way into others, each once and in order (relay.lua).

Relays need no lock: an entry is taken only behind the one before it, so late and doubled calls change nothing. What was
relayed stays in the outbox for a while, since its target may yet lose it; it goes when the target's mark, asked again, still
covers it. Reads and relays go over one connection: the server that takes an entry is the one that has it in its outbox,
and not one that came back without its last second, which would never go on behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import hiredis
import structlog

from processor.core.errors import ServerError
from processor.core.events import Fields
from processor.core.keys import Keyspace
from processor.store.connection import OneConnection, execute, one_connection
from processor.store.executing import Output
from processor.store.runs import Space
from processor.store.scripts import Packing, Scripts

__all__ = ["Relay"]

log = structlog.get_logger("tailrace.relay")
PAGE: Final = 100  # outbox entries read at once, and at most so many in one call
KEEP_SECONDS: Final = 10.0  # AOF everysec may lose the last second, a failover a few


class Relaying(Space, Protocol):
    @property
    def scripts(self) -> Scripts: ...

    async def settle_topology(self, partition: int, answered: str) -> Keyspace:
        """After a script answered `topology`: the keyspace to go on with, its partition having the layout. Raises ServerError."""


@dataclass(frozen=True, slots=True)
class _Entry:
    id: str
    target: int
    before: str  # the entry before it for the same target
    output: Output


class Relay:
    """Of one process. Keeps nothing but how far it got, which is forgotten with every failure."""

    def __init__(self, space: Relaying) -> None:
        self._space = space
        self._reached: dict[int, str] = {}  # per source, the last outbox entry that this process saw taken

    def forget(self) -> None:
        """After a broken connection: outbox and marks are read again, nothing is resent from memory."""
        self._reached.clear()

    async def relay(self, source: int) -> int:
        """Takes on what waits in a partition's outbox. Returns how many entries were taken by their targets."""
        try:
            async with one_connection(self._space.redis) as redis:
                return await self._relay(redis, source)
        except BaseException:
            self._reached.pop(source, None)
            raise

    async def _relay(self, redis: OneConnection, source: int) -> int:
        taken = 0
        reached = self._reached.get(source)
        marks: dict[int, str] = {}  # asked for only where nothing is known: what was taken before is not sent again
        while page := await self._read(redis, source, reached or "0-0"):
            reached = page[-1].id
            if source not in self._reached:
                await self._ask_marks(redis, source, page, marks)
                page = [entry for entry in page if _is_behind(marks[entry.target], entry.id)]
            for target in {entry.target for entry in page}:
                taken += await self._send(redis, source, target, [entry for entry in page if entry.target == target])
        if reached is not None:
            self._reached[source] = reached
        return taken

    async def _ask_marks(
        self, redis: OneConnection, source: int, entries: Sequence[_Entry], marks: dict[int, str]
    ) -> None:
        """Of their targets, those that are not known yet."""
        for target in {entry.target for entry in entries} - marks.keys():
            mark = await execute(redis, "HGET", self._space.keys.partitions[target].marks, source)
            marks[target] = mark.decode() if mark else "0-0"

    async def _read(self, redis: OneConnection, source: int, after: str) -> list[_Entry]:
        outbox = self._space.keys.partitions[source].outbox
        return await self._page(redis, outbox, f"({after}", "+")

    async def _page(self, redis: OneConnection, outbox: str, start: str, end: str) -> list[_Entry]:
        found = await execute(redis, "XRANGE", outbox, start, end, "COUNT", PAGE)
        return [_entry(id.decode(), _fields(fields)) for id, fields in found]

    async def _send(self, redis: OneConnection, source: int, target: int, entries: Sequence[_Entry]) -> int:
        """Sends a target's entries in order, from the one that it lacks."""
        taken = 0
        while entries:
            answers = await self._call(redis, source, target, entries)
            for entry, answer in zip(entries, answers, strict=False):
                word, _, detail = answer.partition(" ")
                if word == "dropped":
                    log.error("settled_event_dropped", run=entry.output.run, outcome=detail, source=source)
                taken += word != "duplicate" and word != "hole"
            if not answers[-1].startswith("hole"):
                return taken
            mark = answers[-1].partition(" ")[2]
            again = await self._behind(redis, source, target, mark)
            if not again or again[0].before != mark:
                # The mark is of an entry that this outbox lost, or never had: nothing can be told apart any more.
                log.error("outbox_broken", source=source, target=target, mark=mark)
                return taken
            entries = again
        return taken

    async def _behind(self, redis: OneConnection, source: int, target: int, mark: str) -> list[_Entry]:
        """Entries for the target behind its mark, a page of them."""
        after = mark
        while page := await self._read(redis, source, after):
            found = [entry for entry in page if entry.target == target]
            if found:
                return found
            after = page[-1].id
        return []

    async def _call(self, redis: OneConnection, source: int, target: int, entries: Sequence[_Entry]) -> list[str]:
        keyspace, scripts = self._space.keys, self._space.scripts
        keys = keyspace.partitions[target]
        call = Packing.of(keys, keys.marks)
        call.args.append(source)
        for entry in entries:
            call.add_run(entry.output.run)
            call.args += (entry.before, entry.id, entry.output.run)
            call.add_events(entry.output.events)
        script = scripts.named("relay")
        over = Scripts(redis, scripts.limits, shebang=scripts.shebang)
        command = call.command(script, keyspace.layout, scripts.limits)
        answers = await over.send(script, command)
        word, _, layout = answers[0].decode().partition(" ")
        if word == "topology":
            current = await self._space.settle_topology(target, layout)
            if current.layout != keyspace.layout:  # what was read of the outbox is gone
                raise ServerError(f"namespace {keyspace.namespace} was made anew; its outboxes are read again.")
            answers = await over.send(script, command)  # it had none yet
        return [answer.decode() for answer in answers]

    async def clear(self, source: int) -> int:
        """Deletes what was taken long enough ago and is still covered by its target's mark. Returns how many."""
        async with one_connection(self._space.redis) as redis:
            return await self._clear(redis, source)

    async def _clear(self, redis: OneConnection, source: int) -> int:
        outbox = self._space.keys.partitions[source].outbox
        seconds, _ = await execute(redis, "TIME")
        old = f"{int((int(seconds) - KEEP_SECONDS) * 1000)}"
        marks: dict[int, str] = {}
        start, cleared = "-", 0
        while page := await self._page(redis, outbox, start, old):
            await self._ask_marks(redis, source, page, marks)
            gone = [entry.id for entry in page if not _is_behind(marks[entry.target], entry.id)]
            if gone:
                await execute(redis, "XDEL", outbox, *gone)
            start, cleared = f"({page[-1].id}", cleared + len(gone)
        return cleared


def _parts(id: str) -> tuple[int, int]:
    ms, _, n = id.partition("-")
    return int(ms), int(n)


def _is_behind(mark: str, id: str) -> bool:
    """Whether a target with that mark lacks the entry."""
    return _parts(id) > _parts(mark)


def _fields(fields: Any) -> dict[bytes, bytes]:
    return fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))


def _entry(id: str, fields: dict[bytes, bytes]) -> _Entry:
    return _Entry(id, int(fields[b"t"]), fields[b"p"].decode(), _unpack(fields[b"b"]))


def _unpack(parcel: bytes) -> Output:
    """What `parcel` packed."""
    reader = hiredis.Reader()
    reader.feed(parcel)
    words: Any = reader.gets()
    events: list[Fields] = []
    at = 1
    while at < len(words):
        type, payload, work, count = words[at].decode(), words[at + 1], words[at + 2].decode(), int(words[at + 3])
        events.append((type, payload, tuple(words[at + 4 : at + 4 + count]), work))
        at += 4 + count
    return Output(words[0].decode(), events)
