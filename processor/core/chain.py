"""The chain: numbers of one writer in one run, which make resends harmless and losses visible.

Every event has a number of its own for ever, and is sent with the number before it that the server was not seen to refuse
(`prev`). The server takes it only if `prev` is what it has. So the answer to any doubt is to send again: what it has is a
duplicate, and what it lost makes it answer `hole` with the number that it still has; then what is kept goes again first.
tests/models/{producer,inflight}.py are the same rules with every fault in every order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from processor.core.events import Draft, Fields

__all__ = ["Budget", "Chain", "Flight", "Item", "Outcome"]

KEEP_SECONDS: Final = 3.0  # AOF everysec may lose the last second, and a slow fsync postpones it by two
PAUSE_SECONDS: Final = 1.0  # before an event that had been acknowledged is sent again to a full log
_FINAL: Final = frozenset({"closed", "stale", "corrupt"})  # nothing that follows can succeed either


class Outcome(NamedTuple):
    """What became of one event. word: appended duplicate hole stale closed illegal busy full exists corrupt unsent unbuffered.

    Those that were taken together share one, since making one each would cost more than all the rest of a write: `of` is
    what one of them was told.
    """

    word: str
    id: str | None = None  # feed ID, where it has one that is known
    detail: str = ""  # number stored (hole), `<status> <tail>` (closed), `<from> <type>` (illegal), run (busy), group or task (full)
    attempt: int = 0  # of run.started
    number: int = 0  # of the event that has this ID, those behind it have the IDs behind; 0: the outcome of one event

    @property
    def accepted(self) -> bool:
        return self.word in ("appended", "duplicate")

    def of(self, number: int) -> Outcome:
        """The outcome of the event with that number."""
        if not self.number:
            return self
        seq, _, ms = (self.id or "").partition("-")
        id = f"{int(seq) + number - self.number}-{ms}" if seq else None
        return Outcome(self.word, id, self.detail, self.attempt)


class Item(Protocol):
    """An event on its way. `body`: events that came together and of which none may follow a refused one; None if alone."""

    number: int
    body: object | None
    acknowledged: bool

    @property
    def draft(self) -> Fields: ...

    @property
    def size(self) -> int:
        """Of the draft."""

    def settle(self, outcome: Outcome) -> None:
        """Told once, when its fate is known. The outcome may be that of several: `of` its number is the item's own."""


class Kept(NamedTuple):
    """What was acknowledged together. Exact tuples, not items: the garbage collector would walk through those for ever."""

    at: float
    number: int  # of the first
    drafts: list[Fields]
    size: int

    def until(self, last: int) -> Kept:
        """Those up to that number."""
        if self.number + len(self.drafts) - 1 <= last:
            return self
        drafts = self.drafts[: max(0, last + 1 - self.number)]
        return self._replace(drafts=drafts, size=sum(Draft(*draft).size for draft in drafts))

    def items(self) -> list[Item]:
        return [_Again(Draft(*draft), self.number + i) for i, draft in enumerate(self.drafts)]


class _Again:
    """An acknowledged event that goes again: nobody waits to be told."""

    __slots__ = ("acknowledged", "body", "draft", "number", "size")

    def __init__(self, draft: Draft, number: int) -> None:
        self.draft, self.number, self.size = draft, number, draft.size
        self.acknowledged = True
        self.body: object | None = None

    def settle(self, outcome: Outcome) -> None:
        """Was told when it was acknowledged."""


@dataclass(slots=True)
class Flight:
    """One batch under way; without items it asks what is stored."""

    prev: int
    items: Sequence[Item]
    size: int = 0  # of all drafts

    @property
    def number(self) -> int:
        return self.items[0].number if self.items else 0


@dataclass(slots=True)
class Budget:
    """Bytes that all chains of a process may keep of what was acknowledged."""

    limit: int
    used: int = 0


@dataclass(slots=True, eq=False)
class Chain:
    """What one writer sends into one run. No I/O and no clock: `now` is any monotonic time in seconds."""

    run: str
    writer: str  # `p:<producer>` or `x:<exec>`
    budget: Budget
    after: Chain | None = None  # of the run.started under which this one writes: its refill goes first
    stored: int = 0  # the highest number that the server is known to have
    last: int = 0  # the last number given
    queue: deque[Item] = field(default_factory=deque)
    flying: deque[Flight] = field(default_factory=deque)
    kept: deque[Kept] = field(default_factory=deque)
    forgotten: int = 0  # the highest acknowledged number that is no longer kept
    pressed_at: float | None = None  # when there was no room to keep one long enough: the server may still lose it
    lost: tuple[int, int] | None = None  # numbers that the server lost and nobody has; the owner takes it
    ended: Outcome | None = None  # closed, stale or corrupt: nothing is sent any more
    refilled: int = 0  # how many events were sent again because the server had lost them
    pause_until: float = 0.0
    followers: list[Chain] = field(default_factory=list)  # chains that are `after` this one
    on_cancelling: Callable[[], None] | None = None  # a cancel is asked for
    _over: bool = False  # nothing more will be added
    _ask: bool = False  # a new connection: what does the server have?
    _draining: bool = False  # a refusal: nothing goes out until all flights are answered
    _said: int | None = None  # what the last hole said

    def __post_init__(self) -> None:
        if self.after is not None:
            self.after.followers.append(self)

    def add(self, item: Item) -> None:
        """Gives the item its number. After the end it is settled at once."""
        self.last += 1
        item.number = self.last
        if self.ended is not None:
            item.settle(self.ended)
        else:
            self.queue.append(item)

    @property
    def resyncing(self) -> bool:
        """Whether the server may lack what it acknowledged."""
        return self._ask or self._draining or any(item.acknowledged for item in self.queue)

    def may_refill(self, number: int) -> bool:
        """Whether events up to that number, which the server acknowledged and lost, may come again: they are under way, or
        nobody has noticed the loss yet."""
        return self.ended is None and (self.resyncing or bool(self.flying) or self.stored >= number)

    @property
    def wants(self) -> bool:
        """Whether something is to be sent, now or when its flights are answered."""
        return self.ended is None and (bool(self.queue) or self._ask)

    @property
    def idle(self) -> bool:
        return not (self.queue or self.flying or self.kept or self._ask or self.pressed_at is not None)

    @property
    def newest(self) -> Item | None:
        """The last event given that is not answered yet. A refused flight's stand in the queue while later ones still fly."""
        items = [
            *(flight.items[-1] for flight in self.flying if flight.items),
            *([self.queue[-1]] if self.queue else ()),
        ]
        return max(items, key=lambda item: item.number, default=None)

    def take(self, events: int, size: int, now: float, *, in_flight: int = 2) -> Flight | None:
        """The next batch of at most so many events and bytes, or None. Bodies are never split."""
        if self._draining or len(self.flying) >= in_flight or self.ended is not None:
            return None
        if self.after is not None and (self.after.resyncing or self.after.flying):
            return None
        if self._ask:
            return None if self.flying else self._fly(Flight(0, ()))
        if not self.queue or now < self.pause_until:
            return None
        items, taken = self._next_items(events, size)
        if not items:
            return None
        prev = max(self.stored, self.flying[-1].items[-1].number if self.flying else 0)
        return self._fly(Flight(min(prev, items[0].number - 1), items, taken))

    def _fly(self, flight: Flight) -> Flight:
        self.flying.append(flight)
        return flight

    def _next_items(self, events: int, size: int) -> tuple[list[Item], int]:
        """Whole bodies with consecutive numbers; the last one may pass the size. Also their size."""
        queue = self.queue
        items: list[Item] = []
        expected, taken = queue[0].number, 0
        while queue and taken < size and events:
            first = queue[0]
            if first.number != expected:
                break
            if first.body is None:
                items.append(queue.popleft())
                taken += first.size
                expected += 1
                events -= 1
                continue
            count = 1  # a body's events stand together
            while count < len(queue) and queue[count].body is first.body:
                count += 1
            if count > events:
                break
            for _ in range(count):
                item = queue.popleft()
                items.append(item)
                taken += item.size
            events -= count
            expected += count
        return items, taken

    def answered(self, outcomes: Sequence[tuple[int, Outcome]], now: float) -> None:
        """The answer to the oldest flight: (how many events, outcome of the first of them), in order."""
        flight = self.flying.popleft()
        if not flight.items:
            self._answered_question(outcomes[0][1], now)
            return
        at = 0
        again: list[Item] = []
        refused_body: object | None = None
        for count, outcome in outcomes:
            part = flight.items[at : at + count]
            at += count
            if outcome.accepted:
                self._accept(part, outcome, now)
            elif outcome.word == "hole":
                self._draining, self._said = True, int(outcome.detail)
                for item in part:
                    if item.body is not None and item.body is refused_body:
                        item.settle(outcome)
                    else:
                        again.append(item)
            elif outcome.word == "cancelling":
                if self.on_cancelling is not None:
                    self.on_cancelling()
            else:
                refused_body = part[0].body
                self._refuse(part[0], outcome, again, now)
        self._requeue(again)
        self._drained(now)
        self._forget(now)

    def _drained(self, now: float) -> None:
        if self._draining and not self.flying:
            self._draining = False
            if self._said is not None:
                self._believe(self._said, now)

    def unsent(self, now: float) -> None:
        """Nothing of the oldest flight was applied: the call as a whole was refused."""
        flight = self.flying.popleft()
        if flight.items:  # else the question is still to be asked
            self._draining = True
            self._requeue(flight.items)
        self._drained(now)

    def _answered_question(self, outcome: Outcome, now: float) -> None:
        self._ask = False
        if outcome.word in _FINAL:
            self._end(outcome)
        else:
            self._believe(int(outcome.detail), now)

    def _accept(self, items: Sequence[Item], first: Outcome, now: float) -> None:
        shared = Outcome(first.word, first.id, "", first.attempt, items[0].number)
        size = 0
        for item in items:
            size += item.size
            if not item.acknowledged:
                item.acknowledged = True
                item.body = None
                item.settle(shared)
        self.kept.append(Kept(now, items[0].number, [item.draft[:] for item in items], size))
        self.budget.used += size
        self.stored = max(self.stored, items[-1].number)
        while self.kept and self.budget.used > self.budget.limit:
            self.pressed_at = now
            self._drop_oldest()

    def _refuse(self, item: Item, outcome: Outcome, again: list[Item], now: float) -> None:
        if item.acknowledged and outcome.word == "full":
            # It was acknowledged once: never given up, sent until taken.
            again.append(item)
            self.pause_until = now + PAUSE_SECONDS
            self._draining = True
            return
        if item.acknowledged:
            self._note_lost(item.number, item.number)
        else:
            item.settle(outcome)
        self._draining = True
        if outcome.word in _FINAL:
            self._end(outcome)

    def _end(self, outcome: Outcome) -> None:
        self.ended = outcome
        while self.queue:
            item = self.queue.popleft()
            if not item.acknowledged:
                item.settle(outcome)

    def _requeue(self, items: Sequence[Item]) -> None:
        """Puts items back in front, by number."""
        if not items:
            return
        if self.ended is not None:
            for item in items:
                if not item.acknowledged:
                    item.settle(self.ended)
            return
        merged = sorted({item.number: item for item in (*items, *self.queue)}.values(), key=lambda item: item.number)
        self.queue = deque(merged)

    def _believe(self, stored: int, now: float) -> None:
        """What the server has: kept events behind it go again, those that are no longer kept are lost."""
        self._said = None
        refill = [item for kept in self.kept for item in kept.items() if item.number > stored]
        if refill:
            self.kept = deque(part for kept in self.kept if (part := kept.until(stored)).drafts)
            self.budget.used -= sum(item.size for item in refill)
            self.refilled += len(refill)
            self._requeue(refill)
        if self.forgotten > stored:
            self._note_lost(stored + 1, self.forgotten)
            self.forgotten = stored
        self.stored = stored

    def _note_lost(self, first: int, last: int) -> None:
        self.lost = (min(first, self.lost[0]), max(last, self.lost[1])) if self.lost else (first, last)

    def _forget(self, now: float) -> None:
        before = now - KEEP_SECONDS
        while self.kept and self.kept[0].at < before:
            self._drop_oldest()
        if self.pressed_at is not None and self.pressed_at < before:
            self.pressed_at = None

    def _drop_oldest(self) -> None:
        kept = self.kept.popleft()
        self.budget.used -= kept.size
        self.forgotten = max(self.forgotten, kept.number + len(kept.drafts) - 1)

    def forget(self, now: float) -> None:
        """While the connection stands: what was acknowledged long enough ago is not kept any more."""
        if not self.flying and not self._ask:
            self._forget(now)
        if self._over and self.idle and self.after is not None:
            self.after.followers.remove(self)
            self.after = None

    def finish(self) -> None:
        """Nothing more will be added. Once all is settled and kept long enough, the chain that it waited for lets it go."""
        self._over = True

    def broken(self) -> None:
        """The connection ended: what was under way may or may not have been executed."""
        flights, self.flying = self.flying, deque()
        self._draining, self._said = False, None
        if flights or self.kept or self.pressed_at is not None:
            self._ask = True
        self._requeue([item for flight in flights for item in flight.items])

    def abandon(self) -> None:
        """Nothing is sent any more: whatever has no fate by now is `unsent`."""
        if self.ended is None:
            flights, self.flying = self.flying, deque()
            self._requeue([item for flight in flights for item in flight.items])
            self._end(Outcome("unsent"))

    def withdraw(self, body: object) -> None:
        """Takes back what was not sent, or whose answer is unknown: its caller was told so and must send it again."""
        taken = [item for item in self.queue if item.body is body]
        self.queue = deque(item for item in self.queue if item.body is not body)
        for item in taken:
            item.settle(Outcome("withdrawn"))
