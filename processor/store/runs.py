"""Reading: a run's state, lists of runs, pages of a feed."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from processor.core.cursor import FeedId
from processor.core.errors import BadInput
from processor.core.json import loads
from processor.core.lifecycle import TERMINAL, Status
from processor.core.waiting import why_queued
from processor.store.connection import execute, uncancelled
from processor.store.lag import read_lags
from processor.store.space import Space

__all__ = [
    "RunState",
    "Space",
    "list_runs",
    "read_active",
    "read_feed",
    "read_latest",
    "read_state",
    "read_states",
    "read_tail",
    "rfc3339",
]

_PAGE: Final = 200


def rfc3339(ms: int) -> str:
    """UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class RunState:
    """Where a run stands. Times in milliseconds since 1970, by the server's clock."""

    run: str
    status: Status
    attempt: int = 0  # 0 while nothing executed it
    task: str | None = None
    thread: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    tail: str | None = None  # ID of its last event
    created: int = 0
    updated: int = 0
    ended: int | None = None
    error: str | None = None
    ask: str | None = None  # the open one
    due: int | None = None  # before which a queued run does not run
    waiting_for: str | None = None  # why nothing happens, in words
    cancel: str | None = None  # the reason that a cancel gave, while one is asked for
    owner: str | None = None  # of an execution without a worker
    exec: str | None = None
    start: str | None = None  # SHA-256 of task and input
    prev: str | None = None  # the run before it in its thread

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    def json(self) -> dict[str, Any]:
        """As WIRE 5 has it: absent members left out, times RFC 3339."""
        members: dict[str, Any] = {
            "run": self.run,
            "status": self.status,
            "attempt": self.attempt,
            "task": self.task,
            "thread": self.thread,
            "labels": dict(self.labels),
            "tail": self.tail,
            "created": rfc3339(self.created),
            "updated": rfc3339(self.updated),
            "ended": rfc3339(self.ended) if self.ended is not None else None,
            "error": self.error,
            "ask": self.ask,
            "waiting_for": self.waiting_for,
        }
        return {name: value for name, value in members.items() if value is not None}


def _state_of(run: str, fields: Mapping[str, str]) -> RunState:
    status: Status = fields["status"]  # type: ignore[assignment]  # the scripts write no other
    tail = fields.get("tail")
    created = int(fields.get("created", 0))
    error = fields.get("error")
    text = loads(error) if error else None
    return RunState(
        run=run,
        status=status,
        attempt=int(fields.get("attempt", 0)),
        task=fields.get("task"),
        thread=fields.get("thread"),
        labels={name[2:]: value for name, value in fields.items() if name.startswith("l:")},
        tail=tail,
        created=created,
        updated=FeedId.parse(tail).ms if tail else created,
        ended=int(fields["ended"]) if "ended" in fields else None,
        error=text if isinstance(text, str) or text is None else error,
        ask=fields.get("ask", "") if status == "waiting" else None,
        due=int(float(fields["due"])) if status == "queued" and "due" in fields else None,
        waiting_for=_waiting_for(status, fields),
        cancel=loads(fields["cancel"]) if "cancel" in fields else None,
        owner=fields.get("owner"),
        exec=fields.get("exec"),
        start=fields.get("start"),
        prev=fields.get("prev"),
    )


def _waiting_for(status: str, fields: Mapping[str, str]) -> str | None:
    """Why nothing happens, as far as the run's own hash tells it."""
    if status == "waiting":
        return f'an answer to ask "{fields.get("ask", "")}"' if fields.get("ask") else "an answer"
    if status == "queued" and fields.get("owner"):
        return "its next try, in the process that runs it"
    return None


async def _explained(space: Space, states: Sequence[RunState]) -> list[RunState]:
    """The same, with what queued runs wait for. One round trip more where there are any, however many."""
    streams = {
        state.run: space.keys.of(state.run).work(state.task)
        for state in states
        if state.status == "queued" and state.waiting_for is None and state.task
    }
    if not streams:
        return list(states)
    workers, lags = await read_lags(space, streams.values())

    def explained(state: RunState) -> RunState:
        if state.run not in streams or state.task is None:
            return state
        why = why_queued(
            state.task,
            due=state.due,
            tried=state.attempt > 0,
            refused=state.exec is not None,  # "": an execution was taken from it, or put off
            lag=lags[streams[state.run]],
            workers=workers,
        )
        return replace(state, waiting_for=why)

    return [explained(state) for state in states]


def _decoded(reply: Sequence[bytes]) -> dict[str, str]:
    texts = [item.decode("utf-8", "surrogateescape") for item in reply]
    return dict(zip(texts[::2], texts[1::2], strict=True))


async def read_state(space: Space, run: str) -> RunState | None:
    """None for an unknown run."""
    (state,) = await read_states(space, [run])
    return (await _explained(space, [state]))[0] if state is not None else None


async def read_states(space: Space, runs: Sequence[str]) -> list[RunState | None]:
    """In the order asked for; one round trip. What a queued run waits for stands not in its hash, and is left out."""
    if not runs:
        return []
    async with space.redis.pipeline(transaction=False) as pipe:
        for run in runs:
            pipe.execute_command("HGETALL", space.keys.of(run).run(run))
        replies = await uncancelled(pipe.execute())
    states: list[RunState | None] = []
    for run, reply in zip(runs, replies, strict=True):
        fields = (
            {k.decode(): v.decode("utf-8", "surrogateescape") for k, v in reply.items()}
            if isinstance(reply, dict)
            else _decoded(reply)
        )
        states.append(_state_of(run, fields) if "status" in fields else None)
    return states


async def read_tail(space: Space, run: str) -> tuple[str, str] | None:
    """(status, last feed ID) of a run; None if it is unknown."""
    status, tail = await execute(space.redis, "HMGET", space.keys.of(run).run(run), "status", "tail")
    return (status.decode(), tail.decode()) if status and tail else None


async def read_active(space: Space, thread: str) -> str | None:
    """The run of a thread that is in progress."""
    active = await execute(space.redis, "HGET", space.keys.of(thread).thread(thread), "active")
    return active.decode() if active else None


async def read_latest(space: Space, thread: str) -> str | None:
    """The run of a thread that began last."""
    latest = await execute(space.redis, "HGET", space.keys.of(thread).thread(thread), "latest")
    return latest.decode() if latest else None


async def read_feed(
    space: Space, run: str, first: int, *, last: int | None = None, count: int = 500
) -> list[tuple[FeedId, bytes]]:
    """(ID, payload) of at most `count` events, from number `first` to `last`, both included."""
    end = f"{last}-{(1 << 63) - 1}" if last is not None else "+"
    reply = await execute(space.redis, "XRANGE", space.keys.of(run).feed(run), str(first), end, "COUNT", count)
    return [(FeedId.parse(id), _payload(fields)) for id, fields in reply]


def _payload(fields: Any) -> bytes:
    payload: bytes = fields[b"e"] if isinstance(fields, dict) else fields[1]
    return payload


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a listing goes on: behind (score, run), newest first."""

    score: float
    run: str

    def text(self) -> str:
        return base64.urlsafe_b64encode(f"{self.score:.0f} {self.run}".encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> _Place:
        try:
            score, run = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().split(" ")
            return cls(float(int(score)), run)
        except ValueError as error:
            raise BadInput(
                f"after is {text[:200]!r}, which no listing gave.",
                remedy="Give `next` of the page before, as it came, or nothing.",
                field="after",
                value=text,
            ) from error


def _matches(state: RunState, status: str | None, task: str | None, labels: Mapping[str, str]) -> bool:
    return (
        (status is None or state.status == status)
        and (task is None or state.task == task)
        and all(state.labels.get(name) == value for name, value in labels.items())
    )


async def list_runs(
    space: Space,
    *,
    status: str | None = None,
    task: str | None = None,
    labels: Mapping[str, str] | None = None,
    after: str | None = None,
    limit: int = 50,
) -> tuple[list[RunState], str | None]:
    """Newest lifecycle change first. Returns a page and where the next one begins, None at the end.

    after: `next` of the page before. Raises BadInput.
    """
    place = _Place.parse(after) if after else None
    found: list[RunState] = []
    while True:
        page = await _index_page(space, place)
        states = await read_states(space, [run for _, run in page])
        for (score, run), state in zip(page, states, strict=True):
            place = _Place(score, run)
            # A run that expired is still in the index until `expire` comes by.
            if state is not None and _matches(state, status, task, labels or {}):
                found.append(state)
                if len(found) == limit:
                    return await _explained(space, found), place.text()
        if len(page) < _PAGE:
            return await _explained(space, found), None


async def _index_page(space: Space, place: _Place | None) -> list[tuple[float, str]]:
    """The next runs of all partitions' indexes behind a place, newest first, names downwards within a millisecond."""
    highest = f"{place.score:.0f}" if place else "+inf"

    async def of_partition(index: str) -> list[tuple[float, str]]:
        start, found = 0, []
        while True:
            reply = await execute(
                space.redis, "ZREVRANGEBYSCORE", index, highest, "-inf", "WITHSCORES", "LIMIT", start, _PAGE
            )
            pairs = _scored(reply)
            found += [(s, r) for s, r in pairs if place is None or (s, r) < (place.score, place.run)]
            start += _PAGE
            if len(pairs) < _PAGE or len(found) >= _PAGE:
                return found

    pages = await asyncio.gather(*(of_partition(partition.index) for partition in space.keys.partitions))
    return sorted((pair for page in pages for pair in page), reverse=True)[:_PAGE]


def _scored(reply: Sequence[Any]) -> list[tuple[float, str]]:
    if reply and isinstance(reply[0], (tuple, list)):
        return [(float(score), run.decode()) for run, score in reply]
    return [(float(score), run.decode()) for run, score in zip(reply[::2], reply[1::2], strict=True)]
