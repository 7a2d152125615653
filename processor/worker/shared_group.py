"""A shared group in one worker: reads the log, hands events to lanes, settles what became of them, in any order."""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.reaction import Group, Reaction
from processor.client.renewal import Call as RenewalCall
from processor.core.errors import ServerError
from processor.core.events import Event
from processor.store.line import Line
from processor.store.reacting import Delivery, delivery_of
from processor.worker.bindings import Bindings
from processor.worker.changes import Changes
from processor.worker.held import Held
from processor.worker.holding import Holding
from processor.worker.lanes import Call, Ended, Lanes
from processor.worker.log_reader import BLOCK_SECONDS, Entry, LogReader
from processor.worker.routes import NOBODY, Route, Routes
from processor.worker.settlements import Settlements
from processor.worker.stepping import until_stopped
from processor.worker.suspects import turn
from processor.worker.verdicts import dead_of
from processor.worker.window import Window

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["SharedGroup"]

log = structlog.get_logger("tailrace.reactions")
SETTLE_SECONDS: Final = 5.0  # for the last answers; what has none is claimed


class SharedGroup:
    """Belongs to one event loop."""

    def __init__(self, worker: Worker, group: Group, changed: Callable[[], None]) -> None:
        """changed: something ended, or was taken over."""
        self.group = group
        session = worker.session
        self._worker, self._session, self._consumer = worker, session, worker.consumer
        self._loop = asyncio.get_running_loop()
        self._changes = Changes(changed)
        self._bindings = Bindings(session, group, self._rebound)
        self._routes = Routes(group, self._bindings)
        self._held = Held(len(session.keys.partitions))
        self._reader = LogReader(session, group.name, self._consumer, self._bindings, self._held)
        self._line = Line(session.server.address, "tailrace-react")
        self._holding = Holding(session, self._line, group.name, self._consumer, self._held)
        self._settlements = Settlements(
            session,
            self._line,
            group.name,
            self._consumer,
            self._bindings,
            self._held,
            changed=self._changes.tell,
            unsure=self._reader.be_unsure,
        )
        max_bytes = session.producer.max_event_bytes
        self._lanes = {one: Lanes(one, max_bytes, functools.partial(self._over, one)) for one in group.reactions}
        self._window = Window(sum(one.policy.concurrency for one in group.reactions))
        self._inbox: deque[Delivery] = deque()  # held, to be handed out as there is room
        self._beginning: set[asyncio.Task[None]] = set()  # entries that were lost with the process that had them
        self._suspects: deque[Delivery] = deque()
        self._alone_since: float | None = None  # a suspect has waited for the others to end
        self._found_nothing = False

    @property
    def held(self) -> int:
        return len(self._held)

    @property
    def running(self) -> int:
        return sum(lanes.running for lanes in self._lanes.values())

    @property
    def is_idle(self) -> bool:
        return self._found_nothing and not self.held

    @property
    def due_seconds(self) -> None:
        """What waits does so at the server."""
        return None

    @property
    def _is_busy(self) -> bool:
        return any(lanes.is_busy for lanes in self._lanes.values())

    async def open(self) -> None:
        """Binds. Raises ServerError, BadInput for a group that is known in another mode."""
        for reaction in self.group.reactions:
            reaction.prepare()
        await self._bindings.tell()

    def _rebound(self) -> None:
        self._routes.clear()

    # The main step.

    async def run(self) -> None:
        """Until its worker stops."""
        await until_stopped(self.group.name, self._worker.stopping, lambda: self.step(block=True))

    async def step(self, *, block: bool = False) -> bool:
        """Reads and hands out. Whether there was nothing. Raises ServerError.

        Calls begin when this task waits, which is for the next read: the server reads ahead while they run.
        """
        if self._suspects and await self._run_alone():
            return False
        is_slow = any(lanes.is_slow() for lanes in self._lanes.values())
        self._window.judge(is_slow=is_slow, is_idle=not self._is_busy)
        room = self._window.room(len(self._held) - len(self._inbox))
        if room <= 0:
            await self._changes.wait(BLOCK_SECONDS if block else 0.0)
            return False
        found = await self._next(room, block=block)
        self._found_nothing = not found and not self._suspects
        return self._found_nothing

    async def _next(self, room: int, *, block: bool) -> bool:
        """What was taken over, own pending ones after a lost connection, else new ones. Whether there was any."""
        if not self._inbox and self._reader.is_unsure:
            self._inbox += await self._reader.own_pending()
        if self._inbox:
            waiting = await self._reader.current(list(itertools.islice(self._inbox, room)))
            for _ in waiting:
                self._inbox.popleft()
            self._hand_out(waiting)
            return True
        read = await self._reader.read(room, block=block)
        for partition, entries in read:
            self._take(partition, entries)
        return bool(read)

    def _take(self, partition: int, entries: Sequence[Entry]) -> None:
        """New ones, as the server gave them. What is for nobody is acknowledged, many at once."""
        known, unwanted, wanted = self._routes.known, [], []
        for one in entries:
            entry, fields = one
            try:
                payload = fields[5]  # of names and values in turn
                route = known[payload[8 : payload.index(b'"', 8)]]
            except (KeyError, IndexError, TypeError, ValueError):
                route = self._routes.of(fields[5] if fields and len(fields) > 5 else None)
            delivery = delivery_of(partition, entry, fields) if route is not NOBODY else None
            if delivery is None:
                unwanted.append(one)
            elif self._held.add(delivery):
                if delivery.group:  # a retry, which a reset may have dropped
                    self._inbox.append(delivery)
                else:
                    wanted.append((delivery, route))
        if unwanted:
            again = functools.partial(self._take, partition, unwanted)
            self._settlements.skip(partition, [one[0] for one in unwanted], again)
        self._place(wanted)

    def _hand_out(self, deliveries: Sequence[Delivery]) -> None:
        """Of those that are held."""
        self._place([(one, self._routes.of(one.payload)) for one in deliveries])

    def _place(self, routed: Sequence[tuple[Delivery, Route]]) -> None:
        """To the lanes of the reaction that each is for."""
        batches: dict[tuple[Reaction, int], list[tuple[Delivery, Event[Any]]]] = {}
        for delivery, route in routed:
            event: Event[Any] = Event(delivery.run, delivery.id, delivery.payload)
            reaction = self._reaction_of(route, delivery, event)
            if reaction is None or (delivery.tries and self._is_set_aside(reaction, delivery)):
                continue
            if delivery.lost:
                self._begin_later(reaction, delivery, event)
            elif reaction.policy.batch == 1:
                self._lanes[reaction].put(Call((delivery,), (event,)))
            else:
                batches.setdefault((reaction, delivery.partition), []).append((delivery, event))
        for (reaction, _), members in batches.items():
            size = reaction.policy.batch
            for first in range(0, len(members), size):
                deliveries, events = zip(*members[first : first + size], strict=True)
                self._lanes[reaction].put(Call(deliveries, events))

    def _reaction_of(self, route: Route, delivery: Delivery, event: Event[Any]) -> Reaction | None:
        """None for one that is not handled here, for which something else was done."""
        is_other_group = bool(delivery.group) and delivery.group != self.group.name
        if not is_other_group:
            reaction = route.sure or self._routes.reaction(route, event)
            if reaction is not None:
                return reaction
            if self._routes.is_for_others(route, event):
                self._settlements.leave_to_others(delivery)
                return None
        self._held.drop((delivery,))
        again = functools.partial(self._again, delivery)
        self._settlements.skip(delivery.partition, (delivery.entry,), again)
        return None

    def _again(self, delivery: Delivery) -> None:
        if self._held.add(delivery):
            self._hand_out((delivery,))

    # Poison.

    def _is_set_aside(self, reaction: Reaction, delivery: Delivery) -> bool:
        """An entry that was lost with the processes that ran it: it is dead, or runs alone."""
        attempts, tries = reaction.policy.retry.attempts, delivery.tries
        if tries >= attempts:
            log.warning("reaction_poison", group=self.group.name, run=delivery.run, id=delivery.id, tries=tries)
            self._settlements.bury(delivery, dead_of("its handlers' processes died", "poison", tries))
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
                await self._changes.wait(BLOCK_SECONDS)
                return True
        self._alone_since = None
        async with turn():
            if not self._suspects or self._worker.stopping.is_set():
                return True
            delivery = self._suspects.popleft()
            event: Event[Any] = Event(delivery.run, delivery.id, delivery.payload)
            reaction = self._reaction_of(self._routes.of(delivery.payload), delivery, event)
            if reaction is None:  # the group's bindings changed meanwhile
                return True
            log.warning("suspect_runs_alone", group=self.group.name, run=delivery.run, tries=delivery.tries)
            await self._begin_again(reaction, delivery, event)
            await self._changes.until(lambda: not self._is_busy or self._worker.stopping.is_set(), patience)
        return True

    def _begin_later(self, reaction: Reaction, delivery: Delivery, event: Event[Any]) -> None:
        task = self._loop.create_task(self._begin_again(reaction, delivery, event), name="tailrace-begin-again")
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _begin_again(self, reaction: Reaction, delivery: Delivery, event: Event[Any]) -> None:
        """What was lost with the process that had it, and is called for itself."""
        try:
            is_here = await self._holding.begin(delivery)
        except ServerError:
            self._reader.be_unsure()  # it is found among own pending ones
            is_here = False
        if is_here and not self._worker.stopping.is_set():
            self._lanes[reaction].put(Call((delivery,), (event,)))
        elif is_here:
            self._settlements.give_back((delivery,))
        else:
            self._held.drop((delivery,))
        self._changes.tell()

    # Ends.

    def _over(self, reaction: Reaction, call: Call, ended: Ended) -> None:
        """A call ended, in its lane's turn."""
        if ended.error is None and not ended.stopped:
            self._settlements.succeeded(reaction, call, ended)
            return
        if ended.error is not None:
            self._settlements.failed(reaction, call, ended.error)
        elif ended.stopped == "release":
            self._settlements.give_back(call.deliveries)
        self._changes.tell()

    # Beside the main step.

    def sweep(self) -> None:
        for lanes in self._lanes.values():
            lanes.sweep()

    def renewals(self) -> Iterator[RenewalCall]:
        """Called in the renewing thread."""
        return self._holding.renewals()

    async def look(self) -> None:
        """A pass: takes over what nobody renews as far as there is room for it, and tells what it binds. Raises ServerError."""
        for partition in range(len(self._session.keys.partitions)):
            room = self._window.size - len(self._held)
            if room <= 0 or self._worker.stopping.is_set():
                break
            taken = await self._reader.take_over(partition, room)
            if taken is None:
                await self._bindings.tell()
                return
            self._inbox += taken
        self._changes.tell()
        await self._bindings.tell_if_due()

    # The end.

    async def drain(self, seconds: float) -> bool:
        """Reading has ended: calls may finish, the rest is given to others. Whether all is settled."""
        await asyncio.gather(*self._beginning)
        for lanes in self._lanes.values():
            for call in lanes.take_back():
                self._settlements.give_back(call.deliveries)
        for waiting in (self._suspects, self._inbox):
            self._settlements.give_back(list(waiting))
            waiting.clear()
        await self._changes.until(lambda: not self.running, seconds)
        for lanes in self._lanes.values():
            lanes.stop("release")
        return await self._changes.until(lambda: not self.running and not self._settlements.unsettled, SETTLE_SECONDS)

    async def close(self) -> None:
        for task in list(self._beginning):
            task.cancel()
        await asyncio.gather(*self._beginning, return_exceptions=True)
        await asyncio.gather(*(lanes.close() for lanes in self._lanes.values()))
        await self._settlements.close()
        self._reader.close()
        self._line.close()

    async def crash(self) -> None:
        """As if its process had been killed."""
        self._held.clear()
        await self.close()
