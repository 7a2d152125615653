"""Random sequences of deaths, requeues, purges and ends on the servers and on a small model of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processor.core.partition import root_of
from processor.store.dead import DeadLetter, Place, purge, requeue
from tests.processor.store.letters import bury
from tests.processor.store.stage import LIMITS
from tests.processor.store.turns import Turns
from tests.support.servers import TestServer

ROOTS, TASKS = ("t", "u"), ("charge", "crawl")  # few, so that they meet
PICKS = st.lists(st.integers(0, 9), min_size=1, max_size=8, unique=True)
BURY = st.tuples(
    st.just("bury"),
    st.sampled_from(ROOTS),
    st.sampled_from((*TASKS[:1] * 3, TASKS[1])),
    st.booleans(),
    st.integers(0, 9),
    st.integers(1, 3),
)
STEPS = st.one_of(
    *[BURY] * 3,
    *[st.tuples(st.just("requeue"), PICKS)] * 3,
    st.tuples(st.just("purge"), PICKS),
    st.tuples(st.just("end"), st.integers(0, 9)),
    st.tuples(st.just("work"), st.sampled_from(TASKS)),
)


@dataclass
class Model:
    """What should be there. Work is counted by partition and task."""

    letters: dict[Place, DeadLetter] = field(default_factory=dict)
    in_thread: set[str] = field(default_factory=set)  # runs of the thread that is their root
    active: dict[str, str] = field(default_factory=dict)  # thread → its run in progress
    work: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    queued: list[str] = field(default_factory=list)

    def requeue(self, letter: DeadLetter, new: str) -> tuple[str, str]:
        """What becomes of a letter, and why; new: the run that it becomes if it can."""
        root, work = root_of(letter.run), self.work.setdefault((letter.place.partition, letter.task), [])
        thread = root if letter.run in self.in_thread else None
        if not letter.payload:
            return "lost", ""
        if letter.place not in self.letters:
            return "gone", ""
        if thread is not None and root in self.active:
            return "busy", self.active[root]
        if len(work) >= LIMITS.work:
            return "full", letter.task
        del self.letters[letter.place]
        work.append(new)
        self.queued.append(new)
        if thread is not None:
            self.active[root] = new
            self.in_thread.add(new)
        return "requeued", ""

    def end(self, run: str) -> None:
        self.queued.remove(run)
        if self.active.get(root_of(run)) == run:
            del self.active[root_of(run)]


class World:
    """A server and its model side by side."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.model = turns, Model()
        self.client: Any = turns.client
        self.all: list[DeadLetter] = []  # also those that are gone
        self.client.delete(*self.client.keys(f"tr:{{{turns.keys.namespace}*"), "-")

    def picked(self, picks: Sequence[int]) -> list[DeadLetter]:
        return list({(one := self.all[-1 - pick]).place: one for pick in picks if pick < len(self.all)}.values())

    def bury(self, root: str, task: str, in_thread: bool, kind: int, count: int) -> None:
        for _ in range(count):
            run = f"{root}~{len(self.all)}"
            letter = bury(self.client, self.turns.keys, run, task=task, thread=in_thread, lost=kind == 9)
            self.all.append(letter)
            self.model.letters[letter.place] = letter
            self.model.in_thread |= {run} if in_thread else set()

    def requeue(self, picks: Sequence[int]) -> None:
        found = self.picked(picks)
        answers = self.turns.run(requeue(self.turns, found))
        assert [answer.letter for answer in answers] == found
        # one call a partition, so that is the order of it
        for answer in sorted(answers, key=lambda answer: answer.letter.place.partition):
            assert (answer.word, answer.detail) == self.model.requeue(answer.letter, answer.run)
            assert bool(answer.run) == (answer.word == "requeued")

    def purge(self, picks: Sequence[int]) -> None:
        places = [letter.place for letter in self.picked(picks)]
        there = [place for place in places if self.model.letters.pop(place, None)]
        assert self.turns.run(purge(self.turns, places)) == len(there)

    def end(self, pick: int) -> None:
        if pick < len(self.model.queued):
            run = self.model.queued[pick]
            keys = self.turns.keys.of(run)
            assert self.turns.run(self.turns.scripts.cancel(keys, run, b'"enough"')) == ("asked", "cancelled")
            self.model.end(run)

    def work(self, task: str) -> None:
        """Workers take what waits."""
        for number, keys in enumerate(self.turns.keys.partitions):
            self.client.xtrim(keys.work(task), maxlen=0, approximate=False)
            self.model.work[number, task] = []

    def compare(self) -> None:
        for number, keys in enumerate(self.turns.keys.partitions):
            for task in TASKS:
                letters = {id.decode() for id, _ in self.client.xrange(keys.dead_task(task))}
                assert letters == {place.entry for place in self.model.letters if place[:3] == (number, "task", task)}
                waiting = [entry[b"r"].decode() for _, entry in self.client.xrange(keys.work(task))]
                assert waiting == self.model.work.get((number, task), [])
        for root in ROOTS:
            active = self.client.hget(self.turns.keys.of(root).thread(root), "active")
            assert (active.decode() if active else None) == self.model.active.get(root)
        for run in self.model.queued:
            assert self.client.hget(self.turns.keys.of(run).run(run), "status") == b"queued"


@pytest.fixture
def turns(every_server: TestServer, namespace: str) -> Iterator[Turns]:
    turns = Turns(every_server, namespace)
    yield turns
    turns.close()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, min_size=12, max_size=40))
def test_same_as_the_model(turns: Turns, steps: list[tuple[Any, ...]]) -> None:
    """Letters, runs, threads and what waits are as the model has them after each step, and every answer says why."""
    world = World(turns)
    for verb, *args in steps:
        getattr(world, verb)(*args)
        world.compare()
