"""Inlets: whatever owners do at once, and whatever gets lost, each entry is applied once and in order (models/inlet.py)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from processor.core.events import draft
from processor.core.inlet import MAX_BYTES, MAX_EVENTS, NOTHING, GoBack, Item, Lane, Letter, Parcel, id_of, place_of

PARTITIONS = 3
RUNS = 5


def item(n: int, run: str = "r", **options: object) -> Item:
    return Item(f"{n}-0", run, (draft("a", b"%d" % n),), 10, **options)  # type: ignore[arg-type]


def ids(parcels: Sequence[Parcel]) -> list[tuple[str, str, list[str]]]:
    return [(parcel.before, parcel.id, [one.id for one in parcel.items]) for parcel in parcels]


# One lane.


def test_entries_for_one_run_share_a_step() -> None:
    """As long as no other run's stands between them; each parcel names the entry before it."""
    lane = Lane("4-0")
    for n, run in enumerate(["a", "a", "b", "a"], 5):
        lane.put(item(n, run))
    assert ids(lane.next()) == [("4-0", "6-0", ["5-0", "6-0"]), ("6-0", "7-0", ["7-0"]), ("7-0", "8-0", ["8-0"])]
    assert lane.answered(lane.next(), ["taken", "duplicate", "taken"]) is None
    assert (len(lane), lane.mark) == (0, "8-0")
    assert [word for word, _ in lane.done] == ["taken", "taken", "duplicate", "taken"]


def test_what_the_partition_has_is_passed_over() -> None:
    """By its mark, or as the inlet noted; the step before still is the mark."""
    lane = Lane("4-0", "6-0")
    for n in range(3, 9):
        lane.put(item(n))
    assert ids(lane.next()) == [("4-0", "8-0", ["7-0", "8-0"])]


def test_a_call_has_its_limits() -> None:
    """256 events, 1 MiB; what is larger goes alone."""
    lane = Lane(NOTHING)
    for n in range(1, 300):
        lane.put(item(n, f"r{n % 2}"))
    assert sum(len(parcel.items) for parcel in lane.next()) == MAX_EVENTS
    lane = Lane(NOTHING)
    for n in range(1, 5):
        lane.put(Item(f"{n}-0", "r", (), MAX_BYTES // 2))
    assert sum(len(parcel.items) for parcel in lane.next()) == 2


def test_letters_keep_their_place() -> None:
    """What is in front of a letter goes first, then the letter alone."""
    lane = Lane(NOTHING)
    for n in (1, 2, 3):
        lane.put(item(n, letter=Letter("no") if n == 2 else None))
    for expected in ([("0-0", "1-0", ["1-0"])], [("1-0", "2-0", ["2-0"])], [("2-0", "3-0", ["3-0"])]):
        sent = lane.next()
        assert ids(sent) == expected
        lane.answered(sent, ["taken"])
    assert not lane


def test_a_hole_above_is_somebody_elses_work() -> None:
    """The lane goes on behind it, in the midst of what it had put together too."""
    lane = Lane(NOTHING)
    for n in range(1, 6):
        lane.put(item(n))
    lane.answered(lane.next(), ["hole 3-0"])
    assert ids(lane.next()) == [("3-0", "5-0", ["4-0", "5-0"])]


@pytest.mark.parametrize("mark", [NOTHING, "2-0", "4-0"])
def test_a_hole_below_means_to_go_back(mark: str) -> None:
    """The server lost what it had taken; or it contradicts itself."""
    lane = Lane("4-0")
    lane.put(item(5))
    with pytest.raises(GoBack):
        lane.answered(lane.next(), [f"hole {mark}"])


def test_full_changes_nothing() -> None:
    """It tells who is behind, and sends the same again."""
    lane = Lane(NOTHING)
    for n in (1, 2, 3):
        lane.put(item(n, f"r{n}"))
    assert lane.answered(lane.next(), ["taken", "full 1 slow"]) == "slow"
    assert ids(lane.next()) == [("1-0", "2-0", ["2-0"]), ("2-0", "3-0", ["3-0"])]


def test_a_refused_entry_becomes_a_letter() -> None:
    """Of several for one run the one that is refused is found; the others are taken."""
    lane = Lane(NOTHING)
    for n in (1, 2, 3):
        lane.put(item(n, raw=[b"n", b"%d" % n]))
    sent = lane.next()
    assert ids(sent) == [("0-0", "3-0", ["1-0", "2-0", "3-0"])]
    lane.answered(sent, ["refused closed 1 succeeded 5-5"])
    sent = lane.next()
    assert ids(sent) == [("0-0", "1-0", ["1-0"])]
    lane.answered(sent, ["taken"])
    lane.answered(lane.next(), ["refused closed 1 succeeded 5-5"])
    sent = lane.next()
    assert ids(sent) == [("1-0", "2-0", ["2-0"])]
    lane.answered(sent, ["refused closed 1 succeeded 5-5"])
    (parcel,) = lane.next()
    assert parcel.letter == Letter("closed 1 succeeded 5-5", [b"n", b"2"], "r", "refused")
    lane.answered([parcel], ["taken"])
    assert ids(lane.next()) == [("2-0", "3-0", ["3-0"])]


def test_a_script_that_stops_is_narrowed_down() -> None:
    """Until one entry is left, which becomes a letter."""
    lane = Lane(NOTHING)
    for n in (1, 2):
        lane.put(item(n, f"r{n}"))
    lane.stopped(lane.next(), "corrupt")
    sent = lane.next()
    assert ids(sent) == [("0-0", "1-0", ["1-0"])]
    lane.stopped(sent, "corrupt")
    assert lane.next()[0].letter == Letter("corrupt", (), "r1", "refused")


def test_another_partition_than_was_thought() -> None:
    """Everything is asked anew."""
    lane = Lane(NOTHING)
    lane.put(item(1))
    with pytest.raises(GoBack):
        lane.answered(lane.next(), ["topology 4 other"])


# Where to go on.


def test_place_is_where_everything_was_done() -> None:
    """What is done stays done, though partitions have less: nothing of it was theirs."""
    place = place_of("9-0", {0: "7-0", 1: "9-0"}, ["7-0", "9-0", NOTHING])
    assert place.after == "9-0"
    for lane in place.lanes:
        lane.put(item(9))
        assert not lane
        lane.put(item(10))
        assert lane
    assert place.lanes[0].next()[0].before == "7-0"


def test_a_partition_that_lost_its_tail_gets_it_again() -> None:
    """From its mark on; the others get nothing twice."""
    place = place_of("9-0", {0: "7-0", 1: "9-0"}, ["5-0", "12-0"])
    assert place.after == "5-0"
    for n in range(5, 14):
        for lane in place.lanes:
            lane.put(item(n))
    assert [[one.id for parcel in lane.next() for one in parcel.items] for lane in place.lanes] == [
        [f"{n}-0" for n in range(6, 14)],
        ["13-0"],
    ]


# All of it: owners, a reference of the scripts, and faults.


@dataclass
class Partition:
    """What relay.lua and set_aside.lua do to one partition, written from their headers."""

    mark: str = NOTHING
    applied: list[int] = field(default_factory=list)
    history: list[tuple[str, int]] = field(default_factory=list)  # mark and length after each step

    def take(self, parcels: Sequence[Parcel]) -> list[str]:
        answers: list[str] = []
        for parcel in parcels:
            if id_of(parcel.id) <= id_of(self.mark):
                answers.append("duplicate")
            elif parcel.before != self.mark:
                return [*answers, f"hole {self.mark}"]
            elif parcel.letter is None and any(id_of(one.id)[0] % 7 == 0 for one in parcel.items):
                return [*answers, "refused illegal 1 x y"]
            else:
                self.applied += [id_of(one.id)[0] for one in parcel.items]
                self.mark = parcel.id
                self.history.append((self.mark, len(self.applied)))
                answers.append("taken")
        return answers

    def lose(self, steps: int) -> None:
        """Its last steps, as after a crash with everysec."""
        del self.history[len(self.history) - steps :]
        self.mark, length = self.history[-1] if self.history else (NOTHING, 0)
        del self.applied[length:]


@dataclass
class Owner:
    """One process: what it knows, and what it reads next."""

    lanes: Sequence[Lane] = ()
    reached: int = 0
    done: int = 0
    reading: bool = False


class World:
    """Entries 1 to N, each for a run that a partition has."""

    def __init__(self, rng: random.Random, entries: int) -> None:
        self.rng, self.entries = rng, entries
        self.partitions = [Partition() for _ in range(PARTITIONS)]
        self.noted: tuple[str, dict[int, str]] = (NOTHING, {})
        self.owners = [Owner(), Owner()]
        self.late: list[tuple[int, list[Parcel]]] = []

    def begin(self, owner: Owner) -> None:
        place = place_of(*self.noted, [partition.mark for partition in self.partitions])
        owner.lanes, owner.reached = place.lanes, id_of(place.after)[0]
        owner.done, owner.reading = owner.reached, True

    def read(self, owner: Owner) -> None:
        if any(owner.lanes):
            return
        self.note(owner)
        last = min(self.entries, owner.reached + self.rng.randint(1, 6))
        for n in range(owner.reached + 1, last + 1):
            owner.lanes[n % RUNS % PARTITIONS].put(item(n, f"r{n % RUNS}"))
        owner.reached = last

    def note(self, owner: Owner) -> None:
        owner.done = owner.reached
        if owner.done >= id_of(self.noted[0])[0]:
            marks = {n: lane.mark for n, lane in enumerate(owner.lanes) if lane.mark != NOTHING}
            self.noted = f"{owner.done}-0", {**self.noted[1], **marks}

    def send(self, owner: Owner, *, fault: str = "") -> None:
        number = self.rng.choice([n for n, lane in enumerate(owner.lanes) if lane] or [-1])
        if number < 0:
            return
        lane = owner.lanes[number]
        parcels = lane.next()
        if fault == "never arrives":
            return
        if fault == "late copy":
            self.late.append((number, [Parcel(one.before, one.id, list(one.items)) for one in parcels]))
        answers = self.partitions[number].take(parcels)
        if fault == "answer lost":
            owner.reading = False  # the connection broke: it asks anew
            return
        try:
            lane.answered(parcels, answers)
        except GoBack:
            owner.reading = False

    def step(self) -> None:
        owner = self.rng.choice(self.owners)
        if not owner.reading:
            self.begin(owner)
            return
        kind = self.rng.random()
        if kind < 0.3:
            self.read(owner)
        elif kind < 0.8:
            self.send(owner)
        elif kind < 0.88:
            self.send(owner, fault=self.rng.choice(["late copy", "answer lost", "never arrives"]))
        elif kind < 0.94 and self.late:
            number, parcels = self.late.pop(self.rng.randrange(len(self.late)))
            self.partitions[number].take(parcels)
        elif kind < 0.97:
            owner.reading = False  # it ends, and another one is elected; or it was frozen, and begins anew
        elif kind < 0.98:
            self.rng.choice(self.partitions).lose(self.rng.randint(1, 3))

    def finish(self) -> None:
        """A last owner without faults, which checks what the partitions have as it does from time to time."""
        owner = Owner()
        for _ in range(20 * self.entries):
            known = [lane.mark for lane in owner.lanes]
            if not owner.reading or any(
                id_of(partition.mark) < id_of(mark) for partition, mark in zip(self.partitions, known, strict=False)
            ):
                self.begin(owner)
            self.read(owner)
            while owner.reading and any(owner.lanes):
                self.send(owner)
            if owner.reading and owner.reached == self.entries and not any(owner.lanes):
                return
        raise AssertionError("never done")


@pytest.mark.parametrize("seed", range(300))
def test_each_entry_is_applied_once_and_in_order(seed: int) -> None:
    """Two owners at once, late copies, lost answers, partitions that lose their tails independently of what was noted."""
    rng = random.Random(seed)
    world = World(rng, rng.randint(5, 60))
    for _ in range(rng.randint(50, 600)):
        world.step()
    world.finish()
    for number, partition in enumerate(world.partitions):
        expected = [n for n in range(1, world.entries + 1) if n % RUNS % PARTITIONS == number]
        assert partition.applied == expected, f"seed {seed}"


def test_the_reference_itself_can_fail() -> None:
    """Without the chain a lost step in the midst goes unnoticed, and the test above sees it."""

    class Rising(Partition):
        def take(self, parcels: Sequence[Parcel]) -> list[str]:
            return super().take([Parcel(self.mark, one.id, one.items) for one in parcels[:1]])

    failures = 0
    for seed in range(60):
        rng = random.Random(seed)
        world = World(rng, 40)
        world.partitions = [Rising() for _ in range(PARTITIONS)]
        for _ in range(400):
            world.step()
        try:
            world.finish()
        except AssertionError:
            failures += 1
            continue
        applied = [sorted(partition.applied) for partition in world.partitions]
        failures += any(len(set(one)) != len(one) for one in applied) or sum(map(len, applied)) != 40
    assert failures
