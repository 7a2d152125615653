"""A small model of what append, renew, cancel, expire, bind and trim do to one partition.

Written from DESIGN 2 to 4 and WIRE 2, not from the scripts. Time is an argument, in whole milliseconds. Payloads are bytes; of
events that scripts make themselves the model knows type, reason and attempt only (`Made`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from processor.core.cursor import FeedId
from processor.core.events import Draft, is_increment
from processor.core.partition import root_of
from processor.store.scripts import Batch, Limits
from tests.processor.store.state import (
    ENDS,
    TERMINAL,
    Extras,
    Group,
    Made,
    ModelRun,
    Outcome,
    Position,
    extras_of,
    next_status,
)

__all__ = ["Model"]


@dataclass
class Model:
    """One partition. Operations return what the script should, and change the state as it should."""

    layout: str
    limits: Limits
    runs: dict[str, ModelRun] = field(default_factory=dict)
    threads: dict[str, dict[str, str]] = field(default_factory=dict)
    log: list[tuple[str, FeedId, bytes | Made]] = field(default_factory=list)  # all that ever was in it
    log_first: int = 0  # index of the first entry still in it
    groups: dict[str, Group] = field(default_factory=dict)
    work: dict[str, list[tuple[str, FeedId, bytes]]] = field(default_factory=dict)
    delayed: dict[str, int] = field(default_factory=dict)
    bodies: dict[str, tuple[FeedId, bytes]] = field(default_factory=dict)
    index: dict[str, int] = field(default_factory=dict)
    owners: dict[str, int] = field(default_factory=dict)
    deadlines: dict[str, int] = field(default_factory=dict)
    seen: int | None = None
    quiet: int | None = None
    published: list[tuple[str, FeedId | str, list[bytes | Made]]] = field(default_factory=list)  # of the last operation

    # -- append

    def append(self, layout: str, batches: Sequence[Batch], now: int) -> tuple[str, list[list[Outcome]]]:
        self.published = []
        if layout != self.layout:
            return f"topology {self.layout}", []
        return "ok", [self._batch(batch, now) for batch in batches]

    def _batch(self, batch: Batch, now: int) -> list[Outcome]:
        run = self.runs.get(batch.run) or ModelRun()
        kind, _, writer = batch.writer.partition(":")
        live = kind == "x"
        current = not live or run.fields.get("exec") == writer
        position = run.exec_position if live else run.positions.get(batch.writer, Position())
        if not current:
            position = Position()
        if not batch.events:
            if not current:
                return [run.closed() if run.status in TERMINAL else Outcome("stale")]
            return [Outcome("stored", detail=str(position.number))]
        call = _Call(self, batch.run, run, live, current, writer, position, now)
        outcomes = call.judge_all(batch)
        call.write_back(batch)
        if live and "cancel" in run.fields and run.status not in TERMINAL:
            outcomes.append(Outcome("cancelling"))
        return outcomes

    def is_logged(self, type: str) -> bool:
        """Facts while there is a group, increments while one has bound their type."""
        if not is_increment(type):
            return bool(self.groups)
        return any(type in group.types or "*" in group.types for group in self.groups.values())

    def room_in_log(self) -> str | None:
        """At the limit: cut behind the slowest group, then what only detached groups need.

        None, or the groups that are in the way, joined by `|`: the answer may name any of them.
        """
        if self._log_length < self.limits.log:
            return None
        self._cut(min(group.needs for group in self.groups.values()))
        if self._log_length < self.limits.log:
            return None
        # What has gone is needed by nobody any more: groups that lack it are as far behind as the first entry.
        behind = {name: max(group.needs, self.log_first) for name, group in self.groups.items()}
        refusing = {name: needs for name, needs in behind.items() if self.groups[name].when_behind == "refuse"}
        if not refusing:
            self._cut(len(self.log) - (self.limits.log - math.ceil(self.limits.log / 10)))
            return None
        slowest = min(refusing.values())
        self._cut(slowest)
        if self._log_length < self.limits.log:
            return None
        return "|".join(name for name, needs in refusing.items() if needs == slowest)

    @property
    def _log_length(self) -> int:
        return len(self.log) - self.log_first

    def _cut(self, first: int) -> None:
        self.log_first = max(self.log_first, min(first, len(self.log)))

    def finish(self, name: str, run: ModelRun, now: int) -> None:
        keep = self.limits.retain_ms + self.limits.tombstone_ms
        self.owners.pop(name, None)
        self.deadlines[name] = now + keep
        self.index[name] = now
        for answer in [name for name in run.fields if name.startswith("a:")]:
            del run.fields[answer]
        thread = self.threads.get(root_of(name), {})
        if thread.get("active") == name:
            del thread["active"]

    # -- what scripts make themselves

    def _make(self, name: str, run: ModelRun, now: int, payload: Made) -> None:
        id = FeedId(run.tail.seq + 1, max(now, run.tail.ms))
        run.events.append((id, payload))
        if self.groups:
            self.log.append((name, id, payload))
        self.published.append((name, id, [payload]))

    def _end_as(self, name: str, run: ModelRun, now: int, status: str, payload: Made, error: str | None) -> None:
        if run.broken:
            self.owners.pop(name, None)
            self.deadlines.pop(name, None)
            return
        self._make(name, run, now, payload)
        run.status = status
        run.fields["ended"] = str(now)
        if error is not None:
            run.fields["error"] = error
        self.finish(name, run, now)

    # -- the other scripts

    def cancel(self, name: str, reason: str, now: int) -> tuple[str, str]:
        self.published = []
        run = self.runs.get(name)
        if run is None or run.status is None:
            return "unknown", ""
        if run.status in TERMINAL:
            return "ended", run.status
        if "cancel" in run.fields:
            return "asked", run.status
        if run.broken:
            return "corrupt", ""
        run.fields["cancel"] = f'"{reason}"'
        if run.status == "running":
            self._make(name, run, now, Made("run.cancel_requested", reason))
            self.deadlines[name] = now + self.limits.grace_ms
        else:
            self._end_as(name, run, now, "cancelled", Made("run.cancelled", reason), None)
            self.delayed.pop(name, None)
            self.bodies.pop(name, None)
        self.published.append(("ctl", f"cancel {name}", []))
        return "asked", run.status

    def _pass(self, now: int) -> bool:
        """Whether owners may be lost now."""
        term = self.limits.term_ms
        if self.seen is None or now - self.seen > term / 3 or self.seen > now:
            self.quiet = now
            for name, until in self.owners.items():
                self.owners[name] = min(until, now + term)
        self.seen = now
        assert self.quiet is not None
        return now - self.quiet >= term

    def renew(self, owned: Sequence[tuple[str, str]], now: int) -> list[str]:
        self.published = []
        self._pass(now)
        return [self._renew(name, owner, now) for name, owner in owned]

    def _renew(self, name: str, owner: str, now: int) -> str:
        run = self.runs.get(name)
        if run is None or run.status is None:
            return "unknown"
        if run.fields.get("owner") != owner:
            return "stale"
        if run.status in TERMINAL:
            return f"closed {run.status}"
        self.owners[name] = now + self.limits.term_ms
        return "cancelling" if "cancel" in run.fields else "renewed"

    def expire(self, names: Sequence[str], now: int) -> tuple[int, list[str]]:
        """Returns how many were ended, removed or put off, and who is due (sorted, each reason once)."""
        self.published = []
        may_be_lost = self._pass(now)
        done = sum(self._expire(name, now, may_be_lost) for name in names)
        due = [name for name, until in self.owners.items() if until < now and may_be_lost]
        due += [name for name, deadline in self.deadlines.items() if deadline <= now]
        return done, sorted(due)

    def _expire(self, name: str, now: int, may_be_lost: bool) -> bool:
        run = self.runs.get(name)
        if run is None or run.status is None:
            for held in (self.owners, self.deadlines, self.index):
                held.pop(name, None)
            return True
        if run.status not in TERMINAL and may_be_lost and self.owners.get(name, now) < now:
            made = Made("run.failed", "owner_lost", run.attempt)
            self._end_as(name, run, now, "failed", made, '"its process stopped renewing"')
            return True
        if self.deadlines.get(name, now + 1) > now:
            return False
        self._look(name, run, now)
        return True

    def _look(self, name: str, run: ModelRun, now: int) -> None:
        del self.deadlines[name]
        silent = self.limits.silent_ms
        if run.status in TERMINAL:
            self.index.pop(name, None)
        elif "cancel" in run.fields and ("owner" in run.fields or "exec" not in run.fields):
            reason = run.fields["cancel"][1:-1]
            self._end_as(name, run, now, "cancelled", Made("run.cancelled", reason, run.attempt), None)
        elif silent and not run.attempt and run.status != "queued":
            if run.tail.ms + silent <= now:
                made = Made("run.failed", "silent")
                self._end_as(name, run, now, "failed", made, '"nothing was heard of it"')
            else:
                self.deadlines[name] = run.tail.ms + silent

    def bind(self, name: str, types: Sequence[str], start: str, when_behind: str) -> str:
        self.published = []
        known = self.groups.get(name)
        wanted = tuple(sorted(types))
        if known is None:
            delivered = self.log_first - 1 if start == "first" else len(self.log) - 1
            self.groups[name] = Group(delivered, when_behind, wanted)
            return "bound"
        if (known.when_behind, known.types) == (when_behind, wanted):
            return "same"
        known.when_behind, known.types = when_behind, wanted
        return "changed"

    def trim(self) -> int:
        self.published = []
        before = self.log_first
        if self.groups:
            self._cut(min(group.needs for group in self.groups.values()))
        return self.log_first - before


def _last_block(ids: dict[int, FeedId]) -> dict[int, FeedId]:
    """Where a call's numbers were not consecutive in the feed, only the last consecutive ones keep their IDs."""
    number = max(ids)
    while number - 1 in ids and ids[number - 1].seq == ids[number].seq - 1:
        number -= 1
    return {known: id for known, id in ids.items() if known >= number}


@dataclass
class _Call:
    """One batch: its events are judged one after the other, the position is written at its end."""

    model: Model
    name: str
    run: ModelRun
    live: bool
    current: bool
    writer: str
    position: Position
    now: int
    accepted: dict[int, FeedId] = field(default_factory=dict)  # number → ID
    known: dict[int, FeedId] = field(default_factory=dict)  # of duplicates
    payloads: list[bytes | Made] = field(default_factory=list)
    first: FeedId | None = None
    finished: bool = False

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
        run, type, extras = self.run, draft.type, extras_of(draft)
        if self.current and number <= stored:
            attempt = run.attempt if extras.nonce and run.fields.get("exec", "").endswith(f"-{extras.nonce}") else 0
            id = run.id_of(self.position, number)
            if id is not None:
                self.known[number] = id
            return Outcome("duplicate", id, attempt=attempt)
        if type == "run.queued" and run.status:
            if run.fields.get("start") != extras.start:
                return Outcome("exists")
            first = FeedId(1, int(run.fields["created"]))
            if prev == stored:
                self.accepted[number] = first
            return Outcome("duplicate", first)
        if prev != stored and self.current:
            return Outcome("hole")
        if not self.current:
            return Outcome("stale")
        if run.status in TERMINAL:
            return run.closed()
        status = self._legal(type, extras)
        if status is None:
            return Outcome("illegal", detail=f"{run.status or 'new'} {type}")
        busy = self._busy(extras)
        if busy:
            return Outcome("busy", detail=busy)
        full = None if room_known else self._full(draft, extras)
        if full:
            return Outcome("full", detail=full)
        if run.broken:
            return Outcome("corrupt")
        return self._apply(draft, extras, number, status)

    def _legal(self, type: str, extras: Extras) -> str | None:
        run = self.run
        if extras.nonce:
            return "running" if run.status is None or run.fields.get("owner") == extras.owner else None
        if type == "run.resumed" and extras.ask and run.fields.get("ask") != extras.ask:
            return None
        return next_status(run.status, type, self.live)

    def _busy(self, extras: Extras) -> str | None:
        if self.run.status or not extras.thread:
            return None
        active = self.model.threads.get(root_of(self.name), {}).get("active")
        return active if active != self.name else None

    def _full(self, draft: Draft, extras: Extras) -> str | None:
        """For appends from outside only; never for ends and inputs."""
        if self.live or draft.type in ENDS or draft.type == "run.resumed":
            return None
        model = self.model
        if draft.type == "run.queued" and len(model.work.get(extras.task, ())) >= model.limits.work:
            return extras.task
        if extras.delay and len(model.delayed) >= model.limits.work:
            return extras.task
        return model.room_in_log() if model.is_logged(draft.type) else None

    def _apply(self, draft: Draft, extras: Extras, number: int, status: str) -> Outcome:
        model, run, type = self.model, self.run, draft.type
        id = FeedId(run.tail.seq + 1, max(self.now, run.tail.ms))
        payload = draft.payload
        if extras.nonce:
            payload = b'"type":"run.started","attempt":%d,' % (run.attempt + 1) + payload
        new = run.status is None
        model.runs[self.name] = run
        run.events.append((id, payload))
        self.accepted[number] = id
        self.first = self.first or id
        self.payloads.append(payload)
        if model.is_logged(type):
            model.log.append((self.name, id, payload))
        if new:
            run.fields["created"] = str(id.ms)
            self._describe(type, extras)
        self._queue(type, extras, id, payload)
        self._note(type, extras)
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
        return Outcome("appended", id, attempt=run.attempt if extras.nonce else 0)

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
            self.model.work.setdefault(extras.task, []).append((self.name, id, payload))

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

    def write_back(self, batch: Batch) -> None:
        if not self.accepted:
            return
        position = Position(max(self.accepted), _last_block(self.known | self.accepted), self.now)
        if self.live:
            self.run.exec_position = position
        else:
            self.run.positions[batch.writer] = position
        if self.first is not None:
            self.model.published.append((self.name, self.first, self.payloads))
