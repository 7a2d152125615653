"""A producer's chain against a server that refuses, breaks connections, executes late copies and loses its last writes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from processor.core.chain import KEEP_SECONDS, Budget, Chain, Flight, Outcome
from processor.core.events import Draft, draft

EVENTS, SIZE = 256, 1 << 20


@dataclass(eq=False)
class Sent:
    """An item that remembers what it was told."""

    draft: Draft
    body: object | None = None
    number: int = 0
    acknowledged: bool = False
    told: list[Outcome] = field(default_factory=list)
    accepted_at: float = 0.0

    @property
    def size(self) -> int:
        return self.draft.size

    def settle(self, outcome: Outcome) -> None:
        self.told.append(outcome)


@dataclass
class Server:
    """The chain rule, for one writer of one run. Full once for each token in `refusals`."""

    stored: int = 0
    feed: list[int] = field(default_factory=list)
    before: tuple[int, list[int]] | None = None  # one write ago
    refusals: int = 0

    def execute(self, flight: Flight) -> list[tuple[int, Outcome]]:
        """As append.lua judges a batch."""
        if not flight.items:
            return [(1, Outcome("stored", detail=str(self.stored)))]
        old = (self.stored, list(self.feed))
        outcomes = [(1, outcome) for outcome in self._judge(flight)]
        if self.feed != old[1]:
            self.before = old
        return outcomes

    def _judge(self, flight: Flight) -> list[Outcome]:
        outcomes, prev, refused = [], flight.prev, False
        for item in flight.items:
            if refused or (item.number > self.stored and prev != self.stored):
                outcomes.append(Outcome("hole", detail=str(self.stored)))
                refused = True
            elif item.number <= self.stored:
                outcomes.append(Outcome("duplicate"))
            elif self.refusals:
                self.refusals -= 1
                outcomes.append(Outcome("full", detail="group"))
                refused = True
            else:
                self.stored = item.number
                self.feed.append(item.number)
                outcomes.append(Outcome("appended", f"{len(self.feed)}-1"))
            prev = item.number
        return outcomes

    def lose(self) -> None:
        if self.before is not None:
            self.stored, self.feed = self.before[0], list(self.before[1])
            self.before = None


class World:
    """One process with one chain, its connection, and copies of what broken connections left behind."""

    def __init__(self, keep: int) -> None:
        self.now = 0.0
        self.server = Server()
        self.chain = Chain("run", "p:me", Budget(keep))
        self.items: list[Sent] = []
        self.bodies: list[list[Sent]] = []  # that came together
        self.wire: deque[Flight] = deque()
        self.answers: deque[tuple[Flight, list[tuple[int, Outcome]]]] = deque()
        self.late: deque[Flight] = deque()
        self.lost: set[int] = set()
        self.losses = 0
        self.lost_at = 0.0  # when the server lost something last

    def add(self, count: int, together: bool) -> None:
        body = object() if together else None
        items = [Sent(draft("message.delta", b'"x"'), body) for _ in range(count)]
        self.items += items
        if together:
            self.bodies.append(items)
        for item in items:
            self.chain.add(item)

    def send(self) -> bool:
        flight = self.chain.take(EVENTS, SIZE, self.now)
        if flight is None:
            return False
        # What is sent does not change any more, whatever becomes of the chain.
        self.wire.append(Flight(flight.prev, tuple(flight.items)))
        return True

    def execute(self) -> bool:
        if not self.wire:
            return False
        flight = self.wire.popleft()
        self.answers.append((flight, self.server.execute(flight)))
        return True

    def answer(self) -> bool:
        if not self.answers:
            return False
        _, outcomes = self.answers.popleft()
        self.chain.answered(outcomes, self.now)
        self._look()
        return True

    def execute_late(self) -> None:
        if self.late:
            self.server.execute(self.late.popleft())

    def cut(self, *, copies: bool) -> None:
        """The connection breaks; what was under way may still be."""
        if copies:
            self.late.extend(self.wire)
        self.wire.clear()
        self.answers.clear()
        self.chain.broken()

    def crash(self) -> None:
        self.losses += 1
        self.lost_at = self.now
        self.server.lose()
        self.cut(copies=False)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.chain.forget(self.now)

    def _look(self) -> None:
        for item in self.items:
            if item.acknowledged and not item.accepted_at:
                item.accepted_at = self.now or 1e-9
        if self.chain.lost is not None:
            first, last = self.chain.lost
            self.lost |= set(range(first, last + 1))
            self.chain.lost = None

    def check(self) -> None:
        feed = self.server.feed
        assert feed == sorted(set(feed)), f"not once and in order: {feed}"
        held = {item.number for item in self.chain.queue} | {n.number for f in self.chain.flying for n in f.items}
        held |= {item.number for kept in self.chain.kept for item in kept.items()}
        for item in self.items:
            assert len(item.told) <= 1, f"{item.number} was told {item.told}"
            if item.acknowledged and item.number not in feed and item.number not in self.lost | held:
                assert not any(number > item.number for number in feed), f"a silent hole at {item.number}: {feed}"
                assert self.chain.resyncing or item.number <= self.chain.forgotten, f"{item.number} is forgotten"

    def drain(self) -> None:
        """No more faults: everything is sent and answered."""
        self.server.refusals = 0
        while True:
            if self.send() or self.execute() or self.answer():
                self.check()
                self.now += 0.01
            elif self.now < self.chain.pause_until:
                self.now = self.chain.pause_until
            else:
                return


ONCE = (
    "nothing",
    "body",
    "cut",
    "drop",
    "late",
    "crash",
    "refuse",
    "wait",
    "long",
    "turn",
)  # first what failures shrink to
ACTIONS = (*ONCE, *("add", "send", "execute", "answer") * 2)


def act(world: World, action: str, count: int) -> None:
    if action == "nothing":
        return
    if action in ("add", "body"):
        world.add(count, action == "body")
    elif action in ("cut", "drop"):
        world.cut(copies=action == "cut")
    elif action == "crash":
        world.crash()
    elif action == "refuse":
        world.server.refusals += 1
    elif action in ("wait", "long"):
        world.wait(0.5 if action == "wait" else KEEP_SECONDS + 1)
    elif action == "turn":
        for _ in range(6):
            if not (world.answer() or world.execute() or world.send()):
                break
            world.check()
            world.now += 0.01
    elif action == "late":
        world.execute_late()
    else:
        getattr(world, action)()
    world.check()


steps = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 4)), min_size=40, max_size=40)


@settings(max_examples=500, deadline=None)
@given(steps, st.sampled_from((0, 100, 1 << 20)))
def test_once_in_order_and_nothing_silently_lost(schedule: list[tuple[str, int]], keep: int) -> None:
    """Whatever happens, each event is told one outcome and is once in the feed, in order; what was lost is sent again or told."""
    world = World(keep)
    for action, count in schedule:
        act(world, action, count)
    world.drain()
    accepted = [item for item in world.items if item.acknowledged]
    assert all(len(item.told) == 1 for item in world.items)
    for item in accepted:
        # What was acknowledged longer ago no server may lose; an idle producer would not learn of it.
        if item.number not in world.server.feed and item.number not in world.lost:
            assert item.accepted_at + KEEP_SECONDS < world.lost_at
    assert not world.lost or world.losses
    for item in world.items:
        assert item.told[0].word in ("appended", "duplicate", "full", "hole")
        assert item.told[0].word != "hole" or item.body is not None


@settings(max_examples=300, deadline=None)
@given(steps)
def test_a_living_producer_loses_nothing(schedule: list[tuple[str, int]]) -> None:
    """Within three seconds, and with room to keep what was acknowledged, nothing is lost however often the server forgets."""
    world = World(1 << 20)
    for action, count in schedule:
        if action not in ("long", "wait"):
            act(world, action, count)
    world.drain()
    assert not world.lost
    assert all(item.number in world.server.feed for item in world.items if item.acknowledged)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_bodies_are_never_split(schedule: list[tuple[str, int]]) -> None:
    """Events that came together leave together, and none of them is accepted behind a refused one."""
    world = World(1 << 20)
    for action, count in schedule:
        act(world, action, count)
        for flight in world.wire:
            sent = set(map(id, flight.items))
            for body in world.bodies:
                waiting = {id(item) for item in body if not item.told}
                assert not sent & waiting or waiting <= sent
    world.drain()
    for body in world.bodies:
        accepted = [item.told[0].word in ("appended", "duplicate") for item in body]
        assert accepted == sorted(accepted, reverse=True)
