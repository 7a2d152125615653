"""Emitting: reactions that did what most do, one fact for a run of their partition or nothing, settled many at once (emit.lua).

What that script cannot decide is handed on, to be settled by react.lua.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

import structlog

from processor.core.errors import ServerError
from processor.core.events import is_increment
from processor.core.keys import Keyspace, PartitionKeys
from processor.store.executing import Output
from processor.store.line import Line, failed_in_script
from processor.store.scripts import Limits, Script, partition_keys
from processor.store.space import Scripted

__all__ = ["Emitted", "Emitting", "emit_command", "emitted"]

log = structlog.get_logger("tailrace.settle")
MAX_ENTRIES: Final = 200
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 2  # calls a partition: while one is answered the next is executed
RETRY_SECONDS: Final = 0.2

T = TypeVar("T")


class Emitted(NamedTuple, Generic[T]):
    """One entry's. run: "" for no output."""

    entry: str
    run: str = ""
    payload: bytes = b""
    told: T | None = None  # who is told of the answer


def emitted(
    entry: str, outputs: Sequence[Output], partition: int, own: str, keyspace: Keyspace, told: T
) -> Emitted[T] | None:
    """What emit.lua settles; None if it is more than that. own: a run of the partition."""
    if not outputs:
        return Emitted(entry, "", b"", told)
    if len(outputs) > 1:
        return None
    run, events = outputs[0]
    if len(events) > 1:
        return None
    type, payload, extras, work = events[0]
    if extras or work or type.startswith("run.") or is_increment(type):
        return None
    return Emitted(entry, run, payload, told) if run == own or keyspace.number(run) == partition else None


def emit_command(
    script: Script, limits: Limits, keys: PartitionKeys, group: str, consumer: str, of_call: Sequence[Emitted[Any]]
) -> tuple[tuple[bytes | str | int, ...], Sequence[int]]:
    """emit.lua's call, and the places in `of_call` of those that have an answer each, in its order."""
    runs: dict[str, list[bytes | str]] = {}
    places: dict[str, list[int]] = {}
    quiet: list[str] = []
    for place, (entry, run, payload, _) in enumerate(of_call):
        if not run:
            quiet.append(entry)
        elif run in runs:
            runs[run] += (entry, payload)
            places[run].append(place)
        else:
            runs[run] = [entry, payload]
            places[run] = [place]
    names = partition_keys(keys)
    hash, feed, channel = keys.run(""), keys.feed(""), keys.channel("")
    args: list[bytes | str | int] = [limits.feed, group, consumer, len(hash) + 1, len(quiet), *quiet]
    for run, pairs in runs.items():
        names += (hash + run, feed + run, channel + run)
        args.append(len(pairs) // 2)
        args += pairs
    command = (b"EVALSHA", script.sha, len(names), *names, *args)
    return command, [place for of_run in places.values() for place in of_run]


class Emitting(Generic[T]):
    """One turn of the event loop is one call a partition, of 200 entries at most. T: what is told about."""

    def __init__(
        self,
        line: Line,
        space: Scripted,
        limits: Limits,
        group: str,
        consumer: str,
        settled: Callable[[Sequence[T]], None],
        look: Callable[[Sequence[T]], None],
    ) -> None:
        """settled: these are. look: these are to be settled by react.lua."""
        self._line, self._space, self._limits, self._group, self._consumer = line, space, limits, group, consumer
        self._script = space.scripts.named("emit")
        self._tell_settled, self._tell_look = settled, look
        self._queues: dict[int, deque[Emitted[T]]] = {}
        self._senders: dict[int, set[asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = self._is_closed = False
        self.unsettled = 0  # entries without an answer
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    def put(self, partition: int, emitted: Emitted[T]) -> None:
        """Told of once the server has answered. Nothing is sent once it is closed."""
        if self._is_closed:
            return
        self.unsettled += 1
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = deque()
        queue.append(emitted)
        if not self._scheduled:
            self._scheduled = True
            self._all_settled.clear()
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        for partition, queue in self._queues.items():
            if queue:
                self._fill(partition)

    def _fill(self, partition: int) -> None:
        queue, senders = self._queues[partition], self._senders.setdefault(partition, set())
        while queue and len(senders) < IN_FLIGHT:
            sender = self._loop.create_task(self._send(partition, _next(queue)), name="tailrace-emit")
            senders.add(sender)
            sender.add_done_callback(functools.partial(self._sent, partition))

    def _sent(self, partition: int, sender: asyncio.Task[None]) -> None:
        self._senders[partition].discard(sender)
        self._fill(partition)

    async def _send(self, partition: int, of_call: Sequence[Emitted[T]]) -> None:
        words = await self._until_answered(partition, of_call)
        self.unsettled -= len(of_call)
        if words is None:
            self._tell(self._tell_settled, of_call)
        else:
            judged = list(zip(of_call, words, strict=True))
            self._tell(self._tell_settled, [one for one, word in judged if word != b"look"])
            self._tell(self._tell_look, [one for one, word in judged if word == b"look"])
        if not self.unsettled:
            self._all_settled.set()

    def _tell(self, tell: Callable[[Sequence[T]], None], answered: Sequence[Emitted[T]]) -> None:
        if answered:
            told: list[Any] = [one[3] for one in answered]  # by place: half the time of a name, for each entry
            try:
                tell(told)
            except Exception:
                log.exception("settled_untold", group=self._group, entries=len(answered))

    async def _until_answered(self, partition: int, of_call: Sequence[Emitted[T]]) -> Sequence[bytes] | None:
        """A word for each; None if all are settled."""
        told = False
        while True:
            keys = self._space.keys.partitions[partition]
            command, places = emit_command(self._script, self._limits, keys, self._group, self._consumer, of_call)
            try:
                answers = await self._line.script(self._script, *command)
            except ServerError as error:
                if failed_in_script(error):  # one of them cannot be settled; react.lua finds out which
                    return [b"look"] * len(of_call)
                if not told:
                    log.warning("settle_waits", error=error.code, message=error.message, units=len(of_call))
                told = True
                await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
                continue
            if answers == [b"settled"]:
                return None
            words = [b"settled"] * len(of_call)
            for place, word in zip(places, answers, strict=True):
                words[place] = word
            return words

    async def close(self, *, seconds: float = 0) -> None:
        """Waits so long for answers. Whatever has none by then is settled by whoever claims its entry."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._all_settled.wait()
        self._is_closed = True
        tasks = [sender for senders in self._senders.values() for sender in senders]
        for queue in self._queues.values():
            queue.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _next(queue: deque[Emitted[T]]) -> list[Emitted[T]]:
    taken: list[Emitted[T]] = []
    size = 0
    while queue and len(taken) < MAX_ENTRIES and (not taken or size + len(queue[0].payload) <= MAX_BYTES):
        one = queue.popleft()
        taken.append(one)
        size += len(one.payload)
    return taken
