"""Emitting: reactions that did what most do, one fact for a run of their partition or nothing, settled many at once (emit.lua).

What that script cannot decide is handed on, to be settled by react.lua.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Generic, NamedTuple, TypeVar

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


class Emitted(NamedTuple):
    """One entry's. run: "" for no output."""

    entry: str
    run: str = ""
    payload: bytes = b""


def emitted(entry: str, outputs: Sequence[Output], partition: int, own: str, keyspace: Keyspace) -> Emitted | None:
    """What emit.lua settles; None if it is more than that. own: a run of the partition."""
    if not outputs:
        return Emitted(entry)
    if len(outputs) > 1 or len(outputs[0].events) > 1:
        return None
    [(run, [(type, payload, extras, work)])] = outputs
    if extras or work or type.startswith("run.") or is_increment(type):
        return None
    return Emitted(entry, run, payload) if run == own or keyspace.number(run) == partition else None


def emit_command(
    script: Script, limits: Limits, keys: PartitionKeys, group: str, consumer: str, of_call: Sequence[Emitted]
) -> tuple[tuple[bytes | str | int, ...], Sequence[int]]:
    """emit.lua's call, and the places in `of_call` of those that have an answer each, in its order."""
    runs: dict[str, list[bytes | str]] = {}
    places: dict[str, list[int]] = {}
    quiet: list[str] = []
    for place, (entry, run, payload) in enumerate(of_call):
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


class _Waiting(NamedTuple, Generic[T]):
    emitted: Emitted
    call: T


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
        self._queues: dict[int, deque[_Waiting[T]]] = {}
        self._senders: dict[int, set[asyncio.Task[None]]] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self.unsettled = 0  # entries without an answer
        self._all_settled = asyncio.Event()
        self._all_settled.set()

    def put(self, partition: int, emitted: Emitted, call: T) -> None:
        """call: is told about once the server has answered."""
        self.unsettled += 1
        queue = self._queues.get(partition)
        if queue is None:
            queue = self._queues[partition] = deque()
        queue.append(_Waiting(emitted, call))
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
            sender.add_done_callback(lambda sender: self._sent(partition, sender))

    def _sent(self, partition: int, sender: asyncio.Task[None]) -> None:
        self._senders[partition].discard(sender)
        self._fill(partition)

    async def _send(self, partition: int, waiting: Sequence[_Waiting[T]]) -> None:
        words = await self._until_answered(partition, [one.emitted for one in waiting])
        self.unsettled -= len(waiting)
        if words is None:
            self._tell(self._tell_settled, [one.call for one in waiting])
        else:
            self._tell(self._tell_settled, [w.call for w, word in zip(waiting, words, strict=True) if word != b"look"])
            self._tell(self._tell_look, [w.call for w, word in zip(waiting, words, strict=True) if word == b"look"])
        if not self.unsettled:
            self._all_settled.set()

    def _tell(self, tell: Callable[[Sequence[T]], None], calls: Sequence[T]) -> None:
        if calls:
            try:
                tell(calls)
            except Exception:
                log.exception("settled_untold", group=self._group, entries=len(calls))

    async def _until_answered(self, partition: int, of_call: Sequence[Emitted]) -> Sequence[bytes] | None:
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
        tasks = [sender for senders in self._senders.values() for sender in senders]
        for queue in self._queues.values():
            queue.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _next(queue: deque[_Waiting[T]]) -> list[_Waiting[T]]:
    taken: list[_Waiting[T]] = []
    size = 0
    while queue and len(taken) < MAX_ENTRIES and (not taken or size + len(queue[0].emitted.payload) <= MAX_BYTES):
        one = queue.popleft()
        taken.append(one)
        size += len(one.emitted.payload)
    return taken
