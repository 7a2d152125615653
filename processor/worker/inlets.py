"""Inlets at work: one process at a time takes the entries of a foreign stream into runs.

Which process that is, an election decides (singletons.py); nothing depends on it for safety. One that was frozen and wakes,
and two at once, do no harm: partitions take an entry only behind the one before it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.inlet import Inlet
from processor.client.session import Session
from processor.core.errors import ServerError, SettingsError
from processor.core.inlet import NOTHING, GoBack, Item, Lane, Letter, id_of, place_of
from processor.observe import metrics
from processor.store.connection import Address
from processor.store.inlet_reader import InletReader, Page
from processor.store.inlets import Source, State, Target
from processor.store.line import Line, failed_in_script
from processor.store.stopping import pause_or_stop
from processor.worker.singletons import Duty

if TYPE_CHECKING:
    from processor.client.tailrace import Tailrace

__all__ = ["Taking", "inlet_duties"]

log = structlog.get_logger("tailrace.inlet")

TURN: Final = 32  # entries that are mapped before others have their turn in the loop
NOTE_SECONDS: Final = 0.5  # so long what was done may be unnoted; then it is looked at once more after a crash
CHECK_SECONDS: Final = 5.0  # between two questions whether the partitions still have what they took
NOW_SECONDS: Final = 0.001  # 0 would be for ever
RETRY_SECONDS: Final = 1.0
FULL_SECONDS: Final = (0.05, 1.0)  # pauses while somebody else is behind, growing


def inlet_duties(tail: Tailrace, session: Session) -> Mapping[str, Duty]:
    """By the name of their lock. session: the tail's in this loop."""
    return {f"inlet:{name}": Taking(inlet, session).run for name, inlet in tail.inlets.items()}


class Taking:
    """One inlet in one process. run() whenever the process is elected for it."""

    def __init__(self, inlet: Inlet, session: Session) -> None:
        self.inlet, self._session = inlet, session
        self._log = log.bind(inlet=inlet.name, stream=inlet.stream)
        self._max_event_bytes = session.settings.max_event_kib << 10

    async def run(self, stop: asyncio.Event) -> None:
        """Until stop is set. A server that is away, or refuses, is waited for. Raises SettingsError."""
        trouble = ""
        async with self._ends() as (source, target):
            while not stop.is_set():
                stint = _Stint(self, source, target, self._log, stop)
                try:
                    await stint.begin()
                    if trouble:
                        self._log.info("inlet_goes_on")
                    trouble = ""
                    await stint.work()
                except GoBack as why:
                    self._log.warning("inlet_goes_back", why=str(why))
                    await pause_or_stop(stop, RETRY_SECONDS * random.random() / 4)
                except ServerError as error:
                    if error.message != trouble:
                        self._log.warning("inlet_waits", error=error.code, message=error.message)
                    trouble = error.message
                    await pause_or_stop(stop, RETRY_SECONDS * (0.5 + random.random()))

    async def take_now(self) -> None:
        """What is there by now, as far as nobody is behind. Raises GoBack, ServerError, SettingsError."""
        async with self._ends() as (source, target):
            stint = _Stint(self, source, target, self._log, asyncio.Event(), patient=False)
            await stint.begin()
            await stint.work_now()

    @asynccontextmanager
    async def _ends(self) -> AsyncIterator[tuple[Source, Target]]:
        """Each on a connection of its own."""
        session, inlet = self._session, self.inlet
        address = session.server.address
        reads = Line(Address.parse(inlet.url) if inlet.url else address, "tailrace-inlet")
        calls = Line(address, "tailrace-inlet-append")
        try:
            yield Source(reads, inlet.stream), Target(session, calls, inlet.name, relaid=self._relaid)
        finally:
            reads.close()
            calls.close()

    async def _relaid(self, partition: int, layout: str) -> None:
        """A partition has another layout than the session knows: the session finds out."""
        settle = self._session.appender.settle_topology
        assert settle is not None, "sessions have one"
        await settle(partition, layout)

    async def items(self, page: Page) -> list[Item]:
        """What becomes of its entries, as far as they are not left out."""
        found = []
        for n, (id, fields) in enumerate(page.entries, 1):
            item = self.inlet.item(id, fields, self._max_event_bytes)
            if item is not None:
                found.append(item)
            if n % TURN == 0:
                await asyncio.sleep(0)
        return found

    def number(self, item: Item) -> int:
        """The partition that takes it. What goes to none stands in partition 0."""
        return 0 if item.letter is not None else self._session.keys.number(item.run)


class _Stint:
    """From one question where everything stands until something goes wrong. Nothing is kept beyond it."""

    def __init__(
        self, taking: Taking, source: Source, target: Target, log: Any, stop: asyncio.Event, *, patient: bool = True
    ) -> None:
        """patient: waits for who is behind."""
        self._taking, self._source, self._target, self._log, self._stop = taking, source, target, log, stop
        self._patient = patient
        self._reader = InletReader(source, taking.inlet.name, log)
        self._loop = asyncio.get_running_loop()
        self._lanes: Sequence[Lane] = ()
        self._page: Page | None = None  # is being appended
        self._last = NOTHING  # entry of the last page
        self._appending: asyncio.Task[bool] | None = None
        self._done: Page | None = None  # the last one that was dealt with, until that is noted
        self._note_at = self._check_at = 0.0

    async def begin(self) -> None:
        """Asks what was noted and what the partitions have. Raises ServerError, SettingsError."""
        stream = self._taking.inlet.stream
        marks = await self._target.marks()
        state = await self._target.state() or await self._first_state(marks)
        if state.stream != stream:
            raise SettingsError(
                f"inlet {self._target.name} takes entries of {state.stream}, and is told to take those of {stream} now.",
                remedy='Give the new one a name of its own: tail.inlet(…, name="…").',
            )
        place = place_of(state.done, state.marks, marks)
        self._lanes, self._last = place.lanes, place.after
        self._reader.begin(place.after, state.added if place.after == state.done else None)
        self._log.info("inlet_begins", behind=place.after)
        if place.after != state.done:
            held = await self._source.look()
            is_whole = held.length and id_of(held.first) <= id_of(place.after)
            (self._log.info if is_whole else self._log.warning)(
                "inlet_refills", noted=state.done, behind=place.after, first=held.first
            )
        self._check_at = self._loop.time() + CHECK_SECONDS

    async def _first_state(self, marks: Sequence[str]) -> State:
        """Of an inlet that begins."""
        inlet, held = self._taking.inlet, await self._source.look()
        if inlet.start == "now" and all(mark == NOTHING for mark in marks):
            state = State(inlet.stream, held.last, held.added if held.added >= 0 else None)
        else:
            is_sure = held.added >= 0 and held.deleted == NOTHING
            state = State(inlet.stream, NOTHING, held.added - held.length if is_sure else None)
        await self._target.note(state)
        return await self._target.state() or state  # another one may have begun it meanwhile

    # The main step: while one page is appended, the next one is read, and made into events.

    async def work(self) -> None:
        """Until it is told to stop. Raises GoBack, ServerError."""
        stopping = self._loop.create_task(self._stop.wait())
        reading = self._loop.create_task(self._reader.read())
        try:
            while not self._stop.is_set():
                waiting = [reading, stopping] if self._appending is None else [reading, stopping, self._appending]
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._appending is not None and self._appending.done():
                    await self._appended()
                if reading.done():
                    page = reading.result()
                    reading = self._loop.create_task(self._reader.read())
                    items = await self._taking.items(page)
                    await self._appended()
                    if page.last != self._last:
                        self._append(page, items)
                await self._keep()
            await self._appended()
            await self._note()
        finally:
            left = [task for task in (stopping, reading, self._appending) if task is not None]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def work_now(self) -> None:
        """Until nothing is left that can be taken now. Raises GoBack, ServerError."""
        while (page := await self._reader.read(NOW_SECONDS)).entries:
            self._append(page, await self._taking.items(page))
            await self._appended()
            if self._done is None:
                return
            await self._note()

    def _append(self, page: Page, items: Sequence[Item]) -> None:
        metrics.inlet_entries_total.labels(self._target.name, "left_out").inc(len(page.entries) - len(items))
        for item in items:
            self._lanes[self._taking.number(item)].put(item)
        self._page, self._last = page, page.last
        self._appending = self._loop.create_task(self._send_all(), name="tailrace-inlet")

    async def _appended(self) -> None:
        """The page on its way, if there is one, has been dealt with."""
        if self._appending is None:
            return
        appending, self._appending = self._appending, None
        try:
            is_whole = await appending
        except asyncio.CancelledError:
            appending.cancel()
            raise
        self._tell()
        if is_whole:
            self._done = self._page

    async def _send_all(self) -> bool:
        """Whether all that waits in the lanes was dealt with: False if it was told to stop before."""
        lanes = [self._loop.create_task(self._send(n, lane)) for n, lane in enumerate(self._lanes) if lane]
        try:
            return all(await asyncio.gather(*lanes))
        finally:
            for task in lanes:
                task.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)

    async def _send(self, partition: int, lane: Lane) -> bool:
        pause, waits = FULL_SECONDS[0], ""
        while lane:
            parcels = lane.next()
            try:
                answers = await self._target.send(partition, parcels)
            except ServerError as error:
                if not failed_in_script(error):
                    raise
                lane.stopped(parcels, f"corrupt: {error.message}")
                continue
            behind = lane.answered(parcels, answers)
            if behind is None:
                continue
            if not self._patient:
                return False
            if behind != waits:
                self._log.warning("inlet_waits", error="full", group=behind)
                waits = behind
            await pause_or_stop(self._stop, pause * (0.5 + random.random()))
            pause = min(2 * pause, FULL_SECONDS[1])
            if self._stop.is_set():
                return False
        if waits:
            self._log.info("inlet_goes_on")
        return True

    def _tell(self) -> None:
        """Counts what became of the entries, and logs what did not get where it should."""
        outcomes: Counter[str] = Counter()
        aside: list[tuple[str, Letter]] = []
        for lane in self._lanes:
            done, lane.done = lane.done, []
            for word, item in done:
                outcomes["set_aside" if item.letter is not None and word == "taken" else word] += 1
                if item.letter is not None and word == "taken":
                    aside.append((item.id, item.letter))
                elif word == "dropped":
                    self._log.error("inlet_entry_dropped", entry=item.id, run=item.run)
        for outcome, count in outcomes.items():
            metrics.inlet_entries_total.labels(self._target.name, outcome).inc(count)
        if aside:
            id, letter = aside[0]
            self._log.warning("inlet_entries_set_aside", entries=len(aside), entry=id, reason=letter.reason)

    # From time to time.

    async def _keep(self) -> None:
        """Notes how far it is, and asks whether the partitions still have what they took. Raises GoBack, ServerError."""
        now = self._loop.time()
        if self._done is not None and now >= self._note_at:
            await self._note()
            self._note_at = now + NOTE_SECONDS
        if now >= self._check_at:
            await self._check()
            self._check_at = now + CHECK_SECONDS

    async def _note(self) -> None:
        if self._done is None:
            return
        marks = {number: lane.mark for number, lane in enumerate(self._lanes) if lane.mark != NOTHING}
        await self._target.note(State(self._taking.inlet.stream, self._done.last, self._done.added, marks))
        self._done = None

    async def _check(self) -> None:
        known = [lane.mark for lane in self._lanes]
        for number, mark in enumerate(await self._target.marks()):
            if id_of(mark) < id_of(known[number]):
                raise GoBack(f"partition {number} has its entries up to {mark}, and had them up to {known[number]}")
