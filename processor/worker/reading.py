"""Reading work entries: one connection, one blocked read, which is never cancelled (its answer would be lost)."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

import structlog

from processor.core.errors import ServerError
from processor.core.keys import Keyspace
from processor.store.executing import GROUP, Taken
from processor.store.line import Line
from processor.worker.places import Places

__all__ = ["RARE_SECONDS", "Reading"]

log = structlog.get_logger("tailrace.worker")
BLOCK_SECONDS: Final = (
    0.5  # when every stream is named: nothing that is added meanwhile goes unnoticed; a stop waits as long
)
ROUND_SECONDS: Final = 0.1  # when the others that may be named were just found empty: they are looked at that often
FULL_SECONDS: Final = 0.02  # when a task is left out: what comes free meanwhile is not noticed
ANSWER_SECONDS: Final = 5.0  # behind the end of a block
DEEP_COUNT: Final = (
    50  # entries of one stream while there is more than can be taken: a call's costs are shared by as many
)
RARE_SECONDS: Final = 0.05  # between two looks at rare tasks under load

_Stream = tuple[int, str]  # partition, task


class Reading:
    """Names at most as many streams as places are free, in rotation; a task without a free place is left out."""

    def __init__(
        self,
        line: Line,
        keyspace: Keyspace,
        tasks: Sequence[str],
        consumer: str,
        places: Places,
        *,
        rare: Collection[str] = (),
    ) -> None:
        """rare: tasks that have something now and then; while the others have more than can be taken they are looked at less
        often, so that they do not cost these a part of each read."""
        self._line, self._keyspace, self._consumer, self._places = line, keyspace, consumer, places
        self._rare = frozenset(rare) if set(rare) != set(tasks) else frozenset()
        self._wide_due = 0.0  # when a read names all streams again, by the loop's clock
        self._tasks = tuple(tasks)
        self._streams: list[_Stream] = [(p, task) for p in range(len(keyspace.partitions)) for task in tasks]
        self._names = {self._key(stream).encode(): stream for stream in self._streams}
        self._in_turn = self._streams  # those named longest ago first
        self._has_groups = False
        self._is_deep = False  # the last read was given all that it asked for
        self._empty: set[_Stream] = set()  # found so in this round
        self._is_round_over = False

    def _key(self, stream: _Stream) -> str:
        return self._keyspace.partitions[stream[0]].work(stream[1])

    @property
    def all_empty(self) -> bool:
        """Whether each stream was found empty, and nothing came since the first of them was."""
        return len(self._empty) == len(self._streams)

    async def read(self, *, block: bool = True) -> list[Taken]:
        """New entries, [] if none came in time. Raises ServerError."""
        streams, count, rest = self._choose()
        if not streams:
            return []
        if not self._has_groups:
            await self._make_groups()
        if self._is_round_over or self.all_empty:
            self._empty.clear()
        seconds = self._block_seconds(rest) if block and not self.is_only_rare else 0
        self._is_round_over = seconds > 0  # and the next one begins
        command: list[str | int] = ["XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count]
        if seconds:
            command += ("BLOCK", int(seconds * 1000))
        command += ("STREAMS", *map(self._key, streams), *(">" for _ in streams))
        try:
            reply = await self._line.call(*command, seconds=seconds + ANSWER_SECONDS)
        except ServerError as error:
            if "NOGROUP" not in error.message and "UNBLOCKED" not in error.message:
                raise
            self._has_groups = False  # flushed, or lost with the server's last second
            return []
        found = [entry for name, entries in reply or () for entry in self._taken(name, entries)]
        often = [stream for stream in streams if stream[1] not in self._rare]
        full = sum(1 for entry in found if entry.task not in self._rare) if self._rare else len(found)
        self._is_deep = bool(often) and full == len(often) * count
        self._empty = set() if found else self._empty | set(streams)
        return found

    def _choose(self) -> tuple[list[_Stream], int, list[_Stream]]:
        """Streams to name, how many entries of each, and those that are not named now."""
        free = {task: self._places.free(task) for task in self._tasks}
        left, room = dict(free), self._places.free_in_all
        is_deep = self._is_deep and not self._is_wide_due()
        most = max(1, room // DEEP_COUNT) if is_deep else room
        has_often = any(places for task, places in free.items() if task not in self._rare)
        skipped = self._rare if is_deep and has_often else frozenset[str]()
        chosen: list[_Stream] = []
        rest: list[_Stream] = []
        for stream in self._in_turn:
            if len(chosen) < most and left[stream[1]] > 0 and stream[1] not in skipped:
                left[stream[1]] -= 1
                chosen.append(stream)
            else:
                rest.append(stream)
        if not chosen:
            return [], 0, rest
        self._in_turn = rest + chosen
        named = {task: sum(1 for stream in chosen if stream[1] == task) for task in {stream[1] for stream in chosen}}
        count = min(room // len(chosen), *(free[task] // n for task, n in named.items()))
        return chosen, max(1, count), rest

    @property
    def is_only_rare(self) -> bool:
        """Whether no other task has a free place: then it is for a change to end the wait, not for a read that blocks."""
        return bool(self._rare) and not any(self._places.free(task) for task in self._tasks if task not in self._rare)

    def _is_wide_due(self) -> bool:
        if not self._rare:
            return False
        now = asyncio.get_running_loop().time()
        if now < self._wide_due:
            return False
        self._wide_due = now + RARE_SECONDS
        return True

    def _block_seconds(self, rest: Sequence[_Stream]) -> float:
        """rest: streams that are not named now. While one of them may have something for a free place nothing is waited for."""
        if not rest:
            return BLOCK_SECONDS
        waiting = [stream for stream in rest if self._places.free(stream[1])]
        if any(stream not in self._empty for stream in waiting):
            return 0
        return ROUND_SECONDS if len(waiting) == len(rest) else FULL_SECONDS

    def _taken(self, name: bytes, entries: Any) -> list[Taken]:
        _, task = self._names[name]
        found = []
        for id, fields in entries:
            try:
                _, run, _, queued, _, payload = fields
                found.append(Taken(task, id.decode(), run.decode(), queued.decode(), payload))
            except (ValueError, TypeError):
                log.warning("entry_unreadable", task=task, entry=id.decode())  # somebody added it by hand
        return found

    async def _make_groups(self) -> None:
        """At 0: what was queued before the first worker came is read as well."""
        for stream in self._streams:
            try:
                await self._line.call("XGROUP", "CREATE", self._key(stream), GROUP, "0", "MKSTREAM")
            except ServerError as error:
                if "BUSYGROUP" not in error.message:
                    raise
        self._has_groups = True
