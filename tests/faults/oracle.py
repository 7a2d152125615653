"""The oracle: what subscribers hold and what producers were told, against the feed itself, byte for byte.

No I/O and no library code: it must not share a mistake with what it judges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Accepted", "Gap", "Record", "Truth", "judge_accepted", "judge_record", "seq_of"]

SHOWN = 5  # of the IDs of each complaint
_MARK = re.compile(rb"mark:([A-Za-z0-9_-]+)/([0-9]+);")
Pair = tuple[str, bytes]  # feed ID, envelope


def seq_of(id: str) -> int:
    """Sequence number of a feed ID, or of the cursor 0."""
    return int(id.partition("-")[0])


@dataclass(frozen=True, slots=True)
class Gap:
    """What a reader was told it cannot have: numbers, both included."""

    first: int
    last: int
    reason: str


@dataclass(slots=True)
class Record:
    """What one subscriber holds of a run: everything behind `after`, less what it was told is missing."""

    name: str
    run: str
    after: str = "0"  # where it began
    events: list[Pair] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    restarts: int = 0  # how often it was told to forget all

    @property
    def cursor(self) -> str:
        return self.events[-1][0] if self.events else self.after

    def take(self, id: str, envelope: bytes) -> None:
        self.events.append((id, envelope))

    def tell(self, first: int, last: int, reason: str) -> None:
        """A gap: of what is rewritten or corrupt nothing is kept, the feed follows from its first event."""
        if reason in ("rewritten", "corrupt"):
            self.events.clear()
            self.gaps.clear()
            self.after = "0"
            self.restarts += 1
        else:
            self.gaps.append(Gap(first, last, reason))


@dataclass(frozen=True, slots=True)
class Truth:
    """A run's whole feed, with what was trimmed on the way: numbers up to `trimmed` are gone from the server."""

    run: str
    events: Sequence[Pair]
    trimmed: int = 0

    @classmethod
    def of(cls, run: str, entries: Iterable[tuple[bytes, Mapping[bytes, bytes]]], *, trimmed: int = 0) -> Truth:
        """From XRANGE. The envelope is composed here as WIRE 4 writes it."""
        events = []
        for raw, fields in entries:
            id = raw.decode()
            events.append((id, b'{"id":"%b","run":"%b",%b' % (raw, run.encode(), fields[b"e"])))
        return cls(run, events, trimmed)

    @property
    def tail(self) -> str:
        return self.events[-1][0] if self.events else "0"


def judge_truth(truth: Truth) -> list[str]:
    """Numbers from 1 without holes, times that never go back."""
    complaints = []
    ids = [id for id, _ in truth.events]
    seqs = [seq_of(id) for id in ids]
    if seqs != list(range(1, len(seqs) + 1)):
        complaints.append(f"run {truth.run}: its feed is not numbered from 1 without holes: {_some(ids)}")
    times = [int(id.partition("-")[2]) for id in ids]
    if times != sorted(times):
        complaints.append(f"run {truth.run}: times in its feed go back")
    return complaints


def judge_record(truth: Truth, record: Record) -> list[str]:
    """What is wrong with one subscriber's record; nothing if it equals the feed."""
    complaints = []
    missing: set[int] = set()
    for gap in record.gaps:
        missing.update(range(gap.first, gap.last + 1))
        if gap.reason != "trimmed" or gap.last > truth.trimmed:
            complaints.append(f"was told of {gap}, though only 1 to {truth.trimmed} were trimmed")
    begin = seq_of(record.after)
    due = [pair for pair in truth.events if seq_of(pair[0]) > begin and seq_of(pair[0]) not in missing]
    if record.events != due:
        complaints += _differences(due, record.events)
    return [f"subscriber {record.name} of run {record.run}: {complaint}" for complaint in complaints]


def _differences(due: Sequence[Pair], seen: Sequence[Pair]) -> list[str]:
    """Why two lists of events are not the same, with the first place where they part."""
    at = next((i for i, (a, b) in enumerate(zip(due, seen, strict=False)) if a != b), min(len(due), len(seen)))
    complaints = [
        f"parts from the feed at its event {at + 1} of {len(seen)}: {_shown(seen, at)} in place of {_shown(due, at)}"
    ]
    wanted, had = dict(due), Counter(id for id, _ in seen)
    for what, ids in {
        "lost": [id for id in wanted if id not in had],
        "doubled": [id for id, count in had.items() if count > 1],
        "not in the feed": [id for id in had if id not in wanted],
        "other bytes": [id for id, envelope in seen if id in wanted and wanted[id] != envelope],
        "out of order": [b for (a, _), (b, _) in pairwise(seen) if seq_of(b) < seq_of(a)],
    }.items():
        if ids:
            complaints.append(f"{len(ids)} {what}: {_some(ids)}")
    return complaints


def _shown(pairs: Sequence[Pair], at: int) -> str:
    return f"{pairs[at][0]} {pairs[at][1][:120]!r}" if at < len(pairs) else "nothing"


def _some(ids: Sequence[str]) -> str:
    return ", ".join(ids[:SHOWN]) + (" …" if len(ids) > SHOWN else "")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a producer was told of one of its events."""

    producer: str
    number: int  # of its mark, rising
    id: str | None  # None: accepted, the ID was not told (an older duplicate)


def judge_accepted(truth: Truth, told: Sequence[Accepted], *, loose: Collection[str] = ()) -> list[str]:
    """Each accepted event is in the feed once, under the ID that was told; each producer's events are in its order.

    What a producer was told nothing about may be there once, or not at all. loose: producers without numbers; what they
    were told nothing about may also come late, behind what they sent next by another gateway.
    """
    complaints = []
    found: dict[tuple[str, int], list[str]] = {}
    last: dict[str, int] = {}
    known = {(accepted.producer, accepted.number) for accepted in told}
    for id, envelope in truth.events:
        match = _MARK.search(envelope)
        if match is None:
            continue
        producer, number = match[1].decode(), int(match[2])
        found.setdefault((producer, number), []).append(id)
        if producer in loose and (producer, number) not in known:
            continue
        if number <= last.get(producer, 0):
            complaints.append(f"{producer}'s event {number} stands behind its {last[producer]}, at {id}")
        last[producer] = max(number, last.get(producer, 0))
    for accepted in told:
        ids = found.get((accepted.producer, accepted.number), [])
        what = f"{accepted.producer}'s event {accepted.number}, accepted as {accepted.id},"
        if not ids:
            complaints.append(f"{what} is not in the feed")
        elif accepted.id is not None and accepted.id not in ids:
            complaints.append(f"{what} is in the feed as {_some(ids)}")
    for (producer, number), ids in found.items():
        if len(ids) > 1:
            complaints.append(f"{producer}'s event {number} is in the feed {len(ids)} times: {_some(ids)}")
    return [f"run {truth.run}: {complaint}" for complaint in complaints]
