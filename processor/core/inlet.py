"""What an inlet decides: which entries a partition still lacks, what goes into one call, and what the answers mean.

An inlet appends the entries of a foreign stream to runs. Each partition keeps the last entry that it took (its mark), and
takes another only if it is told that mark: so an entry is taken once and in order, whoever sends it and however often.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from processor.core.events import Fields

__all__ = [
    "MAX_BYTES",
    "MAX_EVENTS",
    "NOTHING",
    "GoBack",
    "Item",
    "Lane",
    "Letter",
    "Parcel",
    "Place",
    "id_of",
    "place_of",
]

NOTHING: Final = "0-0"  # the mark of a partition that took none
MAX_EVENTS: Final = 256  # in one call of the script
MAX_BYTES: Final = 1 << 20


def id_of(entry: str) -> tuple[int, int]:
    """Entry IDs are compared as two integers."""
    ms, _, n = entry.partition("-")
    return int(ms), int(n)


class GoBack(Exception):
    """The server has less than this process saw it take: ask anew, and begin there."""


@dataclass(frozen=True, slots=True)
class Letter:
    """Why an entry is set aside, and what it was. raw: names and values of its fields in turn."""

    reason: str
    raw: Sequence[bytes] = ()
    run: str = ""  # where it was to go, as far as that is known
    kind: Literal["error", "refused"] = "error"  # of the function and what it gave, or by the run
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """An entry on its way to one partition: events for a run, or a dead letter."""

    id: str
    run: str
    events: Sequence[Fields] = ()
    size: int = 0  # bytes of their payloads
    letter: Letter | None = None
    raw: Sequence[bytes] = ()  # names and values of its fields in turn, in case its run refuses it


@dataclass(slots=True)
class Parcel:
    """What is taken in one step: entries for one run that follow each other in their partition, or one letter."""

    before: str
    id: str  # of the last of them
    items: list[Item]

    @property
    def run(self) -> str:
        return self.items[0].run

    @property
    def letter(self) -> Letter | None:
        return self.items[0].letter


class Lane:
    """Entries of one inlet on their way to one partition, in order."""

    def __init__(self, mark: str, skipped: str = NOTHING) -> None:
        """mark: as the server told it. skipped: up to this entry everything is known to have been dealt with."""
        self.mark = mark
        self.done: list[tuple[str, Item]] = []  # what was answered, with its word, until the caller takes it
        self._skipped = max(id_of(mark), id_of(skipped))
        self._queue: deque[Item] = deque()
        self._alone = False  # of several for one run one was refused: one at a time shows which

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, item: Item) -> None:
        """In the order of the stream. What the partition has is passed over."""
        if id_of(item.id) > self._skipped:
            self._queue.append(item)

    def next(self) -> list[Parcel]:
        """What to send now: parcels of events, or a single one that is a letter. Nothing is taken out by that."""
        parcels: list[Parcel] = []
        events = size = 0
        for item in self._queue:
            if item.letter is not None:
                return parcels or [Parcel(self.mark, item.id, [item])]
            events, size = events + len(item.events), size + item.size
            if parcels and (events > MAX_EVENTS or size > MAX_BYTES or self._alone):
                break
            if parcels and parcels[-1].run == item.run:
                parcels[-1].items.append(item)
                parcels[-1].id = item.id
            else:
                parcels.append(Parcel(parcels[-1].id if parcels else self.mark, item.id, [item]))
        return parcels

    def answered(self, sent: Sequence[Parcel], answers: Sequence[str]) -> str | None:
        """The answers to what `next` gave, as relay.lua and set_aside.lua have them; they may be fewer.

        Returns who is behind if it has to wait, else None. Raises GoBack.
        """
        self._alone = False
        for parcel, answer in zip(sent, answers, strict=False):
            word, _, detail = answer.partition(" ")
            if word in ("taken", "duplicate", "dropped"):
                self._pass(parcel, word)
            elif word == "hole":
                self._meet(detail)
            elif word == "full":
                return detail.rpartition(" ")[2]
            elif word == "refused":
                self._refuse(parcel, detail)
            else:
                raise GoBack(answer)  # the partition is another one than was thought
        return None

    def stopped(self, sent: Sequence[Parcel], error: str) -> None:
        """The script stopped on what it found, as where somebody broke a run: which entry that is, the next calls show."""
        self._refuse(sent[0], error) if len(sent) == 1 else self._go_alone()

    def _pass(self, parcel: Parcel, word: str) -> None:
        for item in parcel.items:
            assert self._queue[0] is item, "answers are given in the order of what was sent"
            self.done.append((word, self._queue.popleft()))
        self.mark = parcel.id

    def _meet(self, mark: str) -> None:
        """Somebody else sent more than this lane knew of; or the server lost what it had taken."""
        if id_of(mark) <= id_of(self.mark):
            raise GoBack(f"its mark is {mark}, and was {self.mark}")
        while self._queue and id_of(self._queue[0].id) <= id_of(mark):
            self.done.append(("duplicate", self._queue.popleft()))
        self.mark = mark

    def _refuse(self, parcel: Parcel, why: str) -> None:
        if len(parcel.items) > 1:
            self._go_alone()
            return
        item = self._queue[0]
        assert item is parcel.items[0], "a refused entry is the first that was not taken"
        self._queue[0] = replace(item, letter=Letter(why, item.raw, item.run, "refused"))

    def _go_alone(self) -> None:
        self._alone = True


@dataclass(frozen=True, slots=True)
class Place:
    """Where an inlet goes on."""

    after: str  # the entry behind which it reads
    lanes: Sequence[Lane]  # by partition


def place_of(done: str, noted: Mapping[int, str], marks: Sequence[str]) -> Place:
    """done: up to this entry all was dealt with, when partitions had the marks noted. marks: what they have now.

    A partition that has less than was noted lost its tail, and gets again what it lost. For all others what is done stays
    done, though today's code might send it elsewhere.
    """
    lost = {number for number, mark in enumerate(marks) if id_of(mark) < id_of(noted.get(number, NOTHING))}
    after = min([done, *(marks[number] for number in lost)], key=id_of)
    return Place(after, [Lane(mark, NOTHING if number in lost else done) for number, mark in enumerate(marks)])
