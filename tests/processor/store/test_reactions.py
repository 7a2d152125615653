"""Random sequences of what befalls a group's entries, through the scripts and through a model of them.

On a failure hypothesis prints the sequence and how to run it again. TAILRACE_TEST_EXAMPLES sets how many are tried on each server.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from processor.core.events import Draft, draft
from processor.store.emitting import Emitted
from processor.store.executing import Output
from processor.store.reacting import ReactUnit
from processor.store.scripts import Batch
from tests.processor.store.stage import Time
from tests.processor.store.stage_execution import RUNS
from tests.processor.store.stage_reaction import ReactionStage, Units
from tests.processor.store.state import TERMINAL
from tests.support.servers import TestServer

EXAMPLES = {"valkey": 40, "redis7": 25, "fake": 5}
STEPS = 40
HERE, THERE = RUNS[0], RUNS[1][:2]
PLAIN = b'"type":"seen","data":1}'


class Doing:
    """Every public method is a step."""

    def __init__(self, stage: ReactionStage, data: st.DataObject) -> None:
        self._stage, self._data = stage, data
        self._number = itertools.count(1)
        self._sent: list[tuple[str, Units]] = []
        self._numbers: dict[str, int] = {}

    def _draw(self, strategy: st.SearchStrategy[object]) -> object:
        return self._data.draw(strategy)

    def _one(self, choices: Sequence[str]) -> str:
        return self._data.draw(st.sampled_from(choices))

    def append(self) -> None:
        run = self._one(HERE)
        types = ["order.paid"] * 3 + ["run.finished", "run.failed"]
        events: list[Draft] = [draft(self._one(types), b"%d" % next(self._number), error=b'"no"')]
        number = self._numbers.get(run, 0)
        before = self._stage.model.runs.get(run)
        self._stage.append([Batch(run, "p:x", number, number + 1, events)])
        after = self._stage.model.runs.get(run)
        if after is not None and (before is None or len(after.events) > 0) and "p:x" in after.positions:
            self._numbers[run] = after.positions["p:x"].number

    def bind(self) -> None:
        self._stage.bind(self._one("gh"))

    def read(self) -> None:
        for group in self._stage.model.groups:
            self._stage.read_group(group, self._data.draw(st.integers(1, 5)))

    def _group(self) -> str | None:
        groups = [group for group in sorted(self._stage.model.groups) if self._stage.places(group)]
        return self._one(groups) if groups else None

    def _outputs(self) -> list[Output]:
        outputs = []
        for run in self._data.draw(st.lists(st.sampled_from([*HERE, *HERE, *THERE, "new-b"]), max_size=2, unique=True)):
            kinds = self._data.draw(
                st.lists(st.sampled_from(["seen", "seen", "run.queued", "run.finished"]), min_size=1, max_size=2)
            )
            outputs.append(Output(run, [draft(kind, b"2", task="build", start="s") for kind in kinds]))
        return outputs

    def _unit(self, group: str, places: list[int]) -> tuple[ReactUnit, list[int]]:
        verb = self._one(["done", "done", "done", "retry", "dead"])
        count = self._data.draw(st.integers(1, 3)) if verb == "done" else 1
        taken, places[:] = places[:count], places[count:]
        settled = [place for place in range(len(self._stage.model.log)) if place not in self._stage.places(group)]
        if (
            verb == "done" and settled and self._data.draw(st.integers(0, 3)) == 0
        ):  # as where some of a batch were taken over
            taken.append(self._data.draw(st.sampled_from(settled)))
        deliveries = [self._stage.delivery(place) for place in taken]
        if verb == "done":
            return ReactUnit(deliveries, "done", self._outputs()), taken
        if verb == "retry":
            return ReactUnit(deliveries, "retry", delay_ms=self._data.draw(st.sampled_from([0, 1000])), tries=1), taken
        return ReactUnit(deliveries, "dead", failure=b"{}"), taken

    def react(self) -> None:
        group = self._group()
        if group is None:
            return
        places = self._stage.places(group)
        units: list[tuple[ReactUnit, list[int]]] = []
        while places and len(units) < 3:
            units.append(self._unit(group, places))
        note(f"react {group}: {[(unit.verb, taken, unit.outputs) for unit, taken in units]}")
        self._sent.append((group, units))
        note(f"  {self._stage.react(group, units)}")

    def react_again(self) -> None:
        """A late copy, or a call whose answer was lost; perhaps of a unit that was divided since."""
        if self._sent:
            group, units = self._sent[self._data.draw(st.integers(0, len(self._sent) - 1))]
            self._stage.react(group, units)

    def emit(self) -> None:
        group = self._group()
        if group is None:
            return
        made = [
            (Emitted(self._stage.delivery(place).entry, run, PLAIN if run else b""), place)
            for place in self._stage.places(group)[:4]
            for run in [self._one([*HERE, "", "nobody"])]
        ]
        note(f"emit {group}: {made}")
        self._stage.emit(group, made)
        if self._data.draw(st.booleans()):
            self._stage.emit(group, made)

    def promote(self) -> None:
        self._stage.now += self._data.draw(st.sampled_from([0, 500, 1000]))
        self._stage.promote_retries()

    def trim(self) -> None:
        self._stage.trim()

    def clock_back(self) -> None:
        self._stage.now -= self._data.draw(st.sampled_from([1, 3_000]))

    def break_run(self) -> None:
        open_ = [name for name, run in self._stage.model.runs.items() if run.status not in TERMINAL and not run.broken]
        if open_:
            self._stage.break_run(self._one(sorted(open_)))


WEIGHTS: list[Callable[[Doing], None]] = [
    *[Doing.append] * 4, Doing.bind, *[Doing.read] * 3, *[Doing.react] * 4, Doing.react_again, *[Doing.emit] * 2,
    Doing.promote, Doing.trim, Doing.clock_back, Doing.break_run,
]  # fmt: skip


def _check(server: TestServer, examples: int) -> None:
    count = itertools.count(1)

    @settings(
        max_examples=examples,
        phases=(Phase.generate,),  # to shorten a failure takes minutes
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.sampled_from(WEIGHTS), min_size=STEPS, max_size=STEPS), st.data())
    def sequence(steps: list[Callable[[Doing], None]], data: st.DataObject) -> None:
        stage = ReactionStage(server, f"r{next(count)}", 0, Time())
        try:
            doing = Doing(stage, data)
            doing.bind()
            for step in steps:
                note(step.__name__)
                step(doing)
        finally:
            stage.close()

    sequence()


@pytest.mark.timeout(120)
def test_reactions_do_what_the_model_does(every_server: TestServer) -> None:
    """Answers and all keys are the model's after every step; a call sent again changes nothing."""
    _check(every_server, int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind])))
