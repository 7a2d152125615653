"""A partition that a member of an ordered group owns: its entries by run, one event of a run at a time, runs side by side.

What fails stays first of its run, and its run waits; the other runs go on.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from typing import Any, Final

import structlog

from processor.client.reaction import Reaction
from processor.core.backoff import RetryLater
from processor.core.cursor import FeedId
from processor.core.errors import IllegalEvent, ServerError
from processor.core.events import Event
from processor.observe import metrics
from processor.store.executing import Settled
from processor.store.leases import Pulled
from processor.store.reacting import Delivery, ReactUnit
from processor.worker.chained import Chained
from processor.worker.in_hand import Crew, Entry, RunInHand, Standing
from processor.worker.lanes import Call, Ended
from processor.worker.suspects import turn
from processor.worker.verdicts import Verdict, dead_of, judge

__all__ = ["Owned"]

log = structlog.get_logger("tailrace.reactions")
WINDOW: Final = 400  # entries in hands that go on; what waits does not count
MOST: Final = 10_000  # with those that wait
SKIPPED_AT_ONCE: Final = 200
WAIT_SECONDS: Final = 60.0  # at most, before a run goes on: what waits in place keeps the log from being cut
AGAIN_SECONDS: Final = 0.2


class Owned:
    """Under one lease, from its first pull until it is given back, lost, or begins again. Belongs to one event loop."""

    def __init__(
        self,
        crew: Crew,
        number: int,
        token: str,
        chain: Callable[[Owned], Chained],
        *,
        is_lost: bool,
        stopped: Collection[str],
    ) -> None:
        """is_lost: what is delivered again is suspect. stopped: runs of which nothing is handled."""
        self._crew, self.number, self.token = crew, number, token
        self.after = "0-0"  # the entry received last
        self.is_hungry = True  # there may be more to pull
        self.is_closing = False  # nothing more begins
        self.is_dropped = False  # nothing more is settled
        self._suspecting = is_lost
        self._stopped = set(stopped)
        self._runs: dict[str, RunInHand] = {}
        self._ready: deque[RunInHand] = deque()
        self._suspects: deque[RunInHand] = deque()  # whose next event is one
        self._waiting: set[RunInHand] = set()
        self._blocked = 0  # entries of runs that wait or are held
        self._total = 0  # entries in hands
        self._calls: dict[int, tuple[Call, RunInHand]] = {}
        self._alone: asyncio.Future[None] | None = None  # a suspect runs, or is about to
        self._beside: set[asyncio.Task[None]] = set()
        self._began = False
        self._idle = asyncio.Event()
        self.chain = chain(self)

    # What others ask.

    @property
    def calls(self) -> int:
        """That run, or are about to."""
        return len(self._calls)

    @property
    def total(self) -> int:
        """Entries in hands."""
        return self._total

    @property
    def active(self) -> int:
        """Entries in hands that do not wait for time to pass, or for another member."""
        return self._total - self._blocked

    @property
    def room(self) -> int:
        """How many entries more may come."""
        return 0 if self.is_closing else min(WINDOW - self.active, MOST - self._total)

    @property
    def is_quiet(self) -> bool:
        """Whether no call runs and all that ended is settled."""
        return not self._calls and (self.is_dropped or not self.chain.unsettled)

    @property
    def due(self) -> float | None:
        """When a run goes on, by the crew's time."""
        return min((run.due for run in self._waiting), default=None)

    # Entries come.

    def receive(self, pulled: Pulled, limit: int) -> None:
        """Of a pull of so many at most. Once closed, what came stays pending for the next owner."""
        if self.is_closing:
            return
        if not self._began:
            self._began, self.chain.last = True, pulled.settled
        if pulled.word == "new":
            self._suspecting = False
        unwanted: list[Delivery] = []
        for delivery in pulled.deliveries:
            event: Event[Any] = Event(delivery.run, FeedId.parse(delivery.id), delivery.payload)
            self._total += 1
            if self._is_for_nobody(delivery, event):
                unwanted.append(delivery)
            else:
                self._queue(Entry(delivery, event, is_suspect=self._suspecting))
        if pulled.deliveries:
            self.after = pulled.deliveries[-1].entry
        elif pulled.word == "new":
            self.after = pulled.given
        self.is_hungry = pulled.word == "again" or len(pulled.deliveries) >= limit
        for first in range(0, len(unwanted), SKIPPED_AT_ONCE):
            self._skip(unwanted[first : first + SKIPPED_AT_ONCE])
        self.pump()

    def _is_for_nobody(self, delivery: Delivery, event: Event[Any]) -> bool:
        if delivery.group and delivery.group != self._name:
            return True
        return self._crew.reaction_of(event) is None and not self._crew.is_bound(event)

    def _queue(self, entry: Entry) -> None:
        run = self._runs.get(entry.delivery.run)
        if run is None:
            run = self._runs[entry.delivery.run] = RunInHand(entry.delivery.run)
        run.entries.append(entry)
        if len(run.entries) == 1:
            self._make_ready(run)
        elif run.standing in ("waits", "held"):
            self._blocked += 1

    def _make_ready(self, run: RunInHand) -> None:
        self._stand(run, "ready")
        (self._suspects if run.entries[0].is_suspect else self._ready).append(run)

    def _stand(self, run: RunInHand, standing: Standing) -> None:
        was, is_now = run.standing in ("waits", "held"), standing in ("waits", "held")
        if was != is_now:
            self._blocked += len(run.entries) if is_now else -len(run.entries)
        if run.standing == "waits":
            self._waiting.discard(run)
        run.standing = standing
        if standing == "waits":
            self._waiting.add(run)

    # Runs go on.

    def pump(self) -> None:
        """Begins what may begin. A suspect begins when nothing else of its partition runs, and nothing begins beside it."""
        while not self.is_closing and self._alone is None:
            waiting = self._suspects or self._ready
            if not waiting or (self._suspects and self._calls):
                return
            self._begin(waiting.popleft())

    def _begin(self, run: RunInHand) -> None:
        head = run.entries[0]
        self._stand(run, "busy")
        if run.id in self._stopped:
            self._go_on_or_set_aside(run, head)
            return
        reaction = self._crew.reaction_of(head.event)
        if reaction is None:
            if self._crew.is_bound(head.event):
                self._stand(run, "held")  # until a member that has the handler owns the partition
            else:
                self._settle(run, [head], ReactUnit((head.delivery,), "done"), "skipped")
            return
        attempts = reaction.policy.retry.attempts
        if head.is_suspect and head.delivery.tries >= attempts:
            log.warning("reaction_poison", group=self._name, run=run.id, id=head.delivery.id)
            self._bury(run, head, dead_of("its handlers' processes died", "poison", head.delivery.tries), reaction)
        elif head.is_suspect:
            self._alone = asyncio.get_running_loop().create_future()
            self._do(self._run_alone(run, reaction, head, self._alone))
        else:
            self._call(run, reaction, self._batch(run, reaction))

    def _batch(self, run: RunInHand, reaction: Reaction) -> list[Entry]:
        """Consecutive events of the run that the same reaction handles."""
        most = 1 if run.one_by_one else reaction.policy.batch
        run.one_by_one = max(0, run.one_by_one - 1)
        batch = [run.entries[0]]
        for n in range(1, min(most, len(run.entries))):
            entry = run.entries[n]
            if entry.is_suspect or self._crew.reaction_of(entry.event) is not reaction:
                break
            batch.append(entry)
        return batch

    def _call(self, run: RunInHand, reaction: Reaction, batch: Sequence[Entry]) -> None:
        call = Call([one.delivery for one in batch], [one.event for one in batch])
        self._calls[id(call)] = call, run
        self._crew.put(self, reaction, call)

    async def _run_alone(self, run: RunInHand, reaction: Reaction, head: Entry, over: asyncio.Future[None]) -> None:
        """Its try is counted before it begins: it may not live to tell of it."""
        async with turn():
            if not self.is_closing and await self._note(head, head.delivery.tries + 1) and not self.is_closing:
                log.warning("suspect_runs_alone", group=self._name, run=run.id, tries=head.delivery.tries + 1)
                self._call(run, reaction, [head])
                await asyncio.wait([over], timeout=self._crew.patience)
        self._alone = None
        self.pump()

    async def _note(self, entry: Entry, tries: int) -> bool:
        """Whether the lease is still had."""
        return bool(await self._ask(lambda: self._crew.note(self, entry.delivery.entry, tries)))

    async def _ask(self, question: Callable[[], Awaitable[bool]]) -> bool | None:
        """Of the server, until it answers; None once the partition is dropped."""
        told = False
        while not self.is_dropped:
            try:
                return await question()
            except ServerError as error:
                if not told:
                    log.warning("lease_waits", group=self._name, error=error.code, message=error.message)
                told = True
                await asyncio.sleep(AGAIN_SECONDS * (0.5 + random.random()))
        return None

    # Calls end.

    def over(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        """In the turn of its lane."""
        _, run = self._calls.pop(id(call))
        if self._alone is not None and not self._alone.done():
            self._alone.set_result(None)
        if self.is_dropped or ended.stopped:
            self._crew.wake()
            return
        batch = [run.entries[n] for n in range(len(call.deliveries))]
        for entry in batch:
            entry.is_suspect = False  # this process lives
        if ended.error is None:
            unit = ReactUnit(call.deliveries, "done", ended.outputs)
            self._settle(run, batch, unit, "done", reaction)
        else:
            self._failed(run, reaction, batch, ended.error)
        self.pump()

    def _failed(self, run: RunInHand, reaction: Reaction, batch: Sequence[Entry], error: BaseException) -> None:
        """The event stays first of its run. Of a batch nobody knows which one it was: they go one by one first."""
        if len(batch) > 1 and not isinstance(error, RetryLater):
            run.one_by_one = len(batch)
            self._make_ready(run)
            return
        head = batch[0]
        verdict = judge(reaction, head.delivery, error, random.random())
        if verdict.verb == "dead":
            log.warning("reaction_failed", group=self._name, run=run.id, id=head.delivery.id, error=verdict.words)
            self._bury(run, head, verdict, reaction)
            return
        log.info("reaction_retries", group=self._name, run=run.id, id=head.delivery.id, error=verdict.words)
        metrics.reactions_total.labels(group=self._name, outcome="retry").inc()
        run.due = self._crew.now() + min(max(verdict.delay_seconds, 0.0), WAIT_SECONDS)
        if verdict.tries == head.delivery.tries:
            self._stand(run, "waits")
        else:
            head.delivery = head.delivery._replace(tries=verdict.tries)
            self._do(self._note_and_wait(run, head))

    async def _note_and_wait(self, run: RunInHand, head: Entry) -> None:
        if await self._note(head, head.delivery.tries):
            self._stand(run, "waits")
            self._crew.wake()

    def _bury(self, run: RunInHand, head: Entry, verdict: Verdict, reaction: Reaction) -> None:
        """A dead letter, behind which its run goes on, or stops."""
        stop = reaction.policy.on_dead == "stop"
        unit = ReactUnit((head.delivery,), "dead", failure=verdict.failure, stop=stop)
        if stop:
            self._stopped.add(run.id)
            log.warning("reaction_run_stopped", group=self._name, run=run.id, id=head.delivery.id)
        self._settle(run, [head], unit, "dead")

    def _go_on_or_set_aside(self, run: RunInHand, head: Entry) -> None:
        """Of a stopped run: what was requeued lifts the mark, unless it was set again since then."""
        if head.delivery.group:
            self._do(self._look_at_mark(run, head))
        else:
            self._set_aside(run, head)

    async def _look_at_mark(self, run: RunInHand, head: Entry) -> None:
        is_stopped = await self._ask(lambda: self._crew.is_stopped(self, run.id))
        if is_stopped:
            self._set_aside(run, head)
        elif is_stopped is not None:
            log.info("reaction_run_goes_on", group=self._name, run=run.id)
            self._stopped.discard(run.id)
            self._make_ready(run)
            self.pump()

    def _set_aside(self, run: RunInHand, head: Entry) -> None:
        verdict = dead_of("an event before it is a dead letter", "stopped", head.delivery.tries)
        self._settle(run, [head], ReactUnit((head.delivery,), "dead", failure=verdict.failure), "dead")

    # Settlements.

    def _settle(
        self, run: RunInHand, batch: Sequence[Entry], unit: ReactUnit, outcome: str, reaction: Reaction | None = None
    ) -> None:
        def tell(answer: Settled) -> None:
            if answer.word in ("settled", "done"):
                metrics.reactions_total.labels(group=self._name, outcome=outcome).inc(len(batch))
                self._forget(run, len(batch))
            elif reaction is not None:
                words = f"what the reaction did to a run was refused: {answer.detail}."
                self._failed(run, reaction, batch, IllegalEvent(words, run=run.id))
            else:
                log.error("react_failed", group=self._name, run=run.id, message=answer.detail)
                run.due = self._crew.now() + WAIT_SECONDS
                self._stand(run, "waits")
            self.pump()
            self._crew.wake()

        self.chain.put(unit, tell)

    def _skip(self, deliveries: Sequence[Delivery]) -> None:
        """What is for nobody."""

        def tell(answer: Settled) -> None:
            if answer.word not in ("settled", "done"):
                log.error("react_failed", group=self._name, run=deliveries[0].run, message=answer.detail)
            self._total -= len(deliveries)
            self._crew.wake()

        self.chain.put(ReactUnit(deliveries, "done"), tell)

    def _forget(self, run: RunInHand, count: int) -> None:
        self._total -= count
        run.forget(count)
        if run.entries:
            self._make_ready(run)
        else:
            del self._runs[run.id]

    # Time passes, bindings change.

    def look(self) -> None:
        """Runs whose time has come go on."""
        now = self._crew.now()
        for run in [one for one in self._waiting if one.due <= now]:
            self._make_ready(run)
        self.pump()

    def rebound(self) -> None:
        """What the members bind has changed."""
        for run in [one for one in self._runs.values() if one.standing == "held"]:
            self._make_ready(run)
        self.pump()

    # The end.

    def close(self) -> None:
        """Nothing more begins; what runs may end, and is settled."""
        self.is_closing = True

    def drop(self) -> None:
        """Nothing more is settled: calls that run are cancelled."""
        self.is_closing = self.is_dropped = True
        self.chain.close()
        for call in self._crew.stop([call for call, _ in self._calls.values()]):
            del self._calls[id(call)]
        if self._alone is not None and not self._alone.done():
            self._alone.set_result(None)
        for task in self._beside:
            task.cancel()

    @property
    def has_ended(self) -> bool:
        return self.is_dropped and not self._calls

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="tailrace-owned")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    @property
    def _name(self) -> str:
        return self._crew.group.name
