"""What the model of a partition is made of: runs with their positions, groups, outcomes as scripts tell them, and the lifecycle."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from processor.core.cursor import FeedId
from processor.core.events import Draft

__all__ = [
    "ENDS",
    "TERMINAL",
    "Extras",
    "Group",
    "Made",
    "ModelRun",
    "Outcome",
    "Position",
    "WorkEntry",
    "expand",
    "extras_of",
    "made",
    "next_status",
    "same_outcomes",
]

ENDS = {"run.finished": "succeeded", "run.failed": "failed", "run.cancelled": "cancelled"}
TERMINAL = set(ENDS.values())


class Outcome(NamedTuple):
    """Of one event. id: feed ID, None where it is not known; detail: what stands behind other words."""

    word: str
    id: FeedId | None = None
    detail: str = ""
    attempt: int = 0  # of a run.started with a nonce


class Made(NamedTuple):
    """The payload of an event that a script makes itself."""

    type: str
    reason: str
    attempt: int = 0


class Position(NamedTuple):
    """Of one writer: the last number accepted, the IDs of what its last call appended, when that was."""

    number: int = 0
    ids: dict[int, FeedId] = {}  # noqa: RUF012  never changed
    time: int = 0


@dataclass
class WorkEntry:
    """A run that waits for a worker, or that one has in its hands."""

    run: str
    queued: FeedId
    payload: bytes
    id: str = ""  # the server's; learned after the call that added it
    consumer: str = ""  # which has it pending


@dataclass
class Group:
    delivered: int  # index of the last entry given out
    when_behind: str
    types: tuple[str, ...]
    pending: set[int] = field(default_factory=set)

    @property
    def needs(self) -> int:
        """The first entry that it has not both been given and acknowledged."""
        return min(self.pending, default=self.delivered + 1)


@dataclass
class ModelRun:
    status: str | None = None
    events: list[tuple[FeedId, bytes | Made]] = field(default_factory=list)
    first: int = 1  # lowest number still in the feed
    fields: dict[str, str] = field(default_factory=dict)  # of the hash, less status, tail and positions
    positions: dict[str, Position] = field(default_factory=dict)
    exec_position: Position = Position()  # noqa: RUF009  immutable
    feed_gone: bool = False  # a tombstone
    broken: bool = False  # hash and feed do not belong together
    honest: int = 0  # failed tries and lost owners, to compare `tries` with; no field of the hash

    @property
    def tail(self) -> FeedId:
        return self.events[-1][0] if self.events else FeedId(0, 0)

    def closed(self) -> Outcome:
        """What an event for it is told after its end."""
        return Outcome("closed", detail=f"{self.status} {self.tail}")

    @property
    def attempt(self) -> int:
        return int(self.fields.get("attempt", 0))

    @property
    def tries(self) -> int:
        return int(self.fields.get("tries", 0))

    @property
    def exec(self) -> str:
        return self.fields.get("exec", "")

    def id_of(self, position: Position, number: int) -> FeedId | None:
        found = position.ids.get(number)
        return None if found is None or self.feed_gone or self.broken or found.seq < self.first else found


def next_status(status: str | None, type: str, live: bool) -> str | None:
    """DESIGN 4 and WIRE 2, "Lifecycle from outside"; None: illegal."""
    active = status in ("queued", "running", "waiting")
    if type in ENDS:
        return ENDS[type] if active else None
    if type == "run.queued":
        return "queued" if status is None else None
    if type == "run.started":
        return "running" if status in (None, "queued") else None
    if type == "run.waiting":
        return "waiting" if status == "running" or (live and status == "waiting") else None
    if type == "run.resumed":
        return "running" if status == "waiting" else None
    if type == "run.retrying":
        return "queued" if live and status in ("running", "waiting") else None
    if type == "run.cancel_requested":
        return None
    return status if active else "running"


class Extras(NamedTuple):
    """What a lifecycle event brings beside its payload."""

    task: str = ""
    start: str = ""
    thread: str = ""
    delay: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    nonce: str = ""
    owner: str = ""
    ask: str = ""
    value: str = ""
    error: str = ""


def extras_of(draft: Draft) -> Extras:
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in draft.extras]
    if draft.type == "run.queued":
        task, start, thread, delay, _, *labels = texts
        return Extras(task, start, thread, int(delay), _pairs(labels))
    if draft.type == "run.started":
        nonce, owner, start, task, thread, _, *labels = texts
        return Extras(task, start, thread, 0, _pairs(labels), nonce, owner)
    if draft.type == "run.waiting":
        return Extras(ask=texts[0])
    if draft.type == "run.resumed":
        return Extras(texts[2], ask=texts[0], value=texts[1])
    if draft.type == "run.failed":
        return Extras(error=texts[0])
    return Extras()


def _pairs(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    return tuple(zip(texts[::2], texts[1::2], strict=True))


def expand(outcomes: Iterable[str]) -> list[Outcome]:
    """What append.lua answers for a batch, per event."""
    found: list[Outcome] = []
    for text in outcomes:
        word, *rest = text.split(" ")
        if word in ("appended", "duplicate"):
            count, id, attempt = int(rest[0]), rest[1], int(rest[2]) if len(rest) > 2 else 0
            first = None if id == "-" else FeedId.parse(id)
            ids = [first and FeedId(first.seq + i, first.ms) for i in range(count)]
            found += [Outcome(word, id, attempt=attempt) for id in ids]
        elif word in ("cancelling", "stored"):
            found.append(Outcome(word, detail=" ".join(rest)))
        else:
            found += [Outcome(word, detail=" ".join(rest[1:]))] * int(rest[0])
    return found


def same_outcomes(found: Sequence[Outcome], should: Sequence[Outcome]) -> bool:
    """`full` may name any of the groups that are in the way."""

    def settled(is_: Outcome, wanted: Outcome) -> Outcome:
        return is_ if wanted.word == "full" and is_.detail in wanted.detail.split("|") else wanted

    return len(found) == len(should) and all(
        is_ == settled(is_, wanted) for is_, wanted in zip(found, should, strict=True)
    )


def made(line: bytes) -> Made:
    event = json.loads(b"{" + line)
    assert set(event) <= {"type", "attempt", "data"}
    return Made(event["type"], event["data"].get("reason", ""), event.get("attempt", 0))
