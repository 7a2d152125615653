"""What workers do to a partition, and what befalls them, as steps for random sequences (steps.py has everybody else's)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from hypothesis import note
from hypothesis import strategies as st

from processor.core.cursor import FeedId
from processor.core.events import Fields, compose, draft
from processor.store.executing import Begun, Output, Settled, Taken, Unit, Verb
from processor.store.scripts import Held
from tests.processor.store.model_execution import OutboxEntry
from tests.processor.store.stage_execution import RUNS, TASKS, ExecutionStage
from tests.processor.store.steps import Steps
from tests.processor.store.world_execution import LIMIT, Hand, World

__all__ = ["EXECUTION_STEPS", "ExecutionSteps"]

VERBS: Sequence[Verb] = (
    *("finish", "finish", "finish", "fail", "stop", "retry", "retry", "later", "park", "park", "park"),
    *("release", "release"),
)


class ExecutionSteps(Steps):
    """Every public method is a step in one of the partitions."""

    _stage: ExecutionStage

    def __init__(self, world: World, partition: int, data: st.DataObject) -> None:
        self._world = world
        self._partition = partition
        super().__init__(world.stages[partition], data, RUNS[partition])

    # -- draws

    @property
    def _hands(self) -> list[Hand]:
        return self._world.hands[self._partition]

    def _consumer(self) -> str:
        return self._one(list(self._world.names.values()))

    def _rarely(self) -> bool:
        return self._one((False, False, False, False, True))

    def _some(self, hands: Sequence[Hand], most: int) -> list[Hand]:
        """In the order of their entries."""
        count = self._data.draw(st.integers(1, most))
        found = list(hands)
        while len(found) > count:
            found.remove(self._one(found))
        return found

    def _again(self, call: Callable[[], object]) -> None:
        """The call is made; maybe once more at once, which changes nothing; maybe once more at any later time."""
        call()
        if self._rarely():
            note("  and again")
            self._stage.unchanged(call)
        self._world.late.append(call)

    # -- entries come into hands

    def queue_a_new_run(self) -> None:
        """With a name that is free, or is freed."""
        model = self._stage.model
        free = [name for name in self._runs if name not in model.runs]
        if not free and (ended := self._forgettable()):
            free = [self._one(ended)]
            self._stage.expire_feed(free[0])
            self._stage.expire_tombstone(free[0])
        if free:
            run = self._one(free)
            event = draft("run.queued", b'{"n":%d}' % next(self._world.serial), task=self._one(TASKS), start="s",
                          thread="T" if "~" in run and self._flip() else "", delay_ms=self._one((0, 0, 0, 0, 40_000)))  # fmt: skip
            self._send(self._batch(run, "p:one", [event], faults=False))

    def read(self) -> None:
        consumer, task = self._consumer(), self._one(TASKS)
        for taken in self._stage.read(consumer, task, self._data.draw(st.integers(1, 3))):
            self._take(consumer, taken)

    def _take(self, consumer: str, taken: Taken) -> None:
        note(f"  {consumer} has {taken.entry} of {taken.run}, saw {taken.seen!r}")
        self._hands.append(Hand(consumer, taken, f"n{next(self._world.serial)}"))

    def answer_a_parked_run(self) -> None:
        model = self._stage.model
        if parked := sorted(model.bodies.keys() - model.delayed.keys()):
            run = self._one(parked)
            fields = model.runs[run].fields
            task, ask = self._one((fields["task"], fields["task"], "check")), self._one((fields["ask"], ""))
            event = draft("run.resumed", b"{}", ask=ask, value=b'["yes"]', task=task)
            self._send(self._batch(run, "p:one", [event, *self._plain()], faults=False))

    def take_over(self) -> None:
        """A worker takes an entry of another one, which may well be alive; or one of its own that it never heard of."""
        consumer = self._consumer()
        mine = {(hand.taken.task, hand.taken.entry) for hand in self._hands if hand.consumer == consumer}
        found = [
            (task, entry.id)
            for task, entries in self._stage.model.work.items()
            for entry in entries
            if entry.consumer and (task, entry.id) not in mine
        ]
        if found:
            taken = self._stage.claim(consumer, *self._one(found))
            assert taken is not None
            self._take(consumer, taken)

    def die(self) -> None:
        """A worker is killed; another one takes its place, with its name or a new one."""
        worker = self._one(list(self._world.names))
        consumer = self._world.names[worker]
        for hands in self._world.hands.values():
            hands[:] = [hand for hand in hands if hand.consumer != consumer]
        if self._flip():
            self._world.names[worker] = f"{worker}.{next(self._world.serial)}"

    # -- executions

    def start(self) -> None:
        """A batch of one worker; who has nothing reads first."""
        consumer = self._consumer()
        waiting = self._unstarted(consumer)
        if not waiting:
            if not any(not entry.consumer for entries in self._stage.model.work.values() for entry in entries):
                self.queue_a_new_run()
            for task in TASKS:
                for taken in self._stage.read(consumer, task, 2):
                    self._take(consumer, taken)
            waiting = self._unstarted(consumer)
        if not waiting:
            return
        batch = self._some(waiting, 4)
        tasks = {}
        for task in sorted({hand.taken.task for hand in batch}):
            hands = sorted(
                (hand for hand in batch if hand.taken.task == task), key=lambda hand: FeedId.parse(hand.taken.entry)
            )
            tasks[task] = (LIMIT[task], [(hand.taken, hand.nonce) for hand in hands])
        ordered = [nonce for _, entries in tasks.values() for _, nonce in entries]
        held = self._one((0, 100))
        answers: list[Begun] = []
        self._again(lambda: answers.extend(self._stage.start(consumer, tasks, held)))
        for nonce, answer in zip(ordered, answers, strict=False):
            hand = next(hand for hand in batch if hand.nonce == nonce)
            note(f"  {hand.taken.run} {hand.taken.entry} {nonce}: {answer}")
            if self._rarely():  # the answer is lost: it is sent again, sooner or later
                continue
            if answer.word == "go":
                hand.exec, hand.attempt, hand.tries = f"{answer.attempt}-{nonce}", answer.attempt, answer.tries
            else:
                self._hands.remove(hand)

    def _unstarted(self, consumer: str) -> list[Hand]:
        return [hand for hand in self._hands if hand.consumer == consumer and not hand.exec]

    def _started(self) -> list[Hand]:
        """Mostly those that hold their runs still. There is one, if possible."""
        if not any(hand.exec for hand in self._hands):
            self.start()
        current = [hand for hand in self._hands if hand.exec and self._exec_of(hand.taken.run) == hand.exec]
        return current if current and not self._rarely() else [hand for hand in self._hands if hand.exec]

    def live_of_a_worker(self) -> None:
        if started := self._started():
            hand = self._one(started)
            run, writer = hand.taken.run, f"x:{hand.exec}"
            self._send(self._batch(run, writer, self._plain(hand.attempt)))

    def ask(self) -> None:
        if started := self._started():
            hand = self._one(started)
            event = draft("run.waiting", b"{}", attempt=hand.attempt, ask=self._one(("ask1", "ask2")))
            self._send(self._batch(hand.taken.run, f"x:{hand.exec}", [event], faults=False))

    def ask_and_park(self) -> None:
        """What most questions come to."""
        if started := self._started():
            hand = self._one(started)
            event = draft("run.waiting", b"{}", attempt=hand.attempt, ask="ask1")
            self._send(self._batch(hand.taken.run, f"x:{hand.exec}", [event], faults=False))
            self._settle([(hand, self._unit(hand, "park"))])

    def settle(self) -> None:
        """One or more units of whichever workers, in one call."""
        if started := self._started():
            hands = self._some(started, 3)
            self._settle([(hand, hand.unit or self._unit(hand, self._one(VERBS))) for hand in hands])

    def give_back(self) -> None:
        """An entry that was not started."""
        self.read()
        if unstarted := [hand for hand in self._hands if not hand.exec]:
            hand = self._one(unstarted)
            verb: Verb = self._one(("back", "defer"))
            taken = hand.taken
            delay = 40_000 if verb == "defer" else 0
            unit = Unit(taken.run, taken.task, taken.entry, taken.seen, verb, b"", delay, taken.queued, taken.payload)
            self._settle([(hand, unit)])

    def settle_without_a_worker(self) -> None:
        owned = [name for name in self._executed() if "owner" in self._stage.model.runs[name].fields]
        if owned:
            run = self._run(of=owned)
            attempt = self._stage.model.runs[run].attempt
            verb: Verb = self._one(("finish", "fail", "stop"))
            unit = Unit(run, "", "", self._exec_of(run), verb, *self._last_words(verb, attempt, "", b""))
            self._again(functools.partial(self._stage.settle, [unit]))

    def _settle(self, units: Sequence[tuple[Hand, Unit]]) -> None:
        for _, unit in units:
            note(f"  {unit.verb} {unit.run} {unit.exec} a={unit.a!r} to {[out.run for out in unit.outputs]}")
        answers: list[Settled] = []
        self._again(lambda: answers.extend(self._stage.settle([unit for _, unit in units])))
        for (hand, unit), answer in zip(units, answers, strict=False):
            note(f"  {unit.run}: {answer}")
            if self._rarely():  # the answer is lost
                hand.unit = unit
            elif answer.word not in ("answered", "refused"):
                self._hands.remove(hand)
            else:
                hand.unit = None

    def _unit(self, hand: Hand, verb: Verb) -> Unit:
        taken, run = hand.taken, self._stage.model.runs.get(hand.taken.run)
        if verb == "retry" and hand.tries >= LIMIT[taken.task]:
            verb = "fail"
        payload, a, b, c = self._last_words(verb, hand.attempt, taken.queued, taken.payload)
        if verb == "park":
            a = self._one((run.fields.get("ask", "") if run else "", "ask1"))
        outputs = self._outputs(taken.run) if verb == "finish" else ()
        return Unit(taken.run, taken.task, taken.entry, hand.exec, verb, payload, a, b, c, outputs)

    def _last_words(self, verb: Verb, attempt: int, queued: str, body: bytes) -> tuple[bytes, str | int, str, bytes]:
        """Payload, a, b and c, as settle.lua's header has them for each verb."""
        serial = next(self._world.serial)
        if verb == "finish":
            return compose("run.finished", b'{"result":%d}' % serial, attempt=attempt), "", "", b""
        if verb == "fail":
            return (
                compose("run.failed", b'{"error":"bad %d"}' % serial, attempt=attempt),
                f'"bad {serial}"',
                queued,
                body,
            )
        retrying = compose("run.retrying", b'{"reason":"error","n":%d}' % serial, attempt=attempt + 1)
        if verb in ("retry", "later"):
            return retrying, self._one((0, 40_000)), queued, body
        return (retrying if verb == "release" else b""), "", queued, body

    def _outputs(self, own: str) -> list[Output]:
        """Mostly harmless: effects that count, starts, answers; now and then what another run does not take."""
        runs = sorted(run for of in RUNS.values() for run in of if run != own)
        chosen = self._data.draw(st.lists(st.sampled_from(runs), max_size=2, unique=True))
        return [Output(run, [self._effect(run) for _ in range(self._one((1, 1, 2)))]) for run in chosen]

    def _effect(self, run: str) -> Fields:
        self._world.effects += 1
        data = b'{"effect":%d}' % self._world.effects
        partition = next(partition for partition, runs in RUNS.items() if run in runs)
        known = self._world.stages[partition].model.runs.get(run)
        kinds = ["order.paid", "order.paid", "log", "run.queued"]
        if known is not None and known.status == "waiting":
            kinds += ["run.resumed"] * 4
        kind = self._one([*kinds, "run.waiting", "run.finished"]) if self._rarely() else self._one(kinds)
        if kind == "run.queued":
            thread = "T" if "~" in run and self._flip() else ""
            return draft(kind, data, task=self._one(TASKS), start=self._one("sst"), thread=thread,
                         delay_ms=self._one((0, 0, 40_000)))  # fmt: skip
        fields = known.fields if known else {}
        ask = f"ask of {self._world.effects}" if kind == "run.waiting" else fields.get("ask", "")
        return draft(kind, data, ask=ask, value=b'"settled"', task=fields.get("task", ""))

    # -- what time and other processes do

    def renew_entries(self) -> None:
        """What a worker knows of its entries, and perhaps of runs that it owns."""
        consumer = self._consumer()
        held: dict[str, list[Held]] = {}
        for hand in self._hands:
            if hand.consumer == consumer:
                held.setdefault(hand.taken.task, []).append(Held(hand.taken.run, hand.taken.entry, hand.seen))
        owned = [(run, "me") for run in self._stage.model.owners][: self._one((0, 0, 2))]
        call = functools.partial(self._stage.renew_held, consumer, held, owned)
        call()
        self._world.late.append(call)

    def promote(self) -> None:
        """All that is there: what is not due is left alone."""
        if self._flip():
            self._stage.now += 41_000
        known = self._stage.model.runs
        waiting = [(run, known[run].fields["task"]) for run in self._stage.model.delayed]
        if waiting:
            self._again(functools.partial(self._stage.promote, waiting))

    def relay(self) -> None:
        """Some of what the other partition has for this one, from anywhere."""
        entries = self._outbox()
        if entries:
            first = self._one((0, 0, *range(len(entries))))
            some = entries[first : first + self._data.draw(st.integers(1, 4))]
            note(f"  from {[entry.id for entry in some]}")
            self._again(functools.partial(self._stage.take_from, 1 - self._partition, some))

    def _outbox(self) -> list[OutboxEntry]:
        return [one for one in self._world.stages[1 - self._partition].model.outbox if one.target == self._partition]

    def late_copy_of_a_workers_call(self) -> None:
        """Executed once more at any later time."""
        if self._world.late:
            self._world.late[-1 - self._data.draw(st.integers(0, 20)) % len(self._world.late)]()

    # -- what befalls the servers: both partitions are on one

    def remember(self) -> None:
        self._world.snapshots.append({number: stage.snapshot() for number, stage in self._world.stages.items()})

    def lose_the_tail(self) -> None:
        if self._world.snapshots:
            for number, snapshot in self._world.snapshots.pop().items():
                self._world.stages[number].lose(snapshot)

    def _forgettable(self) -> list[str]:
        """Runs whose names may come back: no entry of theirs is left."""
        model = self._stage.model
        placed = {entry.run for entries in model.work.values() for entry in entries} | model.bodies.keys()
        return [name for name in super()._forgettable() if name not in placed]


_WEIGHTS: dict[Callable[[ExecutionSteps], None], int] = {
    ExecutionSteps.nothing: 1,  # first, for the shortening
    ExecutionSteps.queue_a_new_run: 5,
    ExecutionSteps.read: 4,
    ExecutionSteps.take_over: 8,
    ExecutionSteps.die: 2,
    ExecutionSteps.start: 14,
    ExecutionSteps.live_of_a_worker: 4,
    ExecutionSteps.ask: 3,
    ExecutionSteps.ask_and_park: 6,
    ExecutionSteps.answer: 3,
    ExecutionSteps.answer_a_parked_run: 4,
    ExecutionSteps.settle: 16,
    ExecutionSteps.give_back: 4,
    ExecutionSteps.settle_without_a_worker: 1,
    ExecutionSteps.renew_entries: 4,
    ExecutionSteps.promote: 4,
    ExecutionSteps.relay: 6,
    ExecutionSteps.late_copy_of_a_workers_call: 6,
    ExecutionSteps.begin: 1,
    ExecutionSteps.queue: 1,
    ExecutionSteps.outside: 1,
    ExecutionSteps.outside_lifecycle: 4,
    ExecutionSteps.live_lifecycle: 2,
    ExecutionSteps.late_copy: 2,
    ExecutionSteps.cancel: 3,
    ExecutionSteps.expire: 1,
    ExecutionSteps.outlive_the_grace: 1,
    ExecutionSteps.time_passes: 1,
    ExecutionSteps.bind: 1,
    ExecutionSteps.work_in_group: 1,
    ExecutionSteps.remember: 2,
    ExecutionSteps.lose_the_tail: 1,
    ExecutionSteps.retention_passes: 1,
    ExecutionSteps.somebody_deletes_a_feed: 1,
}
EXECUTION_STEPS = [step for step, weight in _WEIGHTS.items() for _ in range(weight)]
