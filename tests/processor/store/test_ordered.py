"""Random sequences of what befalls an ordered partition: members that take its lease, read and settle under it, die, and send calls
that are executed late or whose answers are lost; a server that loses its last writes. On every server, against a model.

Checked: what is applied is so once and in order, and all of it can still be. TAILRACE_TEST_EXAMPLES sets how many sequences are tried.
"""

from __future__ import annotations

import itertools
import os
from random import Random

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from processor.store.reacting import Delivery
from tests.processor.store.stage_ordered import Answered, OrderedStage, Settle
from tests.support.servers import TestServer

EXAMPLES = {"valkey": 200, "redis7": 120, "fake": 40}
STEPS = [
    *("append", "append", "append", "take", "take", "pull", "pull", "pull", "settle", "settle", "settle", "settle"),
    *("late", "give", "wait", "wait", "long", "kill", "note", "keep", "lose"),
]
MEMBERS = ("A", "B", "C")
VERBS = ("done", "done", "done", "done", "skip", "dead", "stop")


class Member:
    """As a worker goes on: what it believes of the partition."""

    def __init__(self, stage: OrderedStage, name: str) -> None:
        self.stage, self.name = stage, name
        self.forget()

    def forget(self) -> None:
        self.token, self.last, self.after = "", "", "0-0"
        self.queue: list[Delivery] = []
        self.call: Settle | None = None  # without an answer yet: the same again
        self.began = False

    def take(self, nonce: str) -> None:
        if not self.token and (taken := self.stage.take(self.name, nonce)):
            self.token = taken[0]

    def pull(self, limit: int, *, is_heard: bool) -> None:
        if not self.token or self.call is not None:
            return
        answer = self.stage.pull(self.name, self.token, self.after, limit)
        if not is_heard:
            return
        if answer.word == "fenced":
            self.forget()
        elif answer.word == "hole":
            self.begin_again()
        else:
            if not self.began:
                self.began, self.last = True, answer.settled
            self.queue += answer.deliveries
            self.after = answer.deliveries[-1].entry if answer.deliveries else answer.given

    def begin_again(self) -> None:
        token = self.token
        self.forget()
        self.token = token

    def settle(self, verbs: list[str], size: int, *, is_heard: bool) -> Settle | None:
        """What it sent."""
        if not self.token or not self.began:
            return None
        if self.call is None:
            units, at = [], 0
            for verb in verbs:
                count = 1 if verb in ("dead", "stop") else size
                if at < len(self.queue):
                    units.append((verb, tuple(self.queue[at : at + count])))
                    at += count
            if not units:
                return None
            self.call = Settle(self.token, self.last, tuple(units))
        sent = self.call
        answer = self.stage.settle(sent)
        if is_heard:
            self.hear(sent, answer)
        return sent

    def hear(self, sent: Settle, answer: Answered) -> None:
        self.call = None
        for (_, deliveries), word in zip(sent.units, answer.words, strict=True):
            if word == "fenced":
                self.forget()
                return
            if word == "hole":
                self.begin_again()
                return
            self.last = deliveries[-1].entry
            del self.queue[: len(deliveries)]


def in_order(applied: list[tuple[str, int]], dead: list[tuple[str, int]]) -> None:
    """Each event once; of a run in its order."""
    assert len({*applied, *dead}) == len(applied) + len(dead)
    for run in ("a", "b"):
        numbers = [n for name, n in applied if name == run]
        assert numbers == sorted(numbers)


def _check(server: TestServer, examples: int) -> None:
    count = itertools.count(1)

    @settings(
        max_examples=examples,
        phases=(Phase.generate, Phase.shrink),
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(STEPS), min_size=50, max_size=50), st.randoms(use_true_random=False))
    def sequence(steps: list[str], random: Random) -> None:
        stage = OrderedStage(server, f"o{next(count)}")
        try:
            _run(stage, steps, random)
        finally:
            stage.close()

    sequence()


def _run(stage: OrderedStage, steps: list[str], random: Random) -> None:
    members = [Member(stage, name) for name in MEMBERS]
    nonces = (f"n{number}" for number in itertools.count(1))
    late: list[Settle] = []
    kept = [stage.snapshot()]
    for step in steps:
        me = random.choice([one for one in members if one.token] or members)
        is_heard = random.random() < 0.75
        note(f"{me.name} {step} {'' if is_heard else '(answer lost)'}")
        if step == "append":
            stage.append(random.choice("ab"))
        elif step == "take":
            random.choice(members).take(next(nonces))
        elif step == "pull":
            me.pull(random.randint(1, 4), is_heard=is_heard)
        elif step == "settle":
            verbs = [random.choice(VERBS) for _ in range(random.randint(1, 3))]
            sent = me.settle(verbs, random.randint(1, 2), is_heard=is_heard)
            if sent is not None and random.random() < 0.3:
                late.append(sent)
        elif step == "late" and late:
            stage.settle(late.pop(random.randrange(len(late))))
        elif step == "give" and me.token and me.call is None:
            stage.give(me.name, me.token)
            me.forget()
        elif step == "note" and me.queue and not stage.note(me.name, me.token, me.queue[0], random.randint(1, 3)):
            me.forget()
        elif step in ("wait", "long"):
            stage.wait(random.randint(1, stage.model.term_ms // 3) * (1 if step == "wait" else 4))
        elif step == "kill":
            me.forget()
        elif step == "keep":
            kept.append(stage.snapshot())
        elif step == "lose":
            stage.lose(kept.pop() if len(kept) > 1 else kept[0])
        in_order(stage.model.applied, stage.model.dead)
    _finish(stage, next(nonces))


def _finish(stage: OrderedStage, nonce: str) -> None:
    """One that lives handles all that is left."""
    member = Member(stage, "Z")
    for _ in range(8):  # nobody claims until two terms have passed without a silence
        stage.wait(stage.model.term_ms // 3)
        member.take(nonce)
    assert member.token
    while True:
        member.pull(10, is_heard=True)
        if not member.queue:
            break
        while member.queue:
            member.settle(["done"] * 5, 1, is_heard=True)
    model = stage.model
    assert not model.pending
    assert model.given == len(model.events)
    in_order(model.applied, model.dead)


@pytest.mark.timeout(300)
def test_ordered_partition(every_server: TestServer) -> None:
    """Whatever befalls its members and its server, each event is applied once and in its run's order."""
    _check(every_server, int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind])))
