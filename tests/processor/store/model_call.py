"""Events enter a run of the model: which are refused, what others change, and the chain rule of who sends them.

Written from DESIGN 2 to 4 and WIRE 2, as the rest of the model (model.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from processor.core.cursor import FeedId
from processor.core.events import Draft
from processor.core.partition import root_of
from processor.store.scripts import Batch
from tests.processor.store.state import (
    ENDS,
    TERMINAL,
    Extras,
    Made,
    ModelRun,
    Outcome,
    Position,
    WorkEntry,
    extras_of,
    next_status,
)

if TYPE_CHECKING:
    from tests.processor.store.model import Model

__all__ = ["Applying", "Call"]


@dataclass
class Applying:
    """Events for one run, judged and applied one after the other; `tell` publishes them."""

    model: Model
    name: str
    run: ModelRun
    now: int
    live: bool = False
    payloads: list[bytes | Made] = field(default_factory=list)
    first: FeedId | None = None

    def repeated(self, draft: Draft) -> Outcome | None:
        """Of a run that exists, run.queued is the same start again or another one."""
        if draft.type != "run.queued" or self.run.status is None:
            return None
        if self.run.fields.get("start") != extras_of(draft).start:
            return Outcome("exists")
        return Outcome("duplicate", FeedId(1, int(self.run.fields["created"])))

    def refusal(self, draft: Draft, *, bounded: bool) -> Outcome | None:
        """bounded: the backlog has limits for it."""
        run, type, extras = self.run, draft.type, extras_of(draft)
        if run.status in TERMINAL:
            return run.closed()
        if self._status_after(type, extras) is None:
            return Outcome("illegal", detail=f"{run.status or 'new'} {type}")
        busy = self._busy(extras)
        if busy:
            return Outcome("busy", detail=busy)
        full = self._full(draft, extras) if bounded else None
        if full:
            return Outcome("full", detail=full)
        return Outcome("corrupt") if run.broken else None

    @property
    def _parked(self) -> bool:
        """Nobody holds it in memory; its body waits for the answer."""
        name, run = self.name, self.run
        waits = name in self.model.bodies and name not in self.model.delayed
        return run.status == "waiting" and not run.exec and waits

    def _status_after(self, type: str, extras: Extras) -> str | None:
        """None: illegal."""
        run = self.run
        if extras.nonce:
            return "running" if run.status is None or run.fields.get("owner") == extras.owner else None
        if type == "run.resumed":
            if extras.ask and run.fields.get("ask") != extras.ask:
                return None
            if self._parked:
                return "queued" if extras.task == run.fields["task"] else None
        return next_status(run.status, type, self.live)

    def _busy(self, extras: Extras) -> str | None:
        if self.run.status or not extras.thread:
            return None
        active = self.model.threads.get(root_of(self.name), {}).get("active")
        return active if active != self.name else None

    def _full(self, draft: Draft, extras: Extras) -> str | None:
        """For appends from outside only; never for ends and inputs."""
        if draft.type in ENDS or draft.type == "run.resumed":
            return None
        model = self.model
        if draft.type == "run.queued" and len(model.work.get(extras.task, ())) >= model.limits.work:
            return extras.task
        if extras.delay and len(model.delayed) >= model.limits.work:
            return extras.task
        return model.room_in_log() if model.is_logged(draft.type) else None

    def apply(self, draft: Draft) -> FeedId:
        model, run, type, extras = self.model, self.run, draft.type, extras_of(draft)
        status, parked = self._status_after(type, extras), self._parked
        assert status is not None
        id = FeedId(run.tail.seq + 1, max(self.now, run.tail.ms))
        payload = draft.payload
        if extras.nonce:
            payload = b'"type":"run.started","attempt":%d,' % (run.attempt + 1) + payload
        new = run.status is None
        model.runs[self.name] = run
        run.events.append((id, payload))
        self.first = self.first or id
        self.payloads.append(payload)
        if model.is_logged(type):
            model.log.append((self.name, id, payload))
        if new:
            run.fields["created"] = str(id.ms)
            self._describe(type, extras)
        self._queue(type, extras, id, payload)
        self._note(type, extras)
        if parked and status != "waiting":
            self._unpark(status)
        if extras.nonce:
            self._begin(extras)
        elif status == "running" and run.status in (None, "queued") and not run.attempt and model.limits.silent_ms:
            model.deadlines[self.name] = self.now + model.limits.silent_ms
        if status != run.status:
            run.status = status
            if status in TERMINAL:
                run.fields["ended"] = str(id.ms)
                model.finish(self.name, run, self.now)
            else:
                model.index[self.name] = self.now
        return id

    def _unpark(self, status: str) -> None:
        queued, payload = self.model.bodies.pop(self.name)
        if status == "queued":
            task = self.run.fields["task"]
            self.model.work.setdefault(task, []).append(WorkEntry(self.name, queued, payload))

    def _describe(self, type: str, extras: Extras) -> None:
        """Only run.queued and run.started of a new run set start, task, labels and thread."""
        if type not in ("run.queued", "run.started"):
            return
        fields = self.run.fields
        fields["start"] = extras.start
        if extras.task:
            fields["task"] = extras.task
        fields.update({f"l:{name}": value for name, value in extras.labels})
        if extras.thread:
            fields["thread"] = extras.thread
            thread = self.model.threads.setdefault(root_of(self.name), {})
            if "latest" in thread and thread["latest"] != self.name:
                fields["prev"] = thread["latest"]
            thread.update(active=self.name, latest=self.name)

    def _queue(self, type: str, extras: Extras, id: FeedId, payload: bytes) -> None:
        if type != "run.queued":
            return
        if extras.delay:
            due = self.now + extras.delay
            self.run.fields["due"] = str(due)
            self.model.delayed[self.name] = due
            self.model.bodies[self.name] = (id, payload)
        else:
            self.model.work.setdefault(extras.task, []).append(WorkEntry(self.name, id, payload))

    def _note(self, type: str, extras: Extras) -> None:
        fields = self.run.fields
        if type == "run.waiting":
            fields["ask"] = extras.ask
        elif type == "run.resumed":
            fields[f"a:{fields.get('ask', '')}"] = extras.value
            fields["ask"] = ""
        elif type == "run.failed":
            fields["error"] = extras.error

    def _begin(self, extras: Extras) -> None:
        """The next attempt of an owner."""
        run, model = self.run, self.model
        attempt = run.attempt + 1
        run.fields |= {"attempt": str(attempt), "exec": f"{attempt}-{extras.nonce}", "owner": extras.owner, "ask": ""}
        run.exec_position = Position()
        model.owners[self.name] = self.now + model.limits.term_ms
        if "cancel" not in run.fields:
            model.deadlines.pop(self.name, None)

    def tell(self) -> None:
        if self.first is not None:
            self.model.published.append((self.name, self.first, self.payloads))


def _last_block(ids: dict[int, FeedId]) -> dict[int, FeedId]:
    """Where a call's numbers were not consecutive in the feed, only the last consecutive ones keep their IDs."""
    number = max(ids)
    while number - 1 in ids and ids[number - 1].seq == ids[number].seq - 1:
        number -= 1
    return {known: id for known, id in ids.items() if known >= number}


@dataclass
class Call(Applying):
    """One batch of append: its events are judged one after the other, the position is written at its end."""

    current: bool = True  # False: live under an exec that the run does not have
    position: Position = Position()  # noqa: RUF009  immutable
    accepted: dict[int, FeedId] = field(default_factory=dict)  # number → ID
    known: dict[int, FeedId] = field(default_factory=dict)  # of duplicates

    def judge_all(self, batch: Batch) -> list[Outcome]:
        outcomes: list[Outcome] = []
        stored, refused = self.position.number, False
        before, same = "", False
        for number, fields in enumerate(batch.events, batch.number):
            draft = Draft(*fields)
            prev = batch.prev if number == batch.number else number - 1
            # Backlog is judged once for events of one type in a row: a call may pass the limit by its own size.
            same = draft.type == before and not draft.type.startswith("run.") and same
            outcome = Outcome("hole") if refused else self._judge(draft, number, prev, stored, same)
            if outcome.word == "hole":
                outcome = Outcome("hole", detail=str(stored))
            if outcome.word == "appended" or number in self.accepted:
                stored, same = number, True
            refused = refused or outcome.word not in ("appended", "duplicate")
            before = draft.type
            outcomes.append(outcome)
        return outcomes

    def _judge(self, draft: Draft, number: int, prev: int, stored: int, room_known: bool) -> Outcome:
        run, extras = self.run, extras_of(draft)
        if self.current and number <= stored:
            attempt = run.attempt if extras.nonce and run.exec.endswith(f"-{extras.nonce}") else 0
            id = run.id_of(self.position, number)
            if id is not None:
                self.known[number] = id
            return Outcome("duplicate", id, attempt=attempt)
        again = self.repeated(draft)
        if again is not None:
            if again.id is not None and prev == stored:
                self.accepted[number] = again.id
            return again
        if not self.current:
            return Outcome("stale")
        if prev != stored:
            return Outcome("hole")
        refusal = self.refusal(draft, bounded=not self.live and not room_known)
        if refusal is not None:
            return refusal
        id = self.accepted[number] = self.apply(draft)
        return Outcome("appended", id, attempt=run.attempt if extras.nonce else 0)

    def write_back(self, batch: Batch) -> None:
        if not self.accepted:
            return
        position = Position(max(self.accepted), _last_block(self.known | self.accepted), self.now)
        if self.live:
            self.run.exec_position = position
        else:
            self.run.positions[batch.writer] = position
        self.tell()
