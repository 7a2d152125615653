"""A small model of what append, renew, cancel, expire, bind and trim do to one partition.

Written from DESIGN 2 to 4 and WIRE 2, not from the scripts. Time is an argument, in whole milliseconds. Payloads are bytes; of
events that scripts make themselves the model knows type, reason and attempt only (`Made`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from processor.core.cursor import FeedId
from processor.core.events import is_increment
from processor.core.partition import root_of
from processor.store.scripts import Batch, Limits
from tests.processor.store.model_call import Call
from tests.processor.store.state import TERMINAL, Group, Made, ModelRun, Outcome, Position, WorkEntry

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
    work: dict[str, list[WorkEntry]] = field(default_factory=dict)
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
        current = not live or (run.exec == writer and writer != "")
        position = run.exec_position if live else run.positions.get(batch.writer, Position())
        if not current:
            position = Position()
        if not batch.events:
            if not current:
                return [run.closed() if run.status in TERMINAL else Outcome("stale")]
            return [Outcome("stored", detail=str(position.number))]
        call = Call(self, batch.run, run, now, live=live, current=current, position=position)
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

    def make(self, name: str, run: ModelRun, now: int, *payloads: bytes | Made) -> None:
        """Facts enter a run's feed, and are published as one message."""
        first = FeedId(run.tail.seq + 1, max(now, run.tail.ms))
        for payload in payloads:
            id = FeedId(run.tail.seq + 1, max(now, run.tail.ms))
            run.events.append((id, payload))
            if self.groups:
                self.log.append((name, id, payload))
        self.published.append((name, first, list(payloads)))

    def end(self, name: str, run: ModelRun, now: int, status: str, payload: bytes | Made, error: str | None) -> None:
        self.make(name, run, now, payload)
        run.status = status
        run.fields["ended"] = str(now)
        if error is not None:
            run.fields["error"] = error
        self.finish(name, run, now)

    def _end_late(self, name: str, run: ModelRun, now: int, status: str, payload: Made, error: str | None) -> None:
        """What time does to a run; one that is corrupt is looked at no more."""
        if run.broken:
            self.owners.pop(name, None)
            self.deadlines.pop(name, None)
        else:
            self.end(name, run, now, status, payload, error)

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
            self.make(name, run, now, Made("run.cancel_requested", reason))
            self.deadlines[name] = now + self.limits.grace_ms
        else:
            self.end(name, run, now, "cancelled", Made("run.cancelled", reason), None)
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
            self._end_late(name, run, now, "failed", made, '"its process stopped renewing"')
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
        elif "cancel" in run.fields and ("owner" in run.fields or not run.exec):
            reason = run.fields["cancel"][1:-1]
            self._end_late(name, run, now, "cancelled", Made("run.cancelled", reason, run.attempt), None)
        elif silent and not run.attempt and run.status != "queued":
            if run.tail.ms + silent <= now:
                made = Made("run.failed", "silent")
                self._end_late(name, run, now, "failed", made, '"nothing was heard of it"')
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
            if self._log_length > self.limits.log:
                self.room_in_log()
        return self.log_first - before
