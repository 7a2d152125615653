"""Writers: one for each run and role that this process writes for, and `Sent`, what a write returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from typing import Final

from processor.core.ago import ago
from processor.core.chain import Chain, Flight, Outcome
from processor.core.cursor import FeedId
from processor.core.errors import (
    BacklogFull,
    BufferFull,
    EventsLost,
    IllegalEvent,
    RunClosed,
    RunCorrupt,
    RunExists,
    ServerError,
    ServerUnreachable,
    StaleAttempt,
    TailraceError,
    ThreadBusy,
)
from processor.core.events import OVERHEAD, Fields
from processor.store.append import Appender

__all__ = ["Buffer", "Posted", "Sent", "Writer", "refusal"]

UNREACHABLE_SECONDS: Final = 30.0


def refusal(run: str, type: str, outcome: Outcome) -> TailraceError:
    """A refused event as an error of the library."""
    detail = outcome.detail
    if outcome.word == "closed":
        status, _, tail = detail.partition(" ")
        since = f" {ago(time.time() - FeedId.parse(tail).ms / 1000)} ago" if tail else ""  # a renewal knows no tail
        return RunClosed(
            f"run {run} ended as {status}{since}; {type} was not added. A run that has ended takes no more events.",
            remedy='The next turn is a new run: `await answer.options(thread="chat-42").start(...)`.',
            run=run,
            status=status,
            tail=tail,
        )
    if outcome.word == "illegal":
        status, _, refused = detail.partition(" ")
        was = "does not exist" if status == "new" else f"is {status}"
        return IllegalEvent(
            f"run {run} {was}; {refused} is not allowed then.",
            remedy="WIRE 2 lists which event may follow which status.",
            run=run,
            status=status,
            type=refused,
        )
    if outcome.word == "stale":
        return StaleAttempt(f"run {run}: a newer attempt began, or its owner was lost; {type} was not added.", run=run)
    if outcome.word == "busy":
        return ThreadBusy(f"run {detail} of this thread is still in progress.", run=detail)
    if outcome.word == "full":
        return BacklogFull(
            f"run {run}: {type} was not added, the backlog of {detail} is full.",
            remedy=f"Start more workers for {detail}, or try again later.",
            group=detail,
        )
    if outcome.word == "exists":
        return RunExists(f"run {run} was started with another task or input.", remedy="Choose another id.", run=run)
    if outcome.word == "unbuffered":
        return BufferFull(
            f"too much waits to be sent, and {type} of run {run} was not awaited: it was not added.",
            remedy="Await what write, log, emit and set return where much is written, or raise TAILRACE_BUFFER_MIB.",
        )
    if outcome.word == "unsent":
        return ServerUnreachable(f"run {run}: {type} was not sent, or not answered, before its Tailrace was closed.")
    return RunCorrupt(f"run {run}: its hash and its feed do not belong together; {type} was not added.", run=run)


class Buffer:
    """Bytes of all unsent events of a process, and who waits for room."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def full(self) -> bool:
        return self.used >= self.limit

    def release(self, size: int) -> None:
        self.used -= size
        if self._waiting and self.used < self.limit:
            waiting, self._waiting = self._waiting, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    async def room(self) -> None:
        while self.full:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


class Sent:
    """An event on its way. Awaiting it waits for Redis and gives the feed ID, or raises what became of it.

    Not awaited, it goes all the same; a failure is then raised by the next call on its run.
    """

    __slots__ = ("_told", "_waiters", "acknowledged", "body", "draft", "number", "size", "writer")

    def __init__(self, writer: Writer, draft: Fields, body: object | None = None) -> None:
        self.writer = writer
        self.draft = draft
        self.size = len(draft[1]) + OVERHEAD
        self.body = body
        self.number = 0
        self.acknowledged = False
        self._told: Outcome | None = None
        self._waiters: list[asyncio.Future[None]] | None = None  # None: nobody ever awaited it

    @property
    def outcome(self) -> Outcome | None:
        """What became of it, None while it is under way."""
        return self._told.of(self.number) if self._told is not None else None

    def settle(self, outcome: Outcome) -> None:
        self._told = outcome
        self.writer.settled(self, outcome)
        if self._waiters:
            self.wake()

    @property
    def told_to_nobody(self) -> bool:
        """Whether it stands alone and nobody awaits it."""
        return self._waiters is None and self.body is None

    def __await__(self) -> Generator[object, None, str]:
        if self._told is None:
            yield from self._wait().__await__()
        return self.writer.result_of(self)

    async def _wait(self) -> None:
        writer = self.writer
        await writer.admit(self)
        loop = asyncio.get_running_loop()
        since = loop.time()
        while self._told is None:
            trouble = writer.appender.trouble
            if trouble is not None and not isinstance(trouble, ServerUnreachable):
                raise trouble  # it stays in the buffer and is tried again
            if trouble is not None and loop.time() - since >= UNREACHABLE_SECONDS:
                raise trouble
            writer.waiting[self] = None
            if trouble is None:
                await self._waiter()
            else:
                left = max(0.0, since + UNREACHABLE_SECONDS - loop.time())
                await asyncio.wait([self._waiter()], timeout=left + 0.001)

    async def settled(self) -> None:
        """Waits for its fate, however long, and raises nothing."""
        await self.writer.admit(self)
        while self._told is None:
            await self._waiter()

    def _waiter(self) -> asyncio.Future[None]:
        """Done when it is settled, or whoever waits should look again. One for each, since waits can be cancelled."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        return waiter

    def give_up(self) -> None:
        """There was no room for it, and the next call on its run did not wait for any."""
        self._told = Outcome("unbuffered")

    def wake(self) -> None:
        """The server is in trouble: whoever waits looks again."""
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<Sent {self.draft[0]} to {self.writer.chain.run}: {self._told.word if self._told else 'under way'}>"


class Writer:
    """Writes for one run: from outside, or live under an execution."""

    def __init__(
        self, appender: Appender, chain: Chain, buffer: Buffer, clock: Callable[[], float], max_event_bytes: int
    ) -> None:
        """max_event_bytes: of a payload, for callers to obey."""
        self.appender = appender
        self.max_event_bytes = max_event_bytes
        self.chain = chain
        self.used_at = clock()  # when the producer last gave it out
        self.waiting: dict[Sent, None] = {}
        self._buffer = buffer
        self._failed: Sent | None = None  # refused, and nobody has been told
        self._outside: Sent | None = None  # not admitted to the full buffer, and not awaited yet

    def put(self, draft: Fields, body: object | None = None) -> Sent:
        """Sends it; raises what an earlier unawaited write failed with."""
        if self.untold:
            self.check()
        sent = Sent(self, draft, body)
        if self._buffer.full:
            self._outside = sent
        else:
            self.admit_now(sent)
        return sent

    async def put_or_withdraw(self, draft: Fields) -> Sent:
        """Sends it and waits; where that fails it is taken back, so that it does not happen behind its caller's back later.

        What was under way when a wait ended may have happened all the same.
        """
        body = object()
        sent = self.put(draft, body)
        try:
            await sent
        except (ServerError, asyncio.CancelledError):
            self.chain.withdraw(body)
            raise
        return sent

    @property
    def has_room(self) -> bool:
        """Whether the buffer takes more."""
        return not self._buffer.full

    def put_anyway(self, draft: Fields) -> Sent:
        """As put, where an exception is on its way already: an earlier failure waits for the next call."""
        sent = Sent(self, draft)
        self.admit_now(sent)
        return sent

    def admit_now(self, sent: Sent) -> None:
        """Whether or not there is room."""
        self._buffer.used += sent.size
        self.chain.add(sent)
        if self.chain.ended is None:
            self.appender.mark(self.chain)

    async def admit(self, sent: Sent) -> None:
        """Waits for room where there was none when it was written."""
        if sent is self._outside:
            self._outside = None
            await self._buffer.room()
            self.admit_now(sent)

    def settled(self, sent: Sent, outcome: Outcome) -> None:
        self._buffer.release(sent.size)
        if self.waiting:
            self.waiting.pop(sent, None)
        if outcome.word != "appended" and not outcome.accepted and self._failed is None and sent.told_to_nobody:
            self._failed = sent

    def result_of(self, sent: Sent) -> str:
        outcome = sent.outcome
        assert outcome is not None
        if sent is self._failed:
            self._failed = None
        if not outcome.accepted:
            raise refusal(self.chain.run, sent.draft[0], outcome)
        return outcome.id or ""

    @property
    def untold(self) -> bool:
        """Whether something went wrong that nobody has been told of."""
        return self._failed is not None or self._outside is not None or self.chain.lost is not None

    def check(self) -> None:
        """Raises what an unawaited write failed with: refused, lost by the server, or not admitted to a full buffer."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            assert failed.outcome is not None
            raise refusal(self.chain.run, failed.draft[0], failed.outcome)
        if self.chain.lost is not None:
            first, last = self.chain.lost
            self.chain.lost = None
            raise EventsLost(self.chain.run, first, last)
        if self._outside is not None:
            outside, self._outside = self._outside, None
            outside.give_up()
            assert outside.outcome is not None
            raise refusal(self.chain.run, outside.draft[0], outside.outcome)

    def tell(self, trouble: ServerError) -> None:
        for sent in list(self.waiting):
            sent.wake()

    async def flush(self, *, patiently: bool = False) -> None:
        """Waits until everything written so far has its fate; raises what failed.

        patiently: however long the server is away or takes nothing; else that is raised as well.
        """
        last = self._outside or self.chain.newest
        if isinstance(last, Sent):
            if patiently:
                await last.settled()
            else:
                await last
        self.check()


class Posted:
    """One body of a named producer over HTTP: its numbers are the client's, and so is the chain."""

    def __init__(self, run: str, producer: str, prev: int, number: int, drafts: Sequence[Fields]) -> None:
        self.run, self.writer = run, f"p:{producer}"
        self.refilled = 0
        self.followers: Sequence[Posted] = ()
        self.outcomes: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        loose = [_Loose(draft, number + i) for i, draft in enumerate(drafts)]
        self._flight = Flight(prev, loose, sum(item.size for item in loose))
        self._waiting = True

    def take(self, events: int, size: int, now: float) -> Flight | None:
        if not self._waiting or len(self._flight.items) > events:
            return None
        self._waiting = False
        return self._flight

    def answered(self, outcomes: Sequence[tuple[int, Outcome]], now: float) -> None:
        if not self.outcomes.done():
            self.outcomes.set_result(spread(outcomes))

    def unsent(self, now: float) -> None:
        self._waiting = True

    def broken(self) -> None:
        self._waiting = not self.outcomes.done()  # the same numbers again: the server tells which it has

    def forget(self, now: float) -> None:
        """Nothing is kept: the client does that."""

    def abandon(self) -> None:
        self._waiting = False
        if not self.outcomes.done():
            self.outcomes.set_exception(
                ServerUnreachable(f"run {self.run}: its Tailrace was closed; the outcome is unknown.")
            )

    @property
    def wants(self) -> bool:
        return self._waiting and not self.outcomes.done()

    @property
    def idle(self) -> bool:
        return self.outcomes.done()


class _Loose:
    """An event of a posted body."""

    __slots__ = ("acknowledged", "body", "draft", "number", "size")

    def __init__(self, draft: Fields, number: int) -> None:
        self.draft, self.number = draft, number
        self.size = len(draft[1]) + OVERHEAD
        self.body: object | None = None
        self.acknowledged = False

    def settle(self, outcome: Outcome) -> None:
        """Told through the whole body's outcomes."""


def spread(outcomes: Sequence[tuple[int, Outcome]]) -> list[Outcome]:
    """One outcome for each event; IDs of one call are consecutive."""
    each: list[Outcome] = []
    for count, first in outcomes:
        seq, _, ms = (first.id or "").partition("-")
        each += [
            Outcome(first.word, f"{int(seq) + i}-{ms}" if seq else None, first.detail, first.attempt)
            for i in range(count)
        ]
    return each
