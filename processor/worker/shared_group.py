"""A shared group in one worker: reads the log, hands events to lanes, settles what became of them, in any order."""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.reaction import Group, Reaction
from processor.client.renewal import Call as RenewalCall
from processor.core.errors import IllegalEvent, ServerError
from processor.core.events import Event
from processor.observe import metrics
from processor.store.connection import speaking_of
from processor.store.emitting import Emitting, emitted
from processor.store.executing import Settled
from processor.store.groups import Bound, bind
from processor.store.line import Line
from processor.store.reacting import (
    Delivery,
    ReactUnit,
    claim,
    delivery_of,
    hold_command,
    react_command,
    skip_command,
)
from processor.store.resets import current
from processor.store.settling import Settling
from processor.worker.lanes import Call, Ended, Lanes
from processor.worker.verdicts import dead_of, judge

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["SharedGroup"]

log = structlog.get_logger("tailrace.reactions")
BLOCK_SECONDS: Final = 0.5  # a stop waits as long
ANSWER_SECONDS: Final = 5.0  # behind the end of a block
RETRY_SECONDS: Final = 0.2
MAX_WINDOW: Final = 4000  # entries in hands, where calls are over at once
SLOW_SECONDS: Final = 0.25  # what waits so long for a lane is better off with another worker
ELSEWHERE_SECONDS: Final = 5.0  # an event for whom another member has the handler
SETTLE_SECONDS: Final = 5.0  # for the last answers; what has none is claimed
LOOK_SECONDS: Final = 0.02
CLAIMED_AT_ONCE: Final = 100
TELL_SECONDS: Final = 60.0  # what it binds is kept alive
NOTHING: Final = b'"type":"","data":null}'  # the event of an entry that somebody added by hand
_End = tuple[Reaction, Call, Ended]  # of a call that succeeded


class SharedGroup:
    """Belongs to one event loop."""

    def __init__(self, worker: Worker, group: Group, changed: Callable[[], None]) -> None:
        """changed: something ended, or was taken over."""
        self.group = group
        self._worker, self._session, self._consumer = worker, worker.session, worker.consumer
        self._changed_outside = changed
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        address = self._session.server.address
        self._reads, self._calls = Line(address, "tailrace-react-read"), Line(address, "tailrace-react")
        self._script, self._hold = self._session.scripts.named("react"), self._session.scripts.named("hold")
        self._skip_script = self._session.scripts.named("skip")
        self._settling: Settling[ReactUnit] = Settling(
            self._calls, self._script, self._command, lambda: self._session.keys, self._session.relaying.soon
        )
        self._emitting: Emitting[_End] = Emitting(
            self._calls, self._session, self._session.limits, group.name, self._consumer, self._emitted, self._look
        )
        self._done = metrics.reactions_total.labels(group=group.name, outcome="done")
        max_bytes = self._session.producer.max_event_bytes
        self._lanes = {id(one): Lanes(one, max_bytes, functools.partial(self._over, one)) for one in group.reactions}
        self._concurrency = sum(one.policy.concurrency for one in group.reactions)
        self._window = self._concurrency
        self._names = {keys.log.encode(): number for number, keys in enumerate(self._session.keys.partitions)}
        self._held: dict[tuple[int, str], Delivery] = {}
        self._inbox: list[Delivery] = []
        self._suspects: deque[Delivery] = deque()
        self._alone_since: float | None = None  # a suspect has waited for the others to end
        self._bound = Bound("", ())
        self._bind_at = 0.0
        self._own_seen = 0  # connections of the reader after which own pending entries were looked for; -1: look now
        self._waiting_since: float | None = None  # calls have waited for a lane
        self._skipping: set[asyncio.Task[None]] = set()
        self._trouble = ""
        self._found_nothing = False

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def running(self) -> int:
        return sum(lanes.running for lanes in self._lanes.values())

    @property
    def is_idle(self) -> bool:
        return self._found_nothing and not self._held

    @property
    def due_seconds(self) -> None:
        """What waits does so at the server."""
        return None

    async def open(self) -> None:
        """Binds. Raises ServerError, BadInput for a group that is known in another mode."""
        for reaction in self.group.reactions:
            reaction.prepare()
        await self._bind()

    async def _bind(self) -> None:
        with speaking_of(self._session.server.address.url):
            self._bound = await bind(self._session, self.group.declared)
        self._bind_at = self._loop.time() + TELL_SECONDS

    # The main step.

    async def run(self) -> None:
        """Until its worker stops."""
        stopping = self._worker.stopping
        while not stopping.is_set():
            try:
                await self.step(block=True)
            except ServerError as error:
                if self._trouble != error.message:
                    log.warning("group_waits", group=self.group.name, error=error.code, message=error.message)
                self._trouble = error.message
                await asyncio.sleep(RETRY_SECONDS * (0.5 + random.random()))
            else:
                self._trouble = ""

    async def step(self, *, block: bool = False) -> bool:
        """Reads and hands out. Whether there was nothing. Raises ServerError."""
        if self._suspects and await self._run_alone():
            return False
        room = self._room()
        if room <= 0:
            await self._change(BLOCK_SECONDS if block else 0.0)
            return False
        deliveries = await self._current(await self._next(room, block=block))
        self._hand_out(deliveries)
        self._found_nothing = not deliveries and not self._suspects
        return self._found_nothing

    def _room(self) -> int:
        """How many entries more it may hold. Where calls are over at once it holds many, else what its lanes are for."""
        queued = sum(lanes.queued for lanes in self._lanes.values())
        now = self._loop.time()
        if not queued:
            self._waiting_since = None
            if not self.running:
                self._window = min(MAX_WINDOW, self._window * 2)
        elif self._waiting_since is None:
            self._waiting_since = now
        elif now - self._waiting_since > SLOW_SECONDS:
            self._window = self._concurrency
        return min(self._window - len(self._held), self._window - queued)

    async def _next(self, room: int, *, block: bool) -> list[Delivery]:
        """Own pending ones after a lost connection, what was taken over, else new ones."""
        if self._inbox:
            found, self._inbox = self._inbox, []
            return found
        if self._reads.connections != self._own_seen:
            self._own_seen = self._reads.connections
            try:
                if own := await self._own_pending():
                    return own
            except BaseException:
                self._own_seen = -1
                raise
        return await self._read(room, block=block)

    async def _current(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Without retries that a reset dropped."""
        try:
            with speaking_of(self._session.server.address.url):
                return await current(self._session, self.group.name, deliveries)
        except BaseException:
            self._own_seen = -1  # they are found among own pending ones
            raise

    async def _read(self, room: int, *, block: bool) -> list[Delivery]:
        keys = self._session.keys.partitions
        count = max(1, room // len(keys))
        command: list[str | int] = ["XREADGROUP", "GROUP", self.group.name, self._consumer, "COUNT", count]
        if block:
            command += ("BLOCK", int(BLOCK_SECONDS * 1000))
        command += ("STREAMS", *(one.log for one in keys), *(">" for _ in keys))
        try:
            reply = await self._reads.call(*command, seconds=BLOCK_SECONDS + ANSWER_SECONDS)
        except ServerError as error:
            if "NOGROUP" not in error.message and "UNBLOCKED" not in error.message:
                raise
            log.warning(
                "group_was_lost", group=self.group.name
            )  # flushed, deleted, or gone with the server's last second
            await self._bind()
            return []
        found: list[Delivery] = []
        for name, entries in reply or ():
            partition = self._names[name]
            for entry, fields in entries:
                delivery = delivery_of(partition, entry, fields) if fields else None
                found.append(delivery or Delivery(partition, entry.decode(), "", "0-0", NOTHING))
        return found

    def _hand_out(self, deliveries: Sequence[Delivery]) -> None:
        """To the lanes of the reaction that each is for; what is for nobody is acknowledged, many at once."""
        unwanted: dict[int, list[Delivery]] = {}
        batches: dict[tuple[int, int], Call] = {}
        for delivery in deliveries:
            key = delivery.partition, delivery.entry
            if key in self._held:
                continue
            event: Event[Any] = Event(delivery.run, delivery.id, delivery.payload)
            reaction = None if delivery.group and delivery.group != self.group.name else self.group.of(event)
            if reaction is None:
                if self._is_for_others(delivery, event):
                    self._hold_it(delivery)
                    self._settle(
                        ReactUnit((delivery,), "retry", delay_ms=int(ELSEWHERE_SECONDS * 1000), tries=delivery.tries)
                    )
                else:
                    unwanted.setdefault(delivery.partition, []).append(delivery)
                continue
            self._hold_it(delivery)
            if self._is_set_aside(reaction, delivery):
                continue
            if delivery.lost:
                self._begin_later(reaction, delivery, event)
            else:
                self._put(reaction, delivery, event, batches)
        for partition, skipped in unwanted.items():
            self._skip(partition, skipped)

    def _hold_it(self, delivery: Delivery) -> None:
        self._held[delivery.partition, delivery.entry] = delivery

    def _put(
        self, reaction: Reaction, delivery: Delivery, event: Event[Any], batches: dict[tuple[int, int], Call]
    ) -> None:
        lanes = self._lanes[id(reaction)]
        if reaction.policy.batch == 1:
            lanes.put(Call((delivery,), (event,)))
            return
        batch = batches.get((id(reaction), delivery.partition))
        if batch is None or len(batch.deliveries) >= reaction.policy.batch:
            batch = batches[id(reaction), delivery.partition] = Call([], [])
            lanes.put(batch)  # filled before any lane has its turn
        batch.deliveries.append(delivery)  # type: ignore[attr-defined]  # a list as long as it is being filled
        batch.events.append(event)  # type: ignore[attr-defined]

    def _is_for_others(self, delivery: Delivery, event: Event[Any]) -> bool:
        """Whether another member has bound it: in a rolling deploy."""
        if delivery.group and delivery.group != self.group.name:
            return False
        type = event.type
        return any(one.takes(type) and one.wants(event.labels) for one in self._bound.bindings)

    # Poison.

    def _is_set_aside(self, reaction: Reaction, delivery: Delivery) -> bool:
        """An entry that was lost with the processes that ran it: it is dead, or runs alone."""
        attempts, tries = reaction.policy.retry.attempts, delivery.tries
        if tries >= attempts:
            verdict = dead_of("its handlers' processes died", "poison", tries)
            log.warning("reaction_poison", group=self.group.name, run=delivery.run, id=delivery.id, tries=tries)
            self._settle(ReactUnit((delivery,), "dead", failure=verdict.failure))
            return True
        if delivery.lost and tries >= min(2, attempts - 1):
            self._suspects.append(delivery)
            return True
        return False

    async def _run_alone(self) -> bool:
        """A suspect begins when nothing else of its group runs, and nothing begins beside it: it may take the process along, and
        not its neighbours. Either waits for one visibility timeout at most. Whether there was one."""
        patience = self._session.settings.visibility_seconds
        if self._is_busy:
            self._alone_since = self._alone_since or self._loop.time()
            if self._loop.time() - self._alone_since < patience:
                await self._change(BLOCK_SECONDS)
                return True
        self._alone_since = None
        delivery = self._suspects.popleft()
        event: Event[Any] = Event(delivery.run, delivery.id, delivery.payload)
        reaction = self.group.of(event)
        assert reaction is not None  # it was set aside for its reaction
        log.warning("suspect_runs_alone", group=self.group.name, run=delivery.run, tries=delivery.tries)
        await self._begin_again(reaction, delivery, event)
        await self._until(lambda: not self._is_busy or self._worker.stopping.is_set(), patience)
        return True

    def _begin_later(self, reaction: Reaction, delivery: Delivery, event: Event[Any]) -> None:
        task = self._loop.create_task(self._begin_again(reaction, delivery, event), name="tailrace-begin-again")
        self._skipping.add(task)
        task.add_done_callback(self._skipping.discard)

    async def _begin_again(self, reaction: Reaction, delivery: Delivery, event: Event[Any]) -> None:
        """An entry that was lost with the process that had it: that it begins once more is noted first, so that the one that
        kills its processes is known by its count, and what only waits beside it is not."""
        key = self._session.keys.partitions[delivery.partition].log
        command = hold_command(self._hold, key, self.group.name, self._consumer, [delivery.entry], delivery.lost + 1)
        try:
            gone = await self._calls.script(self._hold, *command)
        except ServerError:
            self._own_seen = -1  # it is found among own pending ones
            gone = True
        if gone:
            self._held.pop((delivery.partition, delivery.entry), None)
        else:
            self._lanes[id(reaction)].put(Call((delivery,), (event,)))
        self._wake()

    @property
    def _is_busy(self) -> bool:
        return any(lanes.running or lanes.queued for lanes in self._lanes.values())

    # Ends.

    def _over(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        """A call ended, in its lane's turn."""
        if ended.error is None and not ended.stopped:
            self._succeeded(reaction, call, ended)
            return
        if ended.error is not None:
            self._failed(reaction, call, ended.error)
        elif ended.stopped == "release":
            self._give_back(call.deliveries)
        self._wake()

    def _succeeded(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        if len(call.deliveries) == 1:
            one = call.deliveries[0]
            found = emitted(one.entry, ended.outputs, one.partition, one.run, self._session.keys)
            if found is not None:
                self._emitting.put(one.partition, found, (reaction, call, ended))
                return
        self._settle_call((reaction, call, ended))

    def _settle_call(self, end: _End) -> None:
        """By react.lua."""
        reaction, call, ended = end
        unit = ReactUnit(call.deliveries, "done", ended.outputs, size=ended.size)
        self._settling.put(call.deliveries[0].partition, unit, functools.partial(self._settled, reaction, call))

    def _emitted(self, ends: Sequence[_End]) -> None:
        """Their successes were answered, each of one entry."""
        self._done.inc(len(ends))
        for _, call, _ in ends:
            delivery = call.deliveries[0]
            self._held.pop((delivery.partition, delivery.entry), None)
        self._wake()

    def _look(self, ends: Sequence[_End]) -> None:
        for end in ends:
            self._settle_call(end)

    def _failed(self, reaction: Reaction, call: Call, error: BaseException) -> None:
        """Each of a batch fails for itself."""
        for delivery in call.deliveries:
            verdict = judge(reaction, delivery, error, random.random())
            if verdict.verb == "dead":
                log.warning(
                    "reaction_failed", group=self.group.name, run=delivery.run, id=delivery.id, error=verdict.words
                )
                self._settle(ReactUnit((delivery,), "dead", failure=verdict.failure))
            else:
                log.info(
                    "reaction_retries", group=self.group.name, run=delivery.run, id=delivery.id, error=verdict.words
                )
                delay_ms = max(0, int(verdict.delay_seconds * 1000))
                self._settle(ReactUnit((delivery,), "retry", delay_ms=delay_ms, tries=verdict.tries))

    def _settle(self, unit: ReactUnit) -> None:
        """What is no success."""
        metrics.reactions_total.labels(group=self.group.name, outcome=unit.verb).inc()
        self._settling.put(unit.deliveries[0].partition, unit, lambda answer: self._forget(unit.deliveries, answer))

    def _settled(self, reaction: Reaction, call: Call, answer: Settled) -> None:
        """A success was answered."""
        if answer.word == "refused":
            refused = IllegalEvent(
                f"what the reaction did to a run was refused: {answer.detail}.", run=call.deliveries[0].run
            )
            self._failed(reaction, call, refused)
            return
        if answer.word == "stale":  # some of a batch were taken over: those that were not are still here
            self._own_seen = -1
        self._done.inc(len(call.deliveries))
        self._forget(call.deliveries, answer)

    def _forget(self, deliveries: Sequence[Delivery], answer: Settled) -> None:
        if answer.word == "failed":
            log.error("react_failed", group=self.group.name, run=deliveries[0].run, message=answer.detail)
        for delivery in deliveries:
            self._held.pop((delivery.partition, delivery.entry), None)
        self._wake()

    def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        """For another worker, now."""
        for delivery in deliveries:
            self._settle(ReactUnit((delivery,), "retry", delay_ms=0, tries=delivery.tries))

    def _skip(self, partition: int, deliveries: Sequence[Delivery]) -> None:
        """Acknowledges what is for nobody."""
        task = self._loop.create_task(self._skipped(partition, deliveries), name="tailrace-skip")
        self._skipping.add(task)
        task.add_done_callback(self._skipping.discard)

    async def _skipped(self, partition: int, deliveries: Sequence[Delivery]) -> None:
        entries = [one.entry for one in deliveries]
        keys = self._session.keys.partitions[partition]
        command = skip_command(self._skip_script, keys, self.group.name, self._bound.version, entries)
        try:
            if (
                await self._calls.script(self._skip_script, *command) == b"changed"
            ):  # a newer member came: it may be for that one
                await self._bind()
                self._hand_out(deliveries)
        except ServerError:
            self._own_seen = -1  # they are found among own pending ones

    # Beside the main step.

    def sweep(self) -> None:
        for lanes in self._lanes.values():
            lanes.sweep()

    def renewals(self) -> Iterator[RenewalCall]:
        """Called in the renewing thread."""
        by_partition: dict[int, list[str]] = {}
        for partition, entry in list(self._held):
            by_partition.setdefault(partition, []).append(entry)
        for partition, entries in by_partition.items():
            key = self._session.keys.partitions[partition].log
            command = hold_command(self._hold, key, self.group.name, self._consumer, entries)
            yield RenewalCall(command, functools.partial(self._renewed, partition), self._hold)

    def _renewed(self, partition: int, lost: Sequence[str]) -> None:
        """Settled meanwhile, most likely; what was taken over is refused when it is settled."""
        if lost:
            log.debug("entries_not_held", group=self.group.name, partition=partition, entries=len(lost))

    async def look(self) -> None:
        """A pass: takes over what nobody renews, and tells what it binds."""
        room = min(CLAIMED_AT_ONCE, self._window - len(self._held))
        idle_ms = int(self._session.settings.visibility_seconds * 1000)
        for partition in range(len(self._session.keys.partitions)):
            if self._worker.stopping.is_set():
                return
            found = await claim(
                self._session, partition, self.group.name, self._consumer, idle_ms=idle_ms, limit=max(1, room)
            )
            if found.word == "nogroup":
                await self._bind()
                return
            self._tell_lost(found.lost)
            room -= len(found.deliveries)
            self._inbox += found.deliveries
            for delivery in found.deliveries:
                log.info(
                    "reaction_taken_over",
                    group=self.group.name,
                    run=delivery.run,
                    id=delivery.id,
                    tries=delivery.tries,
                )
            if room <= 0:
                break
        self._wake()
        if self._loop.time() >= self._bind_at:
            await self._bind()

    async def _own_pending(self) -> list[Delivery]:
        """What the server gave to this consumer and this process has not got: an answer was lost with its connection."""
        found: list[Delivery] = []
        for partition in range(len(self._session.keys.partitions)):
            after = "-"
            while after:
                # Before it is asked: what is in hands now may be settled when the answer comes.
                known = {*self._held, *((one.partition, one.entry) for one in self._inbox)}
                with speaking_of(self._session.server.address.url):
                    page = await claim(
                        self._session,
                        partition,
                        self.group.name,
                        self._consumer,
                        idle_ms=0,
                        limit=CLAIMED_AT_ONCE,
                        own=True,
                        after=after,
                    )
                self._tell_lost(page.lost)
                found += [one for one in page.deliveries if (partition, one.entry) not in known]
                after = page.after
        return found

    def _tell_lost(self, count: int) -> None:
        if count:
            metrics.lost_entries_total.inc(count)
            log.warning("log_entries_lost", group=self.group.name, entries=count)  # cut while the group was behind

    # The end.

    async def drain(self, seconds: float) -> bool:
        """Reading has ended: calls may finish, the rest is given to others. Whether all is settled."""
        for lanes in self._lanes.values():
            for call in lanes.take_back():
                self._give_back(call.deliveries)
        self._give_back([*self._suspects])
        self._suspects.clear()
        for delivery in self._inbox:
            self._hold_it(delivery)
        self._give_back(self._inbox)
        self._inbox = []
        await self._until(lambda: not self.running, seconds)
        for lanes in self._lanes.values():
            lanes.stop("release")
        await self._until(lambda: not self.running and not self._unsettled, SETTLE_SECONDS)
        return not self.running and not self._unsettled

    @property
    def _unsettled(self) -> int:
        return self._settling.unsettled + self._emitting.unsettled

    async def close(self) -> None:
        for lanes in self._lanes.values():
            await lanes.close()
        await self._settling.close()
        await self._emitting.close()
        for task in list(self._skipping):
            task.cancel()
        await asyncio.gather(*self._skipping, return_exceptions=True)
        self._reads.close()
        self._calls.close()

    async def crash(self) -> None:
        """As if its process had been killed."""
        self._held.clear()
        await self.close()

    # Waiting.

    def _command(self, partition: int, units: Sequence[ReactUnit]) -> tuple[bytes | str | int, ...]:
        session = self._session
        return react_command(self._script, session.limits, session.keys, partition, self.group.name, units)

    def _wake(self) -> None:
        self._changed.set()
        self._changed_outside()

    async def _change(self, seconds: float) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = self._loop.time() + seconds
        while not condition() and self._loop.time() < deadline:
            await self._change(min(LOOK_SECONDS, max(0.0, deadline - self._loop.time())))
