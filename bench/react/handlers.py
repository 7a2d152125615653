"""The reactions that the benches bind, by name; the process that appends and the one that works bind the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from bench.react.events import ASKED, DONE
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.events import Event

__all__ = ["BATCH", "CONCURRENCY", "FACTS", "GROUP", "KINDS", "Handlers"]

GROUP: Final = "bench"
BATCH: Final = 200
CONCURRENCY: Final = 400  # handlers of a group at once
FACTS: Final = (
    "run.*",
    "run.failed",
    "tool.*",
    "step.*",
    "message.finished",
    "state.*",
    "usage",
    "order.*",
    "#",
    "*.done",
)


class Handlers:
    """Notes when the first of them began, and what the latencies were."""

    def __init__(self, tail: Tailrace, kind: str, concurrency: int) -> None:
        """kind: one of KINDS. concurrency: of each group."""
        self.began = 0.0  # time.time() of the first line of the first handler
        self.handled = 0  # events
        self.latencies_us: list[float] = []
        KINDS[kind](self, tail, concurrency)

    def _count(self, events: int = 1) -> None:
        if not self.began:
            self.began = time.time()
        self.handled += events

    def _one(self, tail: Tailrace, concurrency: int, *, ordered: bool = False, start: Any = "first") -> None:
        @tail.on(ASKED, group=GROUP, ordered=ordered, concurrency=concurrency, start=start)
        async def emits(event: Event[Any], run: Run[Any]) -> None:
            self._count()
            run.emit(DONE)

    def _ordered(self, tail: Tailrace, concurrency: int) -> None:
        self._one(tail, concurrency, ordered=True)

    def _late(self, tail: Tailrace, concurrency: int) -> None:
        """Does not see what was there before."""
        self._one(tail, concurrency, start="now")

    def _batch(self, tail: Tailrace, concurrency: int) -> None:
        @tail.on(ASKED, group=GROUP, batch=BATCH, concurrency=concurrency)
        async def emits(events: Sequence[Event[Any]]) -> None:
            self._count(len(events))
            for event in events:
                tail.run(event.run).emit(DONE)

    def _batch_nothing(self, tail: Tailrace, concurrency: int) -> None:
        @tail.on(ASKED, group=GROUP, batch=BATCH, concurrency=concurrency)
        async def nothing(events: Sequence[Event[Any]]) -> None:
            self._count(len(events))

    def _first_line(self, tail: Tailrace, concurrency: int) -> None:
        @tail.on(ASKED, group=GROUP, concurrency=concurrency)
        async def first_line(event: Event[Any], run: Run[Any]) -> None:
            """The event carries CLOCK_MONOTONIC of its producer, which is the machine's."""
            now = time.perf_counter_ns()
            self.latencies_us.append((now - event.data["at"]) / 1000)

    def _facts(self, tail: Tailrace, concurrency: int) -> None:
        """Ten groups, none of which asks for increments."""
        for number, pattern in enumerate(FACTS):
            self._counting(tail, f"facts-{number}", pattern, concurrency)

    def _tokens(self, tail: Tailrace, concurrency: int) -> None:
        self._counting(tail, "tokens", "message.delta", concurrency)

    def _counting(self, tail: Tailrace, group: str, pattern: str, concurrency: int) -> None:
        @tail.on(pattern, group=group, concurrency=concurrency)
        async def counts(event: Event[Any], run: Run[Any]) -> None:
            self._count()

    def _sleeper(self, tail: Tailrace, concurrency: int) -> None:
        """A group that nobody works for: it holds the log."""
        self._counting(tail, "sleeper", "history.kept", concurrency)

    def _nobody(self, tail: Tailrace, concurrency: int) -> None:
        pass


KINDS: Final[dict[str, Callable[[Handlers, Tailrace, int], None]]] = {
    "one": Handlers._one,
    "ordered": Handlers._ordered,
    "late": Handlers._late,
    "batch": Handlers._batch,
    "batch_nothing": Handlers._batch_nothing,
    "first_line": Handlers._first_line,
    "facts": Handlers._facts,
    "tokens": Handlers._tokens,
    "sleeper": Handlers._sleeper,
    "nobody": Handlers._nobody,
}
