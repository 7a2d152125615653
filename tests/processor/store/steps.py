"""What may happen to a partition, as steps for random sequences: each draws what it needs and does it to a stage."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import note
from hypothesis import strategies as st

from processor.core.events import Draft, draft
from processor.store.scripts import Batch
from tests.processor.store.stage import Snapshot, Stage
from tests.processor.store.state import TERMINAL, Position

__all__ = ["RUNS", "STEPS", "Steps"]

T = TypeVar("T")

RUNS = ("a", "b", "T~1", "T~2", "T~3")
PRODUCERS = ("p:one", "p:one", "p:two")
PLAIN = ("message.delta", "log", "step.started", "usage", "order.paid", "run.note")
LIFECYCLE = ("started", "waiting", "resumed", "finished", "failed", "cancelled", "retrying", "cancel_requested")
ASKS = ("", "ask1", "ask2")
TIMES = (0, 1, 5_000, 9_000, 9_000, 25_000, 61_000, -3_000, -3_600_000, 11_000_000)
OFFSETS = (0, 0, 0, 0, 0, 0, 1, 2, -1, 5)


def _data(number: int) -> bytes:
    return b'{"text":"%d \\u00e9 []","empty":[]}' % number


class Steps:
    """Every public method is a step."""

    def __init__(self, stage: Stage, data: st.DataObject, runs: Sequence[str] = RUNS) -> None:
        self._stage = stage
        self._data = data
        self._runs = runs
        self._calls: list[list[Batch]] = []  # sent before, to be executed again
        self._snapshots: list[Snapshot] = []
        self._due: list[str] = []
        self._serial = itertools.count(1)

    # -- draws

    def _one(self, choices: Sequence[T]) -> T:
        return self._data.draw(st.sampled_from(choices))

    def _flip(self) -> bool:
        return self._data.draw(st.booleans())

    def _run(self, *, of: Sequence[str] = ()) -> str:
        """Mostly one that has not ended."""
        model, of = self._stage.model, of or self._runs
        open_ = [run for run in of if run not in model.runs or model.runs[run].status not in TERMINAL]
        return self._one([*open_, *open_, *open_, *of])

    def _executed(self) -> list[str]:
        return [run for run in self._runs if self._exec_of(run)]

    def _status(self, run: str) -> str | None:
        known = self._stage.model.runs.get(run)
        return known.status if known else None

    def _exec_of(self, run: str) -> str:
        known = self._stage.model.runs.get(run)
        return known.fields.get("exec", "") if known else ""

    def _stored(self, run: str, writer: str) -> int:
        known = self._stage.model.runs.get(run)
        if known is None:
            return 0
        if writer.startswith("x:"):
            return known.exec_position.number if known.fields.get("exec") == writer[2:] else 0
        return known.positions.get(writer, Position()).number

    def _plain(self, attempt: int = 0) -> list[Draft]:
        names = self._data.draw(st.lists(st.sampled_from(PLAIN), min_size=1, max_size=5))
        return [draft(name, _data(next(self._serial)), attempt=attempt) for name in names]

    def _lifecycle(self, run: str) -> Draft:
        """Any lifecycle event; more often one that is legal and ends nothing."""
        likely = {"running": ["waiting"], "waiting": ["resumed", "waiting"]}.get(self._status(run) or "", ["started"])
        type = self._one([*LIFECYCLE, *likely * 4])
        known = self._stage.model.runs.get(run)
        asked = known.fields.get("ask", "") if known else ""
        ask = self._one([asked, *ASKS]) if type == "resumed" else self._one(ASKS)
        return draft(f"run.{type}", _data(next(self._serial)), ask=ask, value=b'["yes"]', error=b'"bad"')

    def _batch(self, run: str, writer: str, drafts: list[Draft], *, faults: bool = True) -> Batch:
        """Numbers and prev as they should be, now and then others."""
        stored = self._stored(run, writer)
        number = stored + 1 + (abs(self._one(OFFSETS)) if faults else 0)
        prev = stored + (self._one(OFFSETS) if faults else 0)
        return Batch(run, writer, min(max(prev, 0), number - 1), number, drafts)

    def _send(self, *batches: Batch) -> None:
        for batch in batches:
            types = [event[0] for event in batch.events]
            note(f"  {batch.run} {batch.writer} number {batch.number} after {batch.prev}: {types}")
        self._stage.append(batches)
        self._calls.append(list(batches))

    def nothing(self) -> None:
        """What a failing sequence is shortened to."""

    # -- producers and executions

    def outside(self) -> None:
        self._send(self._batch(self._run(), self._one(PRODUCERS), self._plain()))

    def outside_lifecycle(self) -> None:
        run = self._run()
        event = self._lifecycle(run)
        drafts = [event, *self._plain()] if self._flip() else [*self._plain(), event]
        self._send(self._batch(run, self._one(PRODUCERS), drafts, faults=False))

    def two_batches(self) -> None:
        """One call for two runs, or for two producers of one run."""
        run, other = self._run(), self._run()
        writers = ("p:one", "p:two") if run == other else ("p:one", "p:one")
        self._send(self._batch(run, writers[0], self._plain()), self._batch(other, writers[1], self._plain()))

    def late_copy(self) -> None:
        """A call is executed once more, at any later time."""
        if self._calls:
            batches = self._calls[-1 - self._data.draw(st.integers(0, 12)) % len(self._calls)]
            note(f"  again: {[(batch.run, batch.writer, batch.number) for batch in batches]}")
            self._stage.append(batches)

    def resend_and_go_on(self) -> None:
        """A body that begins with what was sent before."""
        if self._calls:
            batch = self._calls[-1 - self._data.draw(st.integers(0, 4)) % len(self._calls)][-1]
            if batch.events and not any(event[0].startswith("run.") for event in batch.events):
                self._send(batch._replace(events=[*batch.events, *self._plain()]))

    def queue(self) -> None:
        """A run is started for a worker, again, or otherwise."""
        run = self._run()
        thread = "T" if "~" in run and self._flip() else ""
        delay = self._one((0, 0, 40_000))
        event = draft("run.queued", _data(next(self._serial)), task=self._one(("build", "check")), start=self._one("sst"),
                      thread=thread, delay_ms=delay, labels={"user": "ada"})  # fmt: skip
        self._send(self._batch(run, self._one(PRODUCERS), [event, *(self._plain() if self._flip() else [])]))

    def begin(self) -> None:
        """A process starts to execute a run without a worker, or its next attempt."""
        self._begin(self._run(), self._one(("me", "me", "me", "you")))

    def _begin(self, run: str, owner: str) -> None:
        serial = next(self._serial)
        thread = "T" if "~" in run and self._flip() else ""
        event = draft("run.started", _data(serial), nonce=f"n{serial}", owner=owner, start="s", task="build",
                      thread=thread, labels={"user": "bob"})  # fmt: skip
        self._send(self._batch(run, f"p:{owner}", [event], faults=self._one((False, False, False, True))))

    def next_attempt(self) -> None:
        """The owner of a run begins again."""
        if executed := self._executed():
            run = self._run(of=executed)
            self._begin(run, self._stage.model.runs[run].fields.get("owner", "me"))

    def answer(self) -> None:
        """The answer to an open question."""
        if waiting := [name for name, run in self._stage.model.runs.items() if run.status == "waiting"]:
            run = self._one(waiting)
            ask = self._one((self._stage.model.runs[run].fields["ask"], "", *ASKS))
            task = self._one((self._stage.model.runs[run].fields.get("task", ""), "", "check"))
            event = draft("run.resumed", _data(next(self._serial)), ask=ask, value=b'["yes"]', task=task)
            self._send(self._batch(run, "p:one", [event, *self._plain()], faults=False))

    def end(self) -> None:
        run = self._run()
        event = draft(self._one(("run.finished", "run.failed")), _data(next(self._serial)), error=b'"bad"')
        writer = f"x:{self._exec_of(run)}" if self._exec_of(run) else "p:one"
        self._send(self._batch(run, writer, [event, *self._plain()], faults=False))

    def live(self) -> None:
        if executed := self._executed():
            run = self._run(of=executed)
            drafts = self._plain(self._stage.model.runs[run].attempt)
            self._send(self._batch(run, f"x:{self._exec_of(run)}", drafts))

    def live_lifecycle(self) -> None:
        if executed := self._executed():
            run = self._run(of=executed)
            self._send(
                self._batch(run, f"x:{self._exec_of(run)}", [self._lifecycle(run), *self._plain()], faults=False)
            )

    def stale(self) -> None:
        self._send(Batch(self._run(), "x:1-gone", 0, 1, self._plain()))

    def ask_what_is_stored(self) -> None:
        run = self._run()
        writer = self._one((*PRODUCERS, f"x:{self._exec_of(run)}", "x:1-gone"))
        self._stage.append([Batch(run, writer, 0, 0, ())])

    def another_layout(self) -> None:
        self._stage.append([self._batch(self._run(), "p:one", self._plain())], layout="2 other")

    # -- owners, cancels, time

    def renew(self) -> None:
        """Some that are owned, and whatever else is asked for."""
        owned = [(name, self._stage.model.runs[name].fields["owner"]) for name in self._stage.model.owners]
        self._stage.renew([*owned[: self._one((0, 1, 5))], (self._run(), self._one(("me", "me", "you")))])

    def cancel(self) -> None:
        self._stage.cancel(self._run(of=self._executed() if self._flip() else ()))

    def expire(self) -> None:
        """A pass; it looks at what the last one named, or at more."""
        self._due = self._stage.expire(self._runs if self._flip() else self._due)

    def time_passes(self) -> None:
        self._stage.now += self._one(TIMES)
        note(f"  it is {self._stage.now}")

    def outlive_an_owner(self) -> None:
        """Passes without a silence until the first owner is lost."""
        if self._stage.model.owners:
            for _ in range(8):
                self._stage.now += 5_000
                self._due = self._stage.expire(self._due)

    def return_after_an_outage(self) -> None:
        """The first passes after more than a term without any."""
        if self._stage.model.owners:
            for ms in (40_000, 9_000):
                self._stage.now += ms
                self._stage.expire(self._runs)

    def outlive_the_grace(self) -> None:
        if any("cancel" in run.fields for run in self._stage.model.runs.values()):
            self._stage.now += 21_000
            self._stage.expire(self._runs)

    # -- groups

    def bind(self) -> None:
        types = self._data.draw(st.lists(st.sampled_from(("message.delta", "log", "*")), max_size=2, unique=True))
        start, when_behind = self._flip(), self._one((False, True, True))
        self._stage.bind(
            self._one("gh"), types, start="first" if start else "now", when_behind="refuse" if when_behind else "detach"
        )

    def work_in_group(self) -> None:
        if groups := sorted(self._stage.model.groups):
            name = self._one(groups)
            self._stage.read_group(name, self._data.draw(st.integers(1, 8)))
            self._stage.ack_group(name, self._data.draw(st.integers(0, 8)))

    def trim(self) -> None:
        self._stage.trim()

    # -- what befalls the server

    def remember(self) -> None:
        self._snapshots.append(self._stage.snapshot())

    def lose_the_tail(self) -> None:
        if self._snapshots:
            self._stage.lose(self._snapshots.pop())

    def retention_passes(self) -> None:
        """Of an ended run, first the feed goes, then the tombstone."""
        if ended := self._forgettable():
            name = self._one(ended)
            if self._stage.model.runs[name].feed_gone:
                self._stage.expire_tombstone(name)
            else:
                self._stage.expire_feed(name)

    def _forgettable(self) -> list[str]:
        return [name for name, run in self._stage.model.runs.items() if run.status in TERMINAL]

    def somebody_deletes_a_feed(self) -> None:
        known = self._stage.model.runs
        if open_ := [name for name, run in known.items() if run.status not in TERMINAL and not run.broken]:
            self._stage.break_run(self._one(open_))


_WEIGHTS: dict[Callable[[Steps], None], int] = {
    Steps.nothing: 1,  # first, for the shortening
    Steps.outside: 4,
    Steps.outside_lifecycle: 5,
    Steps.two_batches: 2,
    Steps.late_copy: 4,
    Steps.resend_and_go_on: 3,
    Steps.queue: 4,
    Steps.begin: 4,
    Steps.next_attempt: 3,
    Steps.answer: 2,
    Steps.end: 2,
    Steps.live: 4,
    Steps.live_lifecycle: 5,
    Steps.stale: 1,
    Steps.ask_what_is_stored: 1,
    Steps.another_layout: 1,
    Steps.renew: 2,
    Steps.cancel: 3,
    Steps.expire: 2,
    Steps.time_passes: 3,
    Steps.outlive_an_owner: 1,
    Steps.return_after_an_outage: 1,
    Steps.outlive_the_grace: 1,
    Steps.bind: 3,
    Steps.work_in_group: 2,
    Steps.trim: 1,
    Steps.remember: 2,
    Steps.lose_the_tail: 1,
    Steps.retention_passes: 2,
    Steps.somebody_deletes_a_feed: 1,
}
STEPS = [step for step, weight in _WEIGHTS.items() for _ in range(weight)]
