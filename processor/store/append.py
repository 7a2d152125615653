"""Appending: what waits is sent in as few calls as possible, over one connection, two calls in flight for each partition.

A turn of the event loop is one batch, and what arrives while two calls are under way forms the next. Which events go and
what an answer means is decided by each run's chain (processor/core/chain.py); here they meet the network.
"""

from __future__ import annotations

import asyncio
import functools
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import hiredis
import structlog
from prometheus_client import Counter

from processor.core.chain import Budget, Flight, Outcome
from processor.core.errors import ServerError, ServerFull, ServerReadOnly, ServerUnreachable
from processor.core.keys import Keyspace
from processor.observe import metrics
from processor.store.connection import Address, Wire, pack, server_error
from processor.store.scripts import Batch, Limits, Script, append_command

__all__ = ["Appender", "Source"]

log = structlog.get_logger("tailrace.append")
MAX_EVENTS: Final = 256
MAX_BYTES: Final = 1 << 20
IN_FLIGHT: Final = 2  # four make batches small when one run streams; one leaves the server idle
RETRY_SECONDS: Final = 0.5  # while the server is there and refuses (loading, out of memory, read-only)
SWEEP_SECONDS: Final = 1.0
SILENT_SWEEPS: Final = 10  # of a server that owes an answer: the way to it may be dead without anybody being told


class Source(Protocol):
    """Whoever has events for one run: a chain, or one body of a named producer."""

    run: str
    writer: str
    refilled: int

    def take(self, events: int, size: int, now: float) -> Flight | None: ...
    def answered(self, outcomes: Sequence[tuple[int, Outcome]], now: float) -> None: ...
    def unsent(self, now: float) -> None: ...
    def broken(self) -> None: ...
    def forget(self, now: float) -> None: ...

    def abandon(self) -> None:
        """Nothing is sent any more; whoever waits is told."""

    @property
    def followers(self) -> Sequence[Source]:
        """Sources that wait for this one."""

    @property
    def wants(self) -> bool:
        """Whether it has something to send, now or when its flights are answered."""

    @property
    def idle(self) -> bool: ...


class _Call(NamedTuple):
    lane: _Lane
    sources: list[Source]
    events: int


@dataclass(slots=True, eq=False)
class _Lane:
    """One partition."""

    number: int
    ready: dict[Source, None] = field(default_factory=dict)  # in the order in which they got something to send
    in_flight: int = 0


class Appender:
    """Sends what sources have. Belongs to one event loop; takes events before it is opened."""

    def __init__(self, address: Address, limits: Limits, *, budget: Budget) -> None:
        self.budget = budget
        self.connections = 0  # made so far: between two equal ones the server has lost nothing
        self.trouble: ServerError | None = None  # why nothing goes out right now
        self.on_trouble: list[Callable[[ServerError], None]] = []
        self.settle_topology: Callable[[int, str], Any] | None = None  # awaited when the server knows another layout
        self._address, self._limits = address, limits
        self._keys: Keyspace | None = None  # none until it is opened; what is marked before then waits
        self._script: Script | None = None
        self._lanes: list[_Lane] = []
        self._sources: dict[Source, None] = {}
        self._calls: deque[_Call | None] = deque()  # None: a reply that nobody waits for
        self._wire: Wire | None = None
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._marked: set[Source] = set()  # a flush is due that sees them: to mark again, as each write does, is free
        self._logged: str | None = None  # the trouble that the log was told of
        self._closing = False
        self._silent_sweeps = 0  # in which no answer came although one is owed
        self._unloadable: ServerError | None = None  # why the server did not take the script
        self._lost = asyncio.Event()
        self._retry: asyncio.TimerHandle | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, keys: Keyspace, script: Script) -> None:
        """Connects. Raises ServerError if that fails now; later losses are mended without telling."""
        self._script = script
        self._use(keys)
        await self._connect()
        self._start(self._stay_connected())
        self._sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep_sources)

    async def close(self) -> None:
        self._closing = True
        for timer in (self._sweep, self._retry):
            if timer is not None:
                timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        for source in self._sources:
            source.abandon()

    def _start(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def busy(self) -> bool:
        """Whether anything is waiting or under way."""
        return any(source.wants for source in self._sources) or any(self._calls)

    def _use(self, keys: Keyspace) -> None:
        self._keys = keys
        for lane in self._lanes:
            lane.ready.clear()  # answers that are still to come fill it again
        self._lanes = [_Lane(p) for p in range(len(keys.partitions))]
        self._marked.clear()

    def _ready(self, source: Source) -> None:
        if self._keys is not None:
            self._lanes[self._keys.number(source.run)].ready[source] = None

    def _unready(self, lane: _Lane, source: Source) -> None:
        del lane.ready[source]
        self._marked.discard(source)

    def mark(self, source: Source) -> None:
        """The source has something to send."""
        if source in self._marked:
            return
        if self._closing:
            source.abandon()
            return
        self._marked.add(source)
        self._sources[source] = None
        self._ready(source)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        self._marked.clear()
        if self._wire is None or self.trouble is not None:
            return
        for lane in self._lanes:
            if lane.ready:
                self._fill(lane)

    def _fill(self, lane: _Lane) -> None:
        now = self._loop.time()
        while lane.ready and lane.in_flight < IN_FLIGHT:
            batches: list[Batch] = []
            sources: list[Source] = []
            events, size = MAX_EVENTS, MAX_BYTES
            for source in list(lane.ready):
                flight = source.take(events, size, now)
                if flight is None:
                    if not source.wants or events == MAX_EVENTS:
                        # Nothing now; whoever makes it possible marks it again: an answer, a timer, the next event.
                        self._unready(lane, source)
                    continue
                drafts = [item.draft for item in flight.items]
                batches.append(Batch(source.run, source.writer, flight.prev, flight.number, drafts))
                sources.append(source)
                events -= len(drafts)
                size -= flight.size
                # Round robin: who has more to send queues up behind the others.
                self._unready(lane, source)
                if source.wants:
                    lane.ready[source] = None
                if events <= 0 or size <= 0:
                    break
            if not batches:
                return
            self._send(_Call(lane, sources, MAX_EVENTS - events), batches)

    def _send(self, call: _Call, batches: list[Batch]) -> None:
        assert self._wire is not None
        assert self._keys is not None
        assert self._script is not None
        keys = self._keys.partitions[call.lane.number]
        self._wire.send(pack(*append_command(self._script, keys, self._keys.layout, self._limits, batches)))
        self._calls.append(call)
        call.lane.in_flight += 1
        metrics.append_batch_events.observe(call.events)

    def _on_reply(self, reply: Any) -> None:
        call = self._calls.popleft()
        self._silent_sweeps = 0
        if call is None:
            refused = isinstance(reply, hiredis.ReplyError)
            self._unloadable = server_error(str(reply), self._address.url) if refused else None
            return
        call.lane.in_flight -= 1
        if isinstance(reply, hiredis.ReplyError):
            self._refused(call, reply)
        elif reply[0] == b"topology":
            self._return(call)
            self._start(self._new_topology(call.lane.number, reply[1].decode()))
        else:
            if self._logged is not None:
                self._logged = None
                log.info("appends_go_on")
            now = self._loop.time()
            for source, outcomes in zip(call.sources, reply[1], strict=True):
                source.answered(parse_outcomes(outcomes), now)
                if source.refilled:
                    metrics.refills_total.inc(source.refilled)
                    source.refilled = 0
                self._mark_again(source)
            self._fill(call.lane)

    def _mark_again(self, source: Source) -> None:
        """After an answer: whatever it, or a chain that waited for it, has to send may go now."""
        for other in (source, *source.followers):
            if other.wants:
                self._ready(other)

    def _return(self, call: _Call) -> None:
        """Nothing of the call was applied."""
        for source in call.sources:
            source.unsent(self._loop.time())
            self._mark_again(source)

    def _refused(self, call: _Call, error: hiredis.ReplyError) -> None:
        self._return(call)
        if str(error).startswith("NOSCRIPT"):
            self._load_script()
            if self._unloadable is not None:
                self._in_trouble(self._unloadable)
            else:
                self._fill(call.lane)
            return
        self._in_trouble(server_error(str(error), self._address.url))

    def _in_trouble(self, trouble: ServerError) -> None:
        if self._logged != trouble.code:
            self._logged = trouble.code
            log.warning("appends_wait", error=trouble.code, message=trouble.message)
        self.trouble = trouble
        for tell in self.on_trouble:
            tell(trouble)
        if self._retry is None and self._wire is not None:
            self._retry = self._loop.call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self.trouble = None
        for source in list(self._sources):
            if source.wants:
                self.mark(source)

    async def _new_topology(self, partition: int, answered: str) -> None:
        assert self.settle_topology is not None
        try:
            keys: Keyspace = await self.settle_topology(partition, answered)
        except ServerError as error:
            self._in_trouble(error)
            return
        if self._keys is None or keys.layout != self._keys.layout:
            self._use(keys)  # calls still under way were sent under the old layout and are refused likewise
        self._try_again()

    def _load_script(self) -> None:
        assert self._wire is not None
        assert self._script is not None
        self._wire.send(pack(b"SCRIPT", b"LOAD", self._script.text))
        self._calls.append(None)

    async def _connect(self) -> None:
        self._lost.clear()
        self._wire = await Wire.connect(
            self._address, on_reply=self._on_reply, on_lost=self._on_lost, name="tailrace-append"
        )
        self.connections += 1
        self.trouble = None
        self._load_script()
        self._try_again()

    def _on_lost(self, error: BaseException | None) -> None:
        self._wire = None
        self._silent_sweeps, self._unloadable = 0, None
        if self._retry is not None:  # else it would say that all is well again
            self._retry.cancel()
            self._retry = None
        self._calls.clear()
        for lane in self._lanes:
            lane.in_flight = 0
        for source in self._sources:
            source.broken()
        self._in_trouble(server_error(error or ConnectionResetError("connection closed by server"), self._address.url))
        self._lost.set()

    async def _stay_connected(self) -> None:
        while not self._closing:
            await self._lost.wait()
            metrics.reconnects_total.labels(connection="append").inc()
            delay = 0.02
            while True:
                try:
                    await self._connect()
                except ServerError as error:
                    self.trouble = error if isinstance(error, (ServerFull, ServerReadOnly)) else as_unreachable(error)
                    await asyncio.sleep(delay * (0.5 + random.random()))
                    delay = min(delay * 2, 1.0)
                else:
                    break

    def _sweep_sources(self) -> None:
        now = self._loop.time()
        if self._wire is not None:
            self._look_for_silence(self._wire)
        if self._wire is not None:
            for source in list(self._sources):
                source.forget(now)
                if source.idle:
                    del self._sources[source]
                elif source.wants:
                    self.mark(source)  # whoever paused
        self._sweep = self._loop.call_later(SWEEP_SECONDS, self._sweep_sources)

    def _look_for_silence(self, wire: Wire) -> None:
        """Counted in sweeps, so that time in which the loop was held is not the server's."""
        self._silent_sweeps += bool(self._calls)
        if self._silent_sweeps >= SILENT_SWEEPS:
            wire.close()
            self._on_lost(TimeoutError(f"no answer within {SILENT_SWEEPS * SWEEP_SECONDS:g} s"))


def as_unreachable(error: ServerError) -> ServerError:
    return error if isinstance(error, ServerUnreachable) else ServerUnreachable(error.message, remedy=error.remedy)


def parse_outcomes(reply: Sequence[bytes]) -> list[tuple[int, Outcome]]:
    """append.lua's outcomes of one batch, `cancelling` left out of the count with 0 events."""
    parsed = []
    for text in reply:
        word, _, rest = text.decode().partition(" ")
        count, _, detail = rest.partition(" ")
        if word in ("appended", "duplicate"):
            id, _, attempt = detail.partition(" ")
            outcome = Outcome(word, None if id == "-" else id, attempt=int(attempt or 0))
        elif word == "stored":
            outcome, count = Outcome("stored", detail=count), "0"
        else:
            outcome = Outcome(word, detail=detail)
        parsed.append((int(count or 0), outcome))
        if word not in ("cancelling", "stored"):
            _appends(word).inc(int(count))
    return parsed


@functools.cache
def _appends(word: str) -> Counter:
    return metrics.appends_total.labels(outcome=word)
