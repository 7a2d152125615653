"""Random sequences of everything that can happen to a partition, through the scripts and through a small model of them.

On a failure hypothesis prints the shortest sequence that it found and how to run it again. TAILRACE_TEST_EXAMPLES sets how many
sequences are tried on each server.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from processor.core.events import Draft, draft
from processor.store.scripts import Batch
from tests.processor.store.stage import Stage
from tests.processor.store.state import TERMINAL, Position
from tests.support.servers import TestServer

RUNS = ("a", "T~1", "T~2")
PRODUCERS = ("p:one", "p:two")
PLAIN = ("message.delta", "log", "step.started", "usage", "order.paid", "run.note")
LIFECYCLE = ("started", "waiting", "resumed", "finished", "failed", "cancelled", "retrying", "cancel_requested")
ASKS = ("", "ask1", "ask2")
_count = itertools.count(1)

types = st.lists(st.sampled_from(PLAIN), min_size=1, max_size=6)
runs = st.sampled_from(RUNS)
owners = st.sampled_from(("me", "me", "me", "you"))
producers = st.sampled_from(PRODUCERS)
offsets = st.sampled_from((0, 0, 0, 0, 0, 0, 1, 2, -1, 5))


def _data(number: int) -> bytes:
    return b'{"text":"%d \\u00e9 []","empty":[]}' % number


class Partition(RuleBasedStateMachine):
    """What may happen to one partition, in any order."""

    server: TestServer

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage(self.server, f"m{next(_count)}", RUNS)
        self.calls: list[list[Batch]] = []  # sent before, to be executed again
        self.bodies: dict[tuple[str, str], list[Batch]] = {}
        self.snapshots: list[Any] = []
        self.due: list[str] = []
        self.serial = itertools.count(1)

    def teardown(self) -> None:
        self.stage.close()

    # -- helpers

    def status(self, run: str) -> str | None:
        known = self.stage.model.runs.get(run)
        return known.status if known else None

    def stored(self, run: str, writer: str) -> int:
        known = self.stage.model.runs.get(run)
        if known is None:
            return 0
        if writer.startswith("x:"):
            return known.exec_position.number if known.fields.get("exec") == writer[2:] else 0
        return known.positions.get(writer, Position()).number

    def exec_of(self, run: str) -> str:
        known = self.stage.model.runs.get(run)
        return known.fields.get("exec", "") if known else ""

    def batch(self, run: str, writer: str, drafts: list[Draft], skip: int = 0, off: int = 0) -> Batch:
        stored = self.stored(run, writer)
        number = stored + 1 + abs(skip)
        return Batch(run, writer, min(max(stored + off, 0), number - 1), number, drafts)

    def send(self, *batches: Batch) -> None:
        self.stage.append(batches)
        self.calls.append(list(batches))

    def plain(self, names: list[str], attempt: int = 0) -> list[Draft]:
        return [draft(name, _data(next(self.serial)), attempt=attempt) for name in names]

    # -- what producers and executions do

    @rule(run=runs, producer=producers, names=types, skip=offsets, off=offsets)
    def outside(self, run: str, producer: str, names: list[str], skip: int, off: int) -> None:
        self.send(self.batch(run, producer, self.plain(names), skip, off))

    @rule(
        run=runs,
        producer=producers,
        type=st.sampled_from(LIFECYCLE).map("run.{}".format),
        names=types,
        behind=st.booleans(),
        ask=st.sampled_from(ASKS),
    )
    def outside_lifecycle(self, run: str, producer: str, type: str, names: list[str], behind: bool, ask: str) -> None:
        if self.status(run) == "waiting" and type == "run.waiting":
            type = "run.resumed"
        event = draft(type, _data(next(self.serial)), ask=ask, value=b'"yes"', error=b'"bad"')
        drafts = [event, *self.plain(names)] if behind else [*self.plain(names[:1]), event]
        self.send(self.batch(run, producer, drafts))

    @rule(data=st.data(), names=types, second=st.booleans())
    def two_runs_in_one_call(self, data: st.DataObject, names: list[str], second: bool) -> None:
        first, other = data.draw(st.permutations(RUNS))[:2]
        writer = PRODUCERS[second]
        self.send(self.batch(first, writer, self.plain(names)), self.batch(other, writer, self.plain(names[::-1])))

    @rule(run=runs, names=types, other=types)
    def two_producers_in_one_call(self, run: str, names: list[str], other: list[str]) -> None:
        self.send(self.batch(run, PRODUCERS[0], self.plain(names)), self.batch(run, PRODUCERS[1], self.plain(other)))

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(0, 12))
    def late_copy(self, back: int) -> None:
        """A call is executed once more, at any later time."""
        self.stage.append(self.calls[-1 - back % len(self.calls)])

    @precondition(lambda self: self.calls)
    @rule(back=st.integers(0, 4), names=types)
    def resend_and_go_on(self, back: int, names: list[str]) -> None:
        """A body that begins with what was sent before."""
        batch = self.calls[-1 - back % len(self.calls)][-1]
        if batch.events and not any(event.type.startswith("run.") for event in batch.events):
            self.send(batch._replace(events=[*batch.events, *self.plain(names)]))

    @rule(run=runs, writer=st.sampled_from((*PRODUCERS, "live", "x:1-gone")))
    def ask_what_is_stored(self, run: str, writer: str) -> None:
        self.stage.append([Batch(run, f"x:{self.exec_of(run)}" if writer == "live" else writer, 0, 0, ())])

    @rule(run=runs, producer=producers, data=st.data(), behind=types, off=offsets)
    def queue(self, run: str, producer: str, data: st.DataObject, behind: list[str], off: int) -> None:
        """A run is started for a worker, again, or otherwise."""
        task, start = data.draw(st.sampled_from(("build", "check"))), data.draw(st.sampled_from("sst"))
        delay, more = data.draw(st.sampled_from((0, 0, 40_000))), data.draw(st.booleans())
        thread = "T" if "~" in run and data.draw(st.booleans()) else ""
        event = draft("run.queued", _data(next(self.serial)), task=task, start=start, delay_ms=delay, thread=thread,
                      labels={"user": "ada"})  # fmt: skip
        self.send(self.batch(run, producer, [event, *self.plain(behind if more else [])], 0, off))

    @rule(run=runs, owner=owners, thread=st.booleans(), off=offsets)
    def begin(self, run: str, owner: str, thread: bool, off: int) -> None:
        """A process starts to execute a run without a worker, or its next attempt."""
        serial = next(self.serial)
        event = draft("run.started", _data(serial), nonce=f"n{serial}", owner=owner, start="s", task="build",
                      thread="T" if thread and "~" in run else "", labels={"user": "bob"})  # fmt: skip
        self.send(self.batch(run, f"p:{owner}", [event], off=off))

    @precondition(lambda self: any(self.exec_of(run) for run in RUNS))
    @rule(data=st.data(), names=types, skip=offsets, off=offsets)
    def live(self, data: st.DataObject, names: list[str], skip: int, off: int) -> None:
        run = data.draw(st.sampled_from([run for run in RUNS if self.exec_of(run)]))
        attempt = self.stage.model.runs[run].attempt
        self.send(self.batch(run, f"x:{self.exec_of(run)}", self.plain(names, attempt), skip, off))

    @precondition(lambda self: any(self.exec_of(run) for run in RUNS))
    @rule(data=st.data(), type=st.sampled_from(LIFECYCLE).map("run.{}".format), ask=st.sampled_from(ASKS), names=types)
    def live_lifecycle(self, data: st.DataObject, type: str, ask: str, names: list[str]) -> None:
        run = data.draw(st.sampled_from([run for run in RUNS if self.exec_of(run)]))
        event = draft(type, _data(next(self.serial)), ask=ask, value=b"[]", error=b'"worse"')
        self.send(self.batch(run, f"x:{self.exec_of(run)}", [event, *self.plain(names)]))

    @rule(run=runs, names=types)
    def stale(self, run: str, names: list[str]) -> None:
        self.send(Batch(run, "x:1-gone", 0, 1, self.plain(names)))

    @rule(run=runs)
    def another_layout(self, run: str) -> None:
        self.stage.append([self.batch(run, PRODUCERS[0], self.plain(["usage"]))], layout="2 other")

    # -- owners, cancels, time

    @rule(owned=st.lists(st.tuples(runs, owners), min_size=1, max_size=4))
    def renew(self, owned: list[tuple[str, str]]) -> None:
        self.stage.renew(owned)

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        self.stage.cancel(run)

    @rule(all_runs=st.booleans())
    def expire(self, all_runs: bool) -> None:
        """A pass; it looks at what the last one named, or at more."""
        self.due = self.stage.expire(RUNS if all_runs else self.due)

    @rule(ms=st.sampled_from((0, 1, 5_000, 9_000, 9_000, 25_000, 61_000, -3_000, -3_600_000, 11_000_000)))
    def time_passes(self, ms: int) -> None:
        self.stage.now += ms

    @precondition(lambda self: any(self.stage.model.owners.values()))
    @rule()
    def outlive_an_owner(self) -> None:
        """Passes without a silence until the first owner is lost."""
        for _ in range(8):
            self.stage.now += 5_000
            self.due = self.stage.expire(self.due)

    @precondition(lambda self: self.stage.model.owners)
    @rule()
    def return_after_an_outage(self) -> None:
        """The first pass after more than a term without any."""
        self.stage.now += 40_000
        self.stage.expire(RUNS)
        self.stage.now += 9_000
        self.stage.expire(RUNS)

    @precondition(lambda self: any(run.fields.get("cancel") for run in self.stage.model.runs.values()))
    @rule()
    def outlive_the_grace(self) -> None:
        self.stage.now += 21_000
        self.stage.expire(RUNS)

    # -- groups

    @rule(name=st.sampled_from(("g", "h")), bound=st.lists(st.sampled_from(("message.delta", "log", "*")), max_size=2, unique=True),
          start=st.sampled_from(("first", "now")), when_behind=st.sampled_from(("detach", "refuse", "refuse")))  # fmt: skip
    def bind(self, name: str, bound: list[str], start: Any, when_behind: Any) -> None:
        self.stage.bind(name, bound, start, when_behind)

    @precondition(lambda self: self.stage.model.groups)
    @rule(data=st.data(), given_=st.integers(1, 8), done=st.integers(0, 8))
    def work_in_group(self, data: st.DataObject, given_: int, done: int) -> None:
        name = data.draw(st.sampled_from(sorted(self.stage.model.groups)))
        self.stage.read_group(name, given_)
        self.stage.ack_group(name, done)

    @rule()
    def trim(self) -> None:
        self.stage.trim()

    # -- what befalls the server

    @rule()
    def remember(self) -> None:
        self.snapshots.append(self.stage.snapshot())

    @precondition(lambda self: self.snapshots)
    @rule()
    def lose_the_tail(self) -> None:
        self.stage.lose(self.snapshots.pop())

    @rule(run=runs)
    def retention_passes(self, run: str) -> None:
        known = self.stage.model.runs.get(run)
        if known and known.status in TERMINAL:
            if known.feed_gone:
                self.stage.expire_tombstone(run)
            else:
                self.stage.expire_feed(run)

    @rule(run=runs, data=st.data())
    def somebody_deletes_a_feed(self, run: str, data: st.DataObject) -> None:
        known = self.stage.model.runs.get(run)
        if known and known.status not in TERMINAL and not known.broken and data.draw(st.integers(0, 9)) == 0:
            self.stage.break_run(run)

    @initialize()
    def begin_empty(self) -> None:
        self.stage.compare()


EXAMPLES = {"valkey": 70, "redis7": 50, "fake": 8}


@pytest.mark.timeout(300)
def test_scripts_do_what_the_model_does(every_server: TestServer) -> None:
    """Outcomes, hash, feed, log, work, index, owners, deadlines and messages are the model's after every step."""
    machine = type("Partition", (Partition,), {"server": every_server})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=int(os.environ.get("TAILRACE_TEST_EXAMPLES", EXAMPLES[every_server.kind])),
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
