"""Two partitions whose executions random steps (steps_execution.py) drive, and the end of each sequence: all can finish."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from processor.core.cursor import FeedId
from processor.core.events import compose, draft
from processor.store.executing import Taken, Unit
from processor.store.scripts import Batch
from tests.processor.store.stage import Snapshot
from tests.processor.store.stage_execution import TASKS, ExecutionStage
from tests.processor.store.state import TERMINAL, Position

__all__ = ["LIMIT", "Hand", "World"]

LIMIT = {"build": 3, "check": 2}  # tries of a task


@dataclass(eq=False)
class Hand:
    """An entry in a worker's hands."""

    consumer: str
    taken: Taken
    nonce: str
    exec: str = ""  # "": not started
    attempt: int = 0
    tries: int = 0
    unit: Unit | None = None  # its settlement, whose answer was lost

    @property
    def seen(self) -> str:
        """The run's exec as the worker knows it."""
        return self.exec or self.taken.seen


@dataclass
class World:
    """What the steps of both partitions share."""

    stages: dict[int, ExecutionStage]
    hands: dict[int, list[Hand]] = field(default_factory=lambda: {0: [], 1: []})
    late: list[Callable[[], object]] = field(default_factory=list)  # calls that may be executed once more
    snapshots: list[dict[int, Snapshot]] = field(default_factory=list)
    serial: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
    names: dict[str, str] = field(default_factory=lambda: {"w1": "w1", "w2": "w2"})  # worker → its consumer
    effects: int = 0

    def finish(self) -> None:
        """Whatever happened: when the faults are over, every run that waits for a worker is executed, and ends."""
        for _ in range(4):
            for number, stage in self.stages.items():
                self._relay_all(1 - number, stage)
                stage.now = max(stage.now, *stage.model.delayed.values(), 0) + 1
                self._answer_all(stage)
                if stage.model.delayed:
                    known = stage.model.runs
                    stage.promote([(run, known[run].fields["task"]) for run in stage.model.delayed])
                self._execute_all(stage)
        for stage in self.stages.values():
            self._check(stage)
        self._check_effects()

    def _relay_all(self, source: int, stage: ExecutionStage) -> None:
        entries = [entry for entry in self.stages[source].model.outbox if entry.target == stage.partition]
        if entries:
            assert "hole" not in " ".join(stage.take_from(source, entries))
            assert stage.model.marks[source] == entries[-1].id

    def _answer_all(self, stage: ExecutionStage) -> None:
        model = stage.model
        for run in sorted(model.bodies.keys() - model.delayed.keys()):
            fields, last = model.runs[run].fields, model.runs[run].positions.get("p:end", Position()).number
            event = draft("run.resumed", b"{}", ask=fields["ask"], task=fields["task"])
            stage.append([Batch(run, "p:end", last, last + 1, [event])])

    def _execute_all(self, stage: ExecutionStage) -> None:
        """By one worker that takes everything over."""
        tasks = {}
        for task in TASKS:
            stage.read("end", task, 100)
            found = [stage.claim("end", task, entry.id) for entry in stage.model.work.get(task, [])]
            if mine := sorted((one for one in found if one), key=lambda one: FeedId.parse(one.entry)):
                tasks[task] = (LIMIT[task], [(one, f"n{next(self.serial)}") for one in mine])
        units = []
        entries = [pair for _, pairs in tasks.values() for pair in pairs]
        for (taken, nonce), begun in zip(entries, stage.start("end", tasks) if tasks else [], strict=True):
            assert begun.word != "gone"
            if begun.word == "go":
                payload = compose("run.finished", b"{}", attempt=begun.attempt)
                units.append(Unit(taken.run, taken.task, taken.entry, f"{begun.attempt}-{nonce}", "finish", payload))
        if units:
            assert {answer.word for answer in stage.settle(units)} == {"settled"}

    def _check(self, stage: ExecutionStage) -> None:
        model = stage.model
        assert not any(model.work.values())
        assert not model.delayed
        for name, run in model.runs.items():
            if not run.broken:
                assert name not in model.bodies
                assert run.status in TERMINAL or not _payload(run.events[0][1]).startswith(b'"type":"run.queued"'), name

    def _check_effects(self) -> None:
        """None was applied twice, of those that are still to be read."""
        found = Counter(
            event["data"]["effect"]
            for stage in self.stages.values()
            for run in stage.model.runs.values()
            for event in (json.loads(b"{" + _payload(payload)) for _, payload in run.events)
            if "effect" in event["data"]
        )
        assert all(count == 1 for count in found.values()), found


def _payload(payload: object) -> bytes:
    assert isinstance(payload, bytes)
    return payload
