"""What start, settle, renew and promote do to a partition: executions begin, go on, are over.

Written from DESIGN 3 and 4 and from tests/models/executions.py, not from the scripts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from processor.core.cursor import FeedId
from processor.core.events import Draft
from processor.core.partition import partition_of
from processor.store.executing import Begun, Output, Settled, Taken, Unit
from processor.store.scripts import Held
from tests.processor.store.model import Model
from tests.processor.store.model_call import Applying
from tests.processor.store.state import TERMINAL, Made, ModelRun, Outcome, Position, WorkEntry

__all__ = ["DeadLetter", "ExecutionModel", "OutboxEntry", "words"]

ENDED_BY = {"finish": "succeeded", "fail": "failed", "stop": "cancelled"}
GIVES_TRY_BACK = ("later", "park", "release")
PUTS_OFF = ("retry", "later", "defer")

Tasks = Mapping[str, tuple[int, Sequence[tuple[Taken, str]]]]  # as start_command takes them


def words(refusal: Outcome) -> str:
    """A refusal as the scripts tell it."""
    return f"{refusal.word} 1 {refusal.detail}".strip()


@dataclass
class DeadLetter:
    run: str
    queued: str
    payload: bytes
    failed: bytes | Made


@dataclass
class OutboxEntry:
    target: int  # partition
    output: Output
    before: OutboxEntry | None  # the one before it for the same target
    id: str = ""  # the server's; learned after the call that added it


@dataclass
class ExecutionModel(Model):
    dead: dict[str, list[DeadLetter]] = field(default_factory=dict)
    outbox: list[OutboxEntry] = field(default_factory=list)
    last_out: dict[int, OutboxEntry] = field(default_factory=dict)  # by target
    marks: dict[int, str] = field(default_factory=dict)  # source → last entry taken from it

    def work_entry(self, task: str, id: str) -> WorkEntry | None:
        return next((entry for entry in self.work.get(task, ()) if entry.id == id), None)

    def _acknowledge(self, task: str, id: str) -> None:
        """And delete."""
        entry = self.work_entry(task, id)
        if entry is not None and entry.consumer:
            self.work[task].remove(entry)

    # -- start

    def start(self, consumer: str, tasks: Tasks, now: int) -> list[Begun]:
        self.published = []
        return [
            self._start(consumer, tries, taken, nonce, now)
            for tries, entries in tasks.values()
            for taken, nonce in entries
        ]

    def _start(self, consumer: str, limit: int, taken: Taken, nonce: str, now: int) -> Begun:
        run = self.runs.get(taken.run)
        entry = self.work_entry(taken.task, taken.entry)
        mine = entry is not None and entry.consumer == consumer
        if run is not None and run.exec == f"{run.attempt}-{nonce}":
            if run.status not in TERMINAL:
                return Begun("go", run.attempt, run.tries)
        elif not mine or (run.exec if run else "") != taken.seen:
            return Begun("gone")
        if entry is None or not mine:
            return Begun("closed")
        answer = self._begin(run, taken, entry, nonce, limit, now)
        if answer.word != "go":
            self._acknowledge(taken.task, taken.entry)
        return answer

    def _begin(self, run: ModelRun | None, taken: Taken, entry: WorkEntry, nonce: str, limit: int, now: int) -> Begun:
        name = taken.run
        if run is None or run.status in TERMINAL:
            return Begun("closed")
        if run.broken:
            self._bury(taken.task, entry, Made("run.failed", "corrupt"))
            return Begun("corrupt")
        if "cancel" in run.fields:
            reason = run.fields["cancel"][1:-1]
            self.end(name, run, now, "cancelled", Made("run.cancelled", reason), None)
            return Begun("cancelled")
        lost = run.exec != ""
        run.honest += lost
        if run.tries >= limit:
            failed = Made("run.failed", "poison", run.attempt)
            self.end(name, run, now, "failed", failed, f'"its process ended {run.tries} times while it ran"')
            self._bury(taken.task, entry, failed)
            return Begun("spent")
        attempt = run.attempt + 1
        events = [Made("run.retrying", "owner_lost", attempt)] if lost else []
        self.make(name, run, now, *events, Made("run.started", "", attempt))
        run.status = "running"
        run.fields |= {"exec": f"{attempt}-{nonce}", "attempt": str(attempt), "tries": str(run.tries + 1), "ask": ""}
        run.exec_position = Position()
        self.index[name] = now
        return Begun("go", attempt, run.tries)

    def _bury(self, task: str, entry: WorkEntry, failed: bytes | Made) -> None:
        self.dead.setdefault(task, []).append(DeadLetter(entry.run, str(entry.queued), entry.payload, failed))

    # -- settle

    def settle(self, units: Sequence[Unit], now: int) -> list[Settled]:
        self.published = []
        return [self._settle(unit, now) for unit in units]

    def _settle(self, unit: Unit, now: int) -> Settled:
        run = self.runs.get(unit.run)
        if unit.verb in ("back", "defer"):
            return self._return(run, unit, now)
        settled = f"{unit.exec} {unit.verb}"
        if run is None or run.exec != unit.exec:
            return Settled("done" if run and run.fields.get("settled") == settled else "stale")
        if run.status in TERMINAL:
            if unit.verb == "finish" and self._refusal(unit, now) is None:
                self._write_outputs(unit, now)
            answer = Settled("closed", run.status)
        elif unit.verb == "park" and (run.status != "waiting" or run.fields["ask"] != unit.a):
            return Settled("answered")
        elif refusal := self._refusal(unit, now):
            return Settled("refused", refusal)
        elif run.broken and (unit.payload or unit.verb == "stop" or "cancel" in run.fields):
            return Settled("corrupt")  # who appends nothing does not see it
        else:
            self._be_over(run, unit, now)
            answer = Settled("settled", run.status or "")
        run.fields |= {"exec": "", "settled": settled}
        self._acknowledge(unit.task, unit.entry)
        return answer

    def _be_over(self, run: ModelRun, unit: Unit, now: int) -> None:
        """An execution that settles what its run still waits for."""
        if unit.verb in ENDED_BY:
            self._end_by(run, unit, now)
            self._write_outputs(unit, now)
        elif "cancel" in run.fields:
            self._end_cancelled(run, unit.run, now)
        else:
            self._put_back(run, unit, now)

    def _end_by(self, run: ModelRun, unit: Unit, now: int) -> None:
        if unit.verb == "stop":
            self._end_cancelled(run, unit.run, now)
            return
        error = _text(unit.a) if unit.verb == "fail" else None
        self.end(unit.run, run, now, ENDED_BY[unit.verb], unit.payload, error)
        if unit.verb == "fail" and unit.entry:
            letter = DeadLetter(unit.run, _text(unit.b), unit.c, unit.payload)
            self.dead.setdefault(unit.task, []).append(letter)

    def _end_cancelled(self, run: ModelRun, name: str, now: int) -> None:
        reason = run.fields.get("cancel", '""')[1:-1]
        self.end(name, run, now, "cancelled", Made("run.cancelled", reason, run.attempt), None)

    def _put_back(self, run: ModelRun, unit: Unit, now: int) -> None:
        if unit.payload:
            self.make(unit.run, run, now, unit.payload)
        if unit.verb in GIVES_TRY_BACK:
            run.fields["tries"] = str(run.tries - 1)
        else:
            run.honest += 1
        run.status = "waiting" if unit.verb == "park" else "queued"
        self.index[unit.run] = now
        self._place(run, unit, now)

    def _place(self, run: ModelRun, unit: Unit, now: int) -> None:
        """Where the run waits for its next attempt."""
        body = (FeedId.parse(_text(unit.b)), unit.c)
        if unit.verb == "park":
            self.bodies[unit.run] = body
        elif unit.verb in PUTS_OFF:
            due = now + int(unit.a)
            run.fields["due"] = str(due)
            self.delayed[unit.run] = due
            self.bodies[unit.run] = body
        else:
            self.work.setdefault(unit.task, []).append(WorkEntry(unit.run, *body))

    def _return(self, run: ModelRun | None, unit: Unit, now: int) -> Settled:
        """An entry that was taken and not started."""
        entry = self.work_entry(unit.task, unit.entry)
        if (run.exec if run else "") != unit.exec or entry is None or not entry.consumer:
            return Settled("stale")
        if run is not None and run.broken and "cancel" in run.fields:
            return Settled("corrupt")
        self._acknowledge(unit.task, unit.entry)
        if run is None or run.status in TERMINAL:
            return Settled("closed", (run and run.status) or "unknown")
        run.honest += run.exec != ""
        run.fields["exec"] = ""
        if "cancel" in run.fields:
            self._end_cancelled(run, unit.run, now)
            return Settled("settled", "cancelled")
        run.status = "queued"
        self.index[unit.run] = now
        self._place(run, unit, now)
        return Settled("settled", "queued")

    # -- output for other runs

    @property
    def _partitions(self) -> int:
        return int(self.layout.partition(" ")[0])

    def _here(self, unit: Unit) -> list[Output]:
        mine = partition_of(unit.run, self._partitions)
        return [output for output in unit.outputs if partition_of(output.run, self._partitions) == mine]

    def _refusal(self, unit: Unit, now: int) -> str | None:
        """Of the first output that may not be appended, behind the unit's end and the outputs before it."""
        here = self._here(unit)
        if not here:
            return None
        trial = copy.deepcopy(self)
        run = trial.runs[unit.run]
        if run.status not in TERMINAL:
            trial.end(unit.run, run, now, ENDED_BY[unit.verb], Made("", ""), None)
        for output in here:
            refusal = trial._try(output, now)
            if refusal is not None:
                return f"{words(refusal)} of {output.run}"
        return None

    def _try(self, output: Output, now: int) -> Outcome | None:
        run = self.runs.get(output.run) or ModelRun()
        broken, run.broken = run.broken, False
        applying = Applying(self, output.run, run, now)
        for event in output.events:
            refusal = apply_settled(applying, Draft(*event))
            if refusal is not None:
                return refusal
        return Outcome("corrupt") if broken and applying.payloads else None

    def _write_outputs(self, unit: Unit, now: int) -> None:
        here = self._here(unit)
        for output in here:
            applying = Applying(self, output.run, self.runs.get(output.run) or ModelRun(), now)
            for event in output.events:
                assert apply_settled(applying, Draft(*event)) is None
            applying.tell()
        for output in unit.outputs:
            if output not in here:
                target = partition_of(output.run, self._partitions)
                entry = OutboxEntry(target, output, self.last_out.get(target))
                self.outbox.append(entry)
                self.last_out[target] = entry

    # -- time

    def renew(
        self,
        owned: Sequence[tuple[str, str]],
        now: int,
        consumer: str = "",
        held: Mapping[str, Sequence[Held]] | None = None,
    ) -> list[str]:
        answers = super().renew(owned, now)
        for task, entries in (held or {}).items():
            answers += [self._renew_entry(task, one, consumer) for one in entries]
        return answers

    def _renew_entry(self, task: str, one: Held, consumer: str) -> str:
        run = self.runs.get(one.run)
        if run is None:
            return "unknown"
        if run.exec != one.exec:
            return "stale"
        if run.status in TERMINAL:
            return f"closed {run.status}"
        entry = self.work_entry(task, one.entry)
        if entry is not None and entry.consumer:
            entry.consumer = consumer
        return "cancelling" if "cancel" in run.fields else "renewed"

    def promote(self, runs: Sequence[tuple[str, str]], now: int) -> list[Any]:
        """How many were queued and dropped; what is not due or has another task is left alone."""
        self.published = []
        queued = dropped = 0
        for name, task in runs:
            if self.delayed.get(name, now + 1) > now:
                continue
            run = self.runs[name]
            over = run.status in TERMINAL
            if not over and run.fields["task"] != task:
                continue
            del self.delayed[name]
            body = self.bodies.pop(name)
            dropped += over
            if over:
                continue
            queued += 1
            del run.fields["due"]
            self.work.setdefault(run.fields["task"], []).append(WorkEntry(name, *body))
        return [queued, dropped]


def apply_settled(applying: Applying, draft: Draft) -> Outcome | None:
    """An event that was settled elsewhere: its refusal, or None and it is applied; the same start again is nothing."""
    again = applying.repeated(draft)
    if again is not None:
        return None if again.word == "duplicate" else again
    refusal = applying.refusal(draft, bounded=False)
    if refusal is None:
        applying.apply(draft)
    return refusal


def _text(value: bytes | str | int) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
