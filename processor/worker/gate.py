"""Rates and limits of tasks, asked before executions begin.

A place of a limit is asked for first, then the turn of the rate, so that no turn is lost to a full limit; a refused turn gives
the place back. What is refused comes back when there may be room, one behind the other rather than all at once.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import structlog

from processor.core.errors import ServerError
from processor.core.json import loads
from processor.core.rate import Limit, Rate
from processor.core.settings import Settings
from processor.observe.metrics import put_off_total
from processor.store.connection import speaking_of
from processor.store.executing import Taken
from processor.store.rates import Asking, Place, PlaceVerb, Turn, ask_places, ask_rates
from processor.store.server import Server

__all__ = ["Gate", "Guarded", "Home"]

log = structlog.get_logger("tailrace.gate")
LOOK_AGAIN_MS: Final = 500  # for a place: nobody can say when one comes free. As often as due entries are looked for
MOST_APART_MS: Final = 30_000  # that those who wait for the same come back behind the first
AWAY_MS: Final = 1_000  # while the server does not answer


class Guarded(Protocol):
    """What of a task counts here."""

    @property
    def name(self) -> str: ...
    @property
    def rate(self) -> Rate | None: ...
    @property
    def limit(self) -> Limit | None: ...


class Home(Asking, Protocol):
    """What of a session counts here."""

    @property
    def settings(self) -> Settings: ...
    @property
    def server(self) -> Server: ...


class _Wanted(NamedTuple):
    """An entry that asks, by its position in the batch."""

    position: int
    taken: Taken
    turn: Turn | None
    place: Place | None


class Gate:
    """One worker's. Belongs to one event loop."""

    def __init__(
        self,
        session: Home,
        tasks: Mapping[str, Guarded],
        *,
        now: Callable[[], float] | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """now: seconds, the loop's by default. draw: random in [0, 1)."""
        self.guards_any = any(task.rate or task.limit for task in tasks.values())
        self._session = session
        self._now = now or asyncio.get_running_loop().time
        self._draw = draw
        self._holder = secrets.token_hex(6)
        self._term_ms = int(session.settings.visibility_seconds * 1000)
        self._held: dict[str, Place] = {}  # run → as it was taken
        self._leaving: list[Place] = []  # given back with the next call
        # One call a time, so that what was sent later (a give-back behind a renewal) is also executed later.
        self._calls = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None
        self._waiting: dict[str, list[float]] = {}  # key → heap of the times when those who were refused come back

    async def ask(self, entries: Sequence[tuple[Taken, Guarded]]) -> list[int]:
        """For each entry 0 and it may begin, else after how many ms to ask again. left() must follow each 0.

        Raises nothing: while the server does not answer, nobody begins who needs to ask.
        """
        waits = [0] * len(entries)
        wanted = [w for at, (taken, task) in enumerate(entries) if (w := _wanted(at, taken, task)) is not None]
        if not wanted:
            return waits
        try:
            with speaking_of(self._session.server.address.url):
                for position, wait in await self._ask(wanted):
                    waits[position] = wait
        except ServerError as error:
            log.warning("limits_not_asked", entries=len(wanted), error=error.code)
            put_off_total.labels("away").inc(len(wanted))
            for w in wanted:
                waits[w.position] = AWAY_MS
                if w.place is not None:  # perhaps taken: its answer was lost
                    self._held[w.taken.run] = w.place
            self._give_back(w.taken.run for w in wanted)
        return waits

    async def _ask(self, wanted: Sequence[_Wanted]) -> list[tuple[int, int]]:
        """(position, wait) of those that are refused. Raises RedisError, ServerError."""
        refused = []
        placed = [w for w in wanted if w.place is not None]
        answers = await self._ask_places([w.place for w in placed if w.place is not None])
        full = {w.position for w, answer in zip(placed, answers, strict=True) if answer == "full"}
        for w in placed:
            if w.place is None or w.position not in full:
                continue
            refused.append((w.position, self._apart(f"limit:{w.place.key}", LOOK_AGAIN_MS, LOOK_AGAIN_MS)))
        put_off_total.labels("limit").inc(len(full))
        timed = [w for w in wanted if w.turn is not None and w.position not in full]
        turns = [w.turn for w in timed if w.turn is not None]
        for w, turn, wait in zip(timed, turns, await ask_rates(self._session, turns), strict=True):
            if wait:
                self._give_back([w.taken.run])
                put_off_total.labels("rate").inc()
                refused.append((w.position, self._apart(f"rate:{turn.key}", wait, turn.rate.interval_ms)))
        return refused

    async def _ask_places(self, asked: Sequence[Place]) -> list[str]:
        """What was given back goes first, so that it is free for those who ask."""
        async with self._calls:
            leaving, self._leaving = self._leaving, []
            try:
                answers = await ask_places(self._session, self._holder, [*leaving, *asked], self._term_ms)
            except BaseException:
                self._leaving = leaving + self._leaving
                raise
        given = answers[len(leaving) :]
        for place, answer in zip(asked, given, strict=True):
            if answer == "taken":
                self._held[place.run] = place
        return list(given)

    def _apart(self, key: str, first_ms: float, spacing_ms: float) -> int:
        """When to come back, behind those of this process who wait for the same."""
        now = self._now()
        heap = self._waiting.setdefault(key, [])
        while heap and heap[0] <= now:
            heapq.heappop(heap)
        behind = spacing_ms * len(heap)
        if behind > MOST_APART_MS:
            behind = MOST_APART_MS * self._draw()
        wait = int(first_ms + behind)
        heapq.heappush(heap, now + wait / 1000)
        return wait

    # Leaving.

    def left(self, run: str) -> None:
        """Its function has ended, or did not begin after all: its place is free. Nothing if it has none."""
        self._give_back([run])

    def _give_back(self, runs: Iterable[str]) -> None:
        held = [place for run in runs if (place := self._held.pop(run, None)) is not None]
        if not held:
            return
        self._leaving += [place._replace(verb="give_back") for place in held]
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.get_running_loop().create_task(self._flush(), name="tailrace-places")

    async def _flush(self) -> None:
        """Many leave in one turn of the loop, and go in one call."""
        while self._leaving:
            try:
                with speaking_of(self._session.server.address.url):
                    await self._ask_places([])
            except ServerError as error:
                log.info("places_not_given_back", places=len(self._leaving), error=error.code)
                return  # with the next call; at the latest they pass by themselves

    async def renew(self) -> None:
        """Each third of a visibility timeout or oftener. Raises ServerError."""
        self._forget_waiting()
        if not self._held and not self._leaving:
            return
        with speaking_of(self._session.server.address.url):
            async with self._calls:
                held = [place._replace(verb="renew") for place in self._held.values()]
                await ask_places(self._session, self._holder, held, self._term_ms)
            await self._ask_places([])

    def _forget_waiting(self) -> None:
        """Keys hold values of labels, whose number has no bound."""
        now = self._now()
        for key in [key for key, heap in self._waiting.items() if max(heap, default=now) <= now]:
            del self._waiting[key]

    async def close(self) -> None:
        """Returns when what was given back is told, or the server does not answer."""
        if self._flushing is not None:
            await self._flushing


def _wanted(position: int, taken: Taken, task: Guarded) -> _Wanted | None:
    """None for a task that nothing guards."""
    rate, limit = task.rate, task.limit
    if rate is None and limit is None:
        return None
    labelled = (rate is not None and rate.by is not None) or (limit is not None and limit.by is not None)
    labels = _labels(taken.payload) if labelled else {}
    turn = place = None
    if rate is not None:
        turn = Turn(rate, rate.key(task.name, labels))
    if limit is not None:
        verb: PlaceVerb = "take_over" if taken.seen else "take"
        place = Place(verb, limit.key(task.name, labels), limit.at_most, taken.run)
    return _Wanted(position, taken, turn, place)


def _labels(payload: bytes) -> Mapping[str, str]:
    labels: Mapping[str, str] = loads(b"{" + payload).get("labels") or {}
    return labels
