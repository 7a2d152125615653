"""Rates and limits of tasks, asked before executions begin.

A place of a limit is asked for first, then the turn of the rate, so that no turn is lost to a full limit; a refused turn gives
the place back.
"""

from __future__ import annotations

import asyncio
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

__all__ = ["Gate", "Guarded", "Home", "Line", "line_of"]

log = structlog.get_logger("tailrace.gate")
LOOK_AGAIN_MS: Final = 500  # for a place, at the latest: as often as due entries are looked for
SOON_MS: Final = 10  # the same while nobody knows yet how long places are kept
LEAST_MS: Final = 5
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
    ) -> None:
        """now: seconds, the loop's by default."""
        self.guards_any = any(task.rate or task.limit for task in tasks.values())
        self._session = session
        self._now = now or asyncio.get_running_loop().time
        self._holder = secrets.token_hex(6)
        self._term_ms = int(session.settings.visibility_seconds * 1000)
        self._held: dict[str, tuple[Place, float]] = {}  # run → as it was taken, and when
        self._leaving: list[Place] = []  # given back with the next call
        # One call a time, so that what was sent later (a give-back behind a renewal) is also executed later.
        self._calls = asyncio.Lock()
        self._flushing: asyncio.Task[None] | None = None
        self._kept: dict[str, float] = {}  # limit → seconds for which its places were kept lately
        self.on_free: Callable[[str], None] = lambda key: None  # a place of this limit was given back

    async def ask(self, entries: Sequence[tuple[Taken, Guarded]]) -> list[int]:
        """For each entry 0 and it may begin, else after how many ms the first of those who wait may. left() must follow each 0.

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
                    self._held[w.taken.run] = w.place, self._now()
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
            refused.append((w.position, round(self._turnover_ms(w.place))))
        put_off_total.labels("limit").inc(len(full))
        timed = [w for w in wanted if w.turn is not None and w.position not in full]
        turns = [w.turn for w in timed if w.turn is not None]
        for w, wait in zip(timed, await ask_rates(self._session, turns), strict=True):
            if wait:
                self._give_back([w.taken.run])
                put_off_total.labels("rate").inc()
                refused.append((w.position, wait))
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
                self._held[place.run] = place, self._now()
        return list(given)

    def spacing_ms(self, taken: Taken, task: Guarded) -> float:
        """How far apart those may begin who wait for the same as this one, as far as this process sees."""
        wanted = _wanted(0, taken, task)
        turn = wanted.turn.rate.interval_ms if wanted is not None and wanted.turn is not None else 0.0
        return max(turn, self._turnover_ms(wanted.place) if wanted is not None and wanted.place is not None else 0.0)

    def _turnover_ms(self, place: Place) -> float:
        """How often a place of this limit comes free."""
        kept, now = self._kept.get(place.key), self._now()
        if kept is None:
            kept = max((now - since for held, since in self._held.values() if held.key == place.key), default=0.0)
            kept = max(kept, SOON_MS / 1000 * place.at_most)
        return min(max(kept * 1000 / place.at_most, LEAST_MS), LOOK_AGAIN_MS)

    # Leaving.

    def left(self, run: str) -> None:
        """Its function has ended, or did not begin after all: its place is free. Nothing if it has none."""
        held = self._held.get(run)
        if held is None:
            return
        place, since = held
        seconds = self._now() - since
        self._kept[place.key] = 0.8 * self._kept.get(place.key, seconds) + 0.2 * seconds
        self._give_back([run])
        self.on_free(place.key)

    def _give_back(self, runs: Iterable[str]) -> None:
        left = [held for run in runs if (held := self._held.pop(run, None)) is not None]
        if not left:
            return
        self._leaving += [place._replace(verb="give_back") for place, _ in left]
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
        held_keys = {
            place.key for place, _ in self._held.values()
        }  # keys hold values of labels: their number has no bound
        self._kept = {key: kept for key, kept in self._kept.items() if key in held_keys}
        if not self._held and not self._leaving:
            return
        with speaking_of(self._session.server.address.url):
            async with self._calls:
                held = [place._replace(verb="renew") for place, _ in self._held.values()]
                await ask_places(self._session, self._holder, held, self._term_ms)
            await self._ask_places([])

    async def close(self) -> None:
        """Returns when what was given back is told, or the server does not answer."""
        if self._flushing is not None:
            await self._flushing


class Line(NamedTuple):
    """Those who wait for the same: keys of rate and limit, "" for none."""

    rate: str
    limit: str


def line_of(taken: Taken, task: Guarded) -> Line:
    """Where an entry waits."""
    wanted = _wanted(0, taken, task)
    if wanted is None:
        return Line("", "")
    return Line(wanted.turn.key if wanted.turn else "", wanted.place.key if wanted.place else "")


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
