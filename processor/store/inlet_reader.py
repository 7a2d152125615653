"""Reading a foreign stream page by page, and noticing what went before it could be read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from processor.core.inlet import NOTHING, id_of
from processor.observe import metrics
from processor.store.inlets import RawEntry, Source, Stream

__all__ = ["InletReader", "Page"]

ENTRIES: Final = 256  # of a page: making events of them holds the loop for some milliseconds
BYTES: Final = 1 << 20  # about: pages of large entries are shorter
BLOCK_SECONDS: Final = 0.5
LOOK_SECONDS: Final = 5.0


class Page(NamedTuple):
    """What was read at once; it may be nothing."""

    entries: Sequence[RawEntry]
    last: str  # where reading goes on
    added: int | None  # entries that the stream ever had up to there, as far as known


class InletReader:
    """How far one inlet has read. Everything it asks goes over the source's line, one question at a time."""

    def __init__(self, source: Source, inlet: str, log: Any, *, clock: Callable[[], float] = time.monotonic) -> None:
        """log: structlog's, bound to the inlet."""
        self._source, self._inlet, self._log, self._clock = source, inlet, log, clock
        self._went_back = False  # it was told
        self.begin(NOTHING, None)

    def begin(self, after: str, added: int | None) -> None:
        """From now on behind that entry. added: how many the stream ever had up to it."""
        self._position, self._added = after, added
        self._count = ENTRIES // 4
        self._unsure = True  # something was read since the last look
        self._look_at = self._clock()

    async def read(self, seconds: float = BLOCK_SECONDS) -> Page:
        """The next page; empty if nothing came in that time. Raises ServerError."""
        entries = await self._source.read(self._position, self._count, seconds=seconds)
        if entries:
            self._position, self._unsure = entries[-1][0], True
            if self._added is not None:
                self._added += len(entries)
            size = sum(sum(map(len, fields)) for _, fields in entries)
            self._count = max(1, min(ENTRIES, 2 * self._count, BYTES * len(entries) // max(size, 1)))
        if self._clock() >= self._look_at or (self._unsure and not entries):
            self._notice(await self._source.look())
            self._unsure, self._look_at = bool(entries), self._clock() + LOOK_SECONDS
        return Page(entries, self._position, self._added)

    def _notice(self, stream: Stream) -> None:
        """Trimmed or deleted entries that nobody read are told, as far as they can be counted."""
        if stream.last == NOTHING or stream.added < 0:
            return
        if id_of(stream.last) < id_of(self._position):
            if not self._went_back:
                self._log.warning("inlet_stream_went_back", last=stream.last, position=self._position)
            self._went_back = True
            return
        self._went_back = False
        if id_of(stream.end) <= id_of(self._position):
            behind = stream.added  # nothing is left to be read
        elif id_of(stream.first) > id_of(self._position):
            behind = stream.added - stream.length  # all that it has is still to be read
        else:
            return
        if self._added is not None and behind > self._added:
            self._log.warning("inlet_missed", entries=behind - self._added, behind=self._position)
            metrics.inlet_missed_total.labels(self._inlet).inc(behind - self._added)
        self._added = behind
