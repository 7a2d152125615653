"""An ordered group in one worker: reads the partitions whose leases it has, one event of a run at a time, runs side by side."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import structlog

from processor.client.reaction import Group, Reaction
from processor.client.renewal import Call as RenewalCall
from processor.core.errors import ServerError
from processor.core.events import Event
from processor.observe import metrics
from processor.store.connection import execute, speaking_of
from processor.store.leases import Leases, Pulled, pull_command, pulled, renew_lease_command
from processor.store.line import Line
from processor.store.reacting import Lease, ReactUnit, react_command
from processor.store.resets import current
from processor.store.sending import Command
from processor.store.space import ms_of
from processor.worker.balancing import Balancing
from processor.worker.bindings import Bindings
from processor.worker.chained import Chained
from processor.worker.changes import Changes
from processor.worker.handling import Handling
from processor.worker.lanes import Call
from processor.worker.new_entries import BLOCK_SECONDS, NewEntries
from processor.worker.owned import Owned
from processor.worker.routes import Routes
from processor.worker.stepping import RETRY_SECONDS, until_stopped

if TYPE_CHECKING:
    from processor.worker.worker import Worker

__all__ = ["OrderedGroup"]

log = structlog.get_logger("tailrace.reactions")
PULLED_AT_ONCE: Final = 200
SOON_SECONDS: Final = 1.0  # what is due so soon is waited for before it counts as idle
CLEAN_UP_SECONDS: Final = 2.0  # for calls that were cancelled, at the end


class OrderedGroup:
    """Belongs to one event loop."""

    def __init__(self, worker: Worker, group: Group, changed: Callable[[], None]) -> None:
        """changed: something ended."""
        self.group = group
        self._worker, self._session, self._consumer = worker, worker.session, worker.consumer
        self._changes = Changes(changed)
        self._loop = asyncio.get_running_loop()
        session = self._session
        address = session.server.address
        self._entries = NewEntries(address, [keys.log for keys in session.keys.partitions])
        self._calls = Line(address, "tailrace-react")
        self._react, self._pull_script = session.scripts.named("react"), session.scripts.named("pull")
        self._lease_script = session.scripts.named("lease")
        self._term_ms = int(session.settings.visibility_seconds * 1000)
        self._leases = Leases(session, group.name, worker.consumer, term_ms=self._term_ms)
        self._balancing = Balancing(self, session, group, worker.consumer, self._leases)
        self._handling = Handling(group.reactions, session.producer.max_event_bytes, self._over)
        self._owned: dict[int, Owned] = {}
        self._ending: set[Owned] = set()  # dropped, and calls of them still run
        self._bindings = Bindings(session, group, self._rebound)
        self._routes = Routes(group, self._bindings)
        self._blocked: asyncio.Task[None] | None = None  # waits for new entries
        self._found_nothing = False
        self._ahead = 0.0  # how far a sandbox moved the time
        self._base: float | None = None
        self._beside: set[asyncio.Task[None]] = set()

    # What a worker asks.

    @property
    def held(self) -> int:
        """Entries in hands that go on by themselves."""
        return sum(owned.active for owned in self._owned.values())

    @property
    def running(self) -> int:
        return self._handling.running

    @property
    def due_seconds(self) -> float | None:
        """Until a run that failed goes on; None if none waits."""
        dues = [due for owned in self._owned.values() if (due := owned.due) is not None]
        return max(0.0, min(dues) - self.now()) if dues else None

    @property
    def is_idle(self) -> bool:
        due = self.due_seconds
        return self._found_nothing and not self.held and (due is None or due > SOON_SECONDS)

    async def open(self) -> None:
        """Binds, and joins. Raises ServerError, BadInput for a group that is known in another mode."""
        for reaction in self.group.reactions:
            reaction.prepare()
        await self._bindings.tell()

    def _rebound(self) -> None:
        self._routes.clear()
        self._balancing.bound = frozenset(binding.text for binding in self._bindings.bound.bindings)
        for owned in list(self._owned.values()):
            owned.rebound()

    async def run(self) -> None:
        """Until its worker stops."""
        await asyncio.gather(self._read_on(), self._balancing.run(self._worker.stopping))

    async def _read_on(self) -> None:
        async def step() -> None:
            if not await self._pull_all():
                await self._wait()

        await until_stopped(self.group.name, self._worker.stopping, step)

    async def step(self) -> bool:
        """For a sandbox, which moves the time: reads what is there. Whether there was nothing. Raises ServerError."""
        await self._read_time()
        await self._balancing.look_if_due(self.now())
        for owned in self._owned.values():
            owned.look()
            owned.is_hungry = True
        self._found_nothing = not await self._pull_all()
        return self._found_nothing

    async def _read_time(self) -> None:
        with speaking_of(self._session.server.address.url):
            server = ms_of(await execute(self._session.redis, "TIME")) / 1000
        if self._base is None:
            self._base = server - self._loop.time()
        self._ahead = server - self._loop.time() - self._base

    # Reading.

    async def _pull_all(self) -> bool:
        """Of each partition that may have more, as far as there is room. Whether anything was there to do."""
        hungry = [owned for owned in self._owned.values() if owned.is_hungry and owned.room > 0]
        found = await asyncio.gather(*(self._pull(owned) for owned in hungry))
        return any(found)

    async def _pull(self, owned: Owned) -> bool:
        """Whether it gave anything. Raises ServerError."""
        limit = min(owned.room, PULLED_AT_ONCE)
        keys = self._session.keys.partitions[owned.number]
        command = pull_command(
            self._pull_script, keys, self.group.name, self._consumer, owned.token, owned.after, limit
        )
        answer = pulled(owned.number, await self._calls.script(self._pull_script, *command))
        with speaking_of(self._session.server.address.url):  # without what a reset dropped
            answer = answer._replace(deliveries=await current(self._session, self.group.name, answer.deliveries))
        if owned.is_closing:
            return False  # what came is pending, and the next owner gets it
        if not answer.is_read:
            await self._unread(owned, answer)
            return True
        if answer.version != self._bindings.version:
            await self._bindings.tell()  # a member came, or what it bound is forgotten
        if answer.gone:
            metrics.lost_entries_total.inc(answer.gone)
            log.warning(
                "log_entries_lost", group=self.group.name, entries=answer.gone
            )  # cut while the group was behind
        owned.receive(answer, limit)
        return bool(answer.deliveries) or owned.is_hungry

    async def _unread(self, owned: Owned, answer: Pulled) -> None:
        if answer.word == "nogroup":
            log.warning(
                "group_was_lost", group=self.group.name
            )  # flushed, deleted, or gone with the server's last second
            await self._bindings.tell()
        else:
            self.broken(owned, answer.word)

    async def _wait(self) -> None:
        """Until something changes, a run's time has come, or the log has something new."""
        dry = [owned for owned in self._owned.values() if not owned.is_hungry and owned.room > 0]
        if self._blocked is None and dry:
            self._blocked = self._loop.create_task(self._wait_for_entries(dry), name="tailrace-react-wait")
        due = self.due_seconds
        await self._changes.wait(BLOCK_SECONDS if due is None else min(due, BLOCK_SECONDS))
        for owned in list(self._owned.values()):
            owned.look()

    async def _wait_for_entries(self, dry: Sequence[Owned]) -> None:
        found = await self._entries.wait({owned.number: owned.after for owned in dry})
        for owned in dry:
            if found is None or owned.number in found:
                owned.is_hungry = True
        self._blocked = None
        self.wake()

    # What the partitions ask.

    @property
    def patience(self) -> float:
        return self._session.settings.visibility_seconds

    def now(self) -> float:
        return self._loop.time() + self._ahead

    def reaction_of(self, event: Event[Any]) -> Reaction | None:
        return self._routes.reaction(self._routes.of(event.payload), event)

    def is_bound(self, event: Event[Any]) -> bool:
        return self._bindings.wants(event)

    def put(self, owned: Owned, reaction: Reaction, call: Call) -> None:
        self._handling.put(owned, reaction, call)

    def stop(self, calls: Sequence[Call]) -> Sequence[Call]:
        return self._handling.stop(calls)

    def _over(self, owned: Owned) -> None:
        if owned.has_ended:
            self._ending.discard(owned)
            self.wake()

    async def note(self, owned: Owned, entry: str, tries: int) -> bool:
        with speaking_of(self._session.server.address.url):
            is_had = await self._leases.note(self._session.keys.partitions[owned.number], owned.token, entry, tries)
        if not is_had:
            self.broken(owned, "fenced")
        return is_had

    async def is_stopped(self, owned: Owned, run: str) -> bool:
        with speaking_of(self._session.server.address.url):
            return await self._leases.is_stopped(self._session.keys.partitions[owned.number], run)

    def wake(self) -> None:
        self._changes.tell()

    # Partitions come and go.

    @property
    def owned(self) -> dict[int, Owned]:
        """By partition."""
        return self._owned

    def is_ending(self, partition: int) -> bool:
        """Whether calls of it still run here."""
        return any(owned.number == partition for owned in self._ending)

    def begin(self, partition: int, token: str, *, is_lost: bool, stopped: Sequence[str]) -> None:
        """Its lease was taken."""
        self._owned[partition] = Owned(self, partition, token, self._chain, is_lost=is_lost, stopped=stopped)
        self.wake()

    def _chain(self, owned: Owned) -> Chained:
        session, name = self._session, self.group.name

        def command(units: Sequence[ReactUnit], lease: Lease) -> Command:
            return react_command(self._react, session.limits, session.keys, owned.number, name, units, lease)

        def answered(units: Sequence[ReactUnit]) -> None:
            keyspace = session.keys
            if any(keyspace.number(out.run) != owned.number for unit in units for out in unit.outputs):
                session.relaying.soon(owned.number)

        return Chained(self._calls, self._react, command, owned.token, functools.partial(self.broken, owned), answered)

    def broken(self, owned: Owned, word: str) -> None:
        """fenced: another member has its lease. hole: the server lost what was settled; from its beginning under the same."""
        if owned.is_dropped:
            return
        log.warning(
            "lease_lost" if word == "fenced" else "group_goes_back", group=self.group.name, partition=owned.number
        )
        self._drop(owned)
        if word == "hole":
            self._do(self._begin_again(owned))

    def _drop(self, owned: Owned) -> None:
        if self._owned.get(owned.number) is owned:
            del self._owned[owned.number]
        owned.drop()
        if not owned.has_ended:
            self._ending.add(owned)
        self.wake()

    async def _begin_again(self, owned: Owned) -> None:
        """The lease stays this member's, unless it has run out by then."""
        keys = self._session.keys.partitions[owned.number]
        while self.is_ending(owned.number):
            await self._changes.wait(RETRY_SECONDS)
        while not self._worker.stopping.is_set() and owned.number not in self._owned:
            try:
                with speaking_of(self._session.server.address.url):
                    stopped = await self._leases.stopped(keys)
            except ServerError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.begin(owned.number, owned.token, is_lost=False, stopped=stopped)

    async def give(self, owned: Owned, seconds: float) -> bool:
        """Lets its calls end within so many seconds, else cancels them, and gives the lease back. Whether all ended by itself."""
        owned.close()
        await self._changes.until(lambda: owned.is_quiet, seconds)
        if owned.is_dropped:
            return False
        is_whole = owned.is_quiet
        self._drop(owned)
        await self._changes.until(lambda: owned.has_ended, CLEAN_UP_SECONDS)
        await owned.chain.ended()
        try:
            with speaking_of(self._session.server.address.url):
                await self._leases.give(self._session.keys.partitions[owned.number], owned.token)
        except ServerError as error:
            log.info("lease_not_given", group=self.group.name, partition=owned.number, error=error.code)
            return False
        return is_whole

    # Beside.

    def sweep(self) -> None:
        self._handling.sweep()

    def renewals(self) -> Iterator[RenewalCall]:
        """Called in the renewing thread."""
        for owned in list(self._owned.values()):
            keys = self._session.keys.partitions[owned.number]
            command = renew_lease_command(
                self._lease_script, keys, self.group.name, self._consumer, owned.token, term_ms=self._term_ms
            )
            standing = owned.chain.last, owned.chain.calls
            yield RenewalCall(command, functools.partial(self._renewed, owned, standing), self._lease_script)

    def _renewed(self, owned: Owned, standing: tuple[str, int], answers: Sequence[str]) -> None:
        """In the renewing thread."""
        if not self._loop.is_closed():
            with suppress(RuntimeError):  # it was closed in between
                self._loop.call_soon_threadsafe(self._hear, owned, standing, answers)

    def _hear(self, owned: Owned, standing: tuple[str, int], answers: Sequence[str]) -> None:
        """A settlement that the server lost is noticed also where nothing is settled any more."""
        chain = owned.chain
        if answers[0] == "fenced":
            self.broken(owned, "fenced")
        elif (chain.last, chain.calls) == standing and not chain.unsettled and answers[1] != chain.last:
            self.broken(owned, "hole")

    async def look(self) -> None:
        """A pass. Raises ServerError."""
        if self._base is not None:  # nobody else looks in a sandbox
            await self._read_time()
            await self._balancing.look()
        await self._bindings.tell_if_due()

    # The end.

    async def drain(self, seconds: float) -> bool:
        """Reading has ended: calls may finish, leases are given back. Whether all is settled."""
        await self._balancing.leave()
        given = await asyncio.gather(*(self.give(owned, seconds) for owned in list(self._owned.values())))
        return all(given) and not self._ending

    async def close(self) -> None:
        for owned in list(self._owned.values()):
            self._drop(owned)
        await self._handling.close()
        tasks = [task for task in (*self._beside, self._blocked) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._entries.close()
        self._calls.close()

    async def crash(self) -> None:
        """As if its process had been killed: no lease is given back."""
        await self._balancing.crash()
        await self.close()

    # Waiting.

    def _do(self, work: Any) -> None:
        task = self._loop.create_task(work, name="tailrace-ordered")
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
