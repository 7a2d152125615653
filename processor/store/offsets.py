"""A producer whose events bring their own numbers: offsets in a file, which need no checkpoint elsewhere.

The numbers skip, so each event is a batch of its own and names the number before it. The producer is a declared checkpoint:
the server keeps its position as long as the run, under `c:` instead of `p:`. Nothing is kept for a refill, since whoever
sends can read the file again from what the server has.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from processor.core.chain import PAUSE_SECONDS, Flight, Outcome
from processor.core.errors import ServerUnreachable
from processor.core.events import OVERHEAD, Fields
from processor.store.append import Source
from processor.store.writer import refusal

__all__ = ["CHECKPOINT", "Moved", "Offsets"]

log = structlog.get_logger("tailrace.offsets")
CHECKPOINT: Final = "c:"  # in front of the names of producers that are never forgotten
AHEAD: Final = 6  # events that wait or are under way: two calls in flight, and what follows is ready
_IN_FLIGHT: Final = 2


class Moved(Exception):
    """The server stands elsewhere than was believed: it lost its tail, or another process sends the same file."""

    def __init__(self, stored: int) -> None:
        super().__init__(f"the server has everything up to {stored}")
        self.stored = stored


class _Numbered:
    """An event with its number and the one before it."""

    __slots__ = ("acknowledged", "body", "draft", "number", "prev", "size")

    def __init__(self, prev: int, number: int, draft: Fields) -> None:
        self.prev, self.number, self.draft = prev, number, draft
        self.size = len(draft[1]) + OVERHEAD
        self.body: object | None = None
        self.acknowledged = False

    def settle(self, outcome: Outcome) -> None:
        """Told through the whole producer's state."""


class Offsets:
    """One producer of one run. A source of the appender, as chains are.

    After `Moved` or a refusal it is of no use any more: make another one, which asks again.
    """

    def __init__(self, run: str, name: str, mark: Callable[[Source], None]) -> None:
        """name: of the producer, without its prefix. mark: the appender's."""
        self.run, self.writer = run, CHECKPOINT + name
        self.refilled = 0
        self.followers: Sequence[Source] = ()
        self.stored = 0  # the highest number that the server is known to have
        self._mark = mark
        self._queue: deque[_Numbered] = deque()
        self._flying: deque[Flight] = deque()
        self._last = 0  # the last number given
        self._ask = True
        self._answered = False  # what is stored has been told once
        self._taken = False  # the server has taken an event since then
        self._draining = False  # nothing goes out until all flights are answered
        self._pause_until = 0.0
        self._full = False  # and the log was told
        self._failed: Exception | None = None
        self._waiters: list[asyncio.Future[None]] = []

    # For whoever has the events.

    async def position(self) -> int:
        """What the server has of this producer. Waits for as long as it is away."""
        self._mark(self)
        while not self._answered:
            await self._change()
        return self.stored

    async def put(self, number: int, draft: Fields) -> None:
        """Sends an event behind the one before, as soon as few enough are under way.

        Raises Moved, or what the server refused it with; both may be about an earlier one.
        """
        while len(self._queue) + len(self._flying) >= AHEAD:
            await self._change()
        self._check()
        assert self._answered, "ask for the position first"
        self._queue.append(_Numbered(self._last, number, draft))
        self._last = number
        self._mark(self)

    async def settled(self) -> None:
        """Waits until the server has everything. Raises as put."""
        while self._queue or self._flying or self._ask:
            await self._change()
        self._check()

    @property
    def under_way(self) -> bool:
        return bool(self._queue or self._flying)

    async def _change(self) -> None:
        self._check()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter
        self._check()

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._failed is None:
            self._failed = error
        self._queue.clear()
        self._tell()

    # For the appender.

    def take(self, events: int, size: int, now: float) -> Flight | None:
        if not self.wants or self._draining or len(self._flying) >= _IN_FLIGHT:
            return None
        if self._ask:
            return None if self._flying else self._fly(Flight(0, ()))
        if now < self._pause_until:
            return None
        item = self._queue.popleft()
        return self._fly(Flight(item.prev, [item], item.size))

    def _fly(self, flight: Flight) -> Flight:
        self._flying.append(flight)
        return flight

    def answered(self, outcomes: Sequence[tuple[int, Outcome]], now: float) -> None:
        flight = self._flying.popleft()
        _, outcome = outcomes[0]
        if not flight.items:
            self._position_told(outcome)
        elif outcome.accepted:
            self.stored, self._taken = max(self.stored, flight.number), True
            self._full = False
        elif outcome.word == "full":
            self._wait_for_room(flight, outcome, now)
        elif self._draining and outcome.word == "hole":
            self._again(flight)  # behind one that was not taken
        elif outcome.word == "hole":
            self._fail(Moved(int(outcome.detail)))
        else:
            self._fail(refusal(self.run, flight.items[0].draft[0], outcome))
        self._drained()

    def _position_told(self, outcome: Outcome) -> None:
        self._ask = False
        if outcome.word != "stored":
            self._fail(refusal(self.run, "log", outcome))
            return
        stored = int(outcome.detail)
        # Where nothing was taken since the first answer, what others had sent before may be lost unnoticed.
        lost = self._answered and (stored < self.stored or not self._taken)
        while self._queue and self._queue[0].number <= stored:
            self._queue.popleft()
        if lost or (self._queue and self._queue[0].prev != stored):
            self._fail(Moved(stored))
            return
        if not self._queue and self._answered and stored != self._last:
            self._fail(Moved(stored))
            return
        self.stored = stored
        self._last = max(self._last, stored)
        self._answered = True

    def _wait_for_room(self, flight: Flight, outcome: Outcome, now: float) -> None:
        if not self._full:
            self._full = True
            log.warning("backlog_full", run=self.run, of=outcome.detail)
        self._pause_until = now + PAUSE_SECONDS
        self._again(flight)

    def _again(self, flight: Flight) -> None:
        self._draining = True
        items = [item for item in flight.items if isinstance(item, _Numbered)]
        self._queue = deque(sorted([*items, *self._queue], key=lambda item: item.number))

    def _drained(self) -> None:
        if not self._flying:
            self._draining = False
        self._tell()

    def unsent(self, now: float) -> None:
        flight = self._flying.popleft()
        if self._failed is None:
            self._again(flight)  # a question has no items, and is asked again
        self._drained()

    def broken(self) -> None:
        """What was under way may or may not have been taken: the server is asked."""
        flights, self._flying = self._flying, deque()
        if self._failed is None:
            for flight in flights:
                self._again(flight)
            self._ask = True
        self._drained()

    def forget(self, now: float) -> None:
        """Nothing is kept."""

    def abandon(self) -> None:
        self._flying.clear()
        self._fail(ServerUnreachable(f"run {self.run}: its Tailrace was closed; what was not sent is read again."))

    @property
    def wants(self) -> bool:
        return self._failed is None and (bool(self._queue) or self._ask)

    @property
    def idle(self) -> bool:
        return self._failed is not None and not self._flying

    def close(self) -> None:
        """Nobody sends any more: the appender lets it go once nothing is under way."""
        self._fail(Moved(self.stored))
