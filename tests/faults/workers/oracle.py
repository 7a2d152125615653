"""Whether work was done as promised: accepted runs against their feeds, the effects that they left, and what executed them.

No I/O and no library code: it must not share a mistake with what it judges.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["EFFECT", "FLOW", "MARK", "Begun", "Happened", "History", "judge", "judge_once", "lost_executions"]

MARK: Final = "shop.mark"  # a live event of a handler: {"n": from 1 in each attempt, "attempt"}
EFFECT: Final = "shop.effect"  # what a handler settles into a sink: {"run", "attempt"}
FLOW: Final = "tailrace.flow"  # the task that joins others
SHOWN = 5  # runs in each complaint
_ENDS = ("run.finished", "run.failed", "run.cancelled")


@dataclass(frozen=True, slots=True)
class Happened:
    """One event of a feed."""

    id: str  # `<seq>-<ms>`
    type: str
    attempt: int | None = None
    data: Any = None

    @classmethod
    def of(cls, id: bytes, payload: bytes) -> Happened:
        """From a feed's entry."""
        members = json.loads(b"{" + payload)
        return cls(id.decode(), members["type"], members.get("attempt"), members.get("data"))

    @property
    def seq(self) -> int:
        return int(self.id.partition("-")[0])

    @property
    def ms(self) -> int:
        return int(self.id.partition("-")[2])


@dataclass(frozen=True, slots=True)
class Begun:
    """The first line of a handler, as it journaled it itself."""

    run: str
    attempt: int
    who: str  # the consumer


@dataclass(frozen=True, slots=True)
class History:
    """All that is known when everything has come to rest."""

    accepted: Collection[str]  # runs that producers were told of
    feeds: Mapping[
        str, Sequence[Happened]
    ]  # of every run of a task; also of those whose producer died before it was told
    sinks: Mapping[str, Sequence[Happened]] = field(default_factory=dict)
    begun: Sequence[Begun] = ()
    left: Mapping[str, int] = field(default_factory=dict)  # what must be empty -> how much is in it
    ends: Mapping[str, str] = field(default_factory=dict)  # run -> type of its last event; others finish
    forgets: bool = False  # the server lost what it had acknowledged a moment before, as with everysec: starts among it


def judge(history: History) -> list[str]:
    """What is wrong; nothing if all was done once and nothing is left."""
    complaints = _list("lost: accepted, and nothing is known of", set(history.accepted) - set(history.feeds))
    for run, feed in {**history.feeds, **history.sinks}.items():
        complaints += _judge_numbers(run, feed)
    for run, feed in history.feeds.items():
        complaints += _judge_end(run, feed, history.ends.get(run, "run.finished"))
        complaints += _judge_attempts(run, feed)
        complaints += _judge_marks(run, feed)
    complaints += _judge_effects(history)
    complaints += _judge_begun(history)
    complaints += [f"{what} has {count} left in it" for what, count in sorted(history.left.items()) if count]
    return complaints


def judge_once(history: History, runs: Iterable[str]) -> list[str]:
    """Of these runs each was executed in a single attempt."""
    began = Counter(begun.run for begun in history.begun)
    complaints = []
    for run in runs:
        starts = sum(event.type == "run.started" for event in history.feeds.get(run, ()))
        if (starts, began[run]) != (1, 1):
            complaints.append(f"run {run} was started {starts} times, and its function was begun {began[run]} times")
    return complaints


def lost_executions(history: History) -> int:
    """How many executions were taken over from workers that were gone, or seemed to be."""
    return sum(
        event.type == "run.retrying" and event.data["reason"] == "owner_lost"
        for feed in history.feeds.values()
        for event in feed
    )


def _judge_numbers(run: str, feed: Sequence[Happened]) -> list[str]:
    """From 1 without holes, times that never go back."""
    complaints = []
    if [event.seq for event in feed] != list(range(1, len(feed) + 1)):
        complaints.append(f"run {run}: its feed is not numbered from 1 without holes: {[e.id for e in feed][:50]}")
    times = [event.ms for event in feed]
    if times != sorted(times):
        complaints.append(f"run {run}: times in its feed go back")
    return complaints


def _judge_end(run: str, feed: Sequence[Happened], wanted: str) -> list[str]:
    """It begins with run.queued, and ends once, with its last event, as it should."""
    if not feed or feed[0].type != "run.queued":
        return [f"run {run} does not begin with run.queued: {_shown(feed)}"]
    ends = [event for event in feed if event.type in _ENDS]
    if not ends:
        return [f"run {run} has not ended: {_shown(feed)}"]
    complaints = []
    if len(ends) > 1:
        complaints.append(f"run {run} ended {len(ends)} times: {_shown(ends)}")
    if feed[-1] is not ends[-1]:
        complaints.append(f"run {run}: events follow its end: {_shown(feed)}")
    if ends[0].type != wanted:
        complaints.append(f"run {run} ended with {ends[0].type} in place of {wanted}: {_shown(feed)}")
    return complaints


def _judge_attempts(run: str, feed: Sequence[Happened]) -> list[str]:
    """Attempts begin one after the other; nothing of an older one follows, nothing of one stands before its beginning."""
    complaints = []
    started = announced = 0
    for event in feed:
        if event.type == "run.started":
            if event.attempt != started + 1:
                complaints.append(f"run {run}: attempt {event.attempt} starts behind attempt {started}, at {event.id}")
            started = max(started, event.attempt or 0)
        elif event.type == "run.retrying":
            announced = max(announced, event.attempt or 0)
        elif event.attempt is not None:
            if event.attempt < max(started, announced):
                newer = max(started, announced)
                complaints.append(
                    f"run {run}: {event.type} of attempt {event.attempt} follows attempt {newer}, at {event.id}"
                )
            elif event.attempt > started:
                complaints.append(
                    f"run {run}: {event.type} of attempt {event.attempt} stands before its start, at {event.id}"
                )
    return complaints


def _judge_marks(run: str, feed: Sequence[Happened]) -> list[str]:
    """Live events: those of each attempt once, in order, under their attempt; all of them where the run finished."""
    complaints = []
    marks: dict[int, list[int]] = {}
    for event in feed:
        if event.type == MARK:
            marks.setdefault(event.data["attempt"], []).append(event.data["n"])
            if event.attempt != event.data["attempt"]:
                complaints.append(f"run {run}: an event of attempt {event.data['attempt']} bears {event.attempt}")
    for attempt, numbers in marks.items():
        if numbers != list(range(1, len(numbers) + 1)):
            complaints.append(f"run {run}: live events of attempt {attempt} are {numbers[:50]}")
    if feed and feed[-1].type == "run.finished":
        result = (feed[-1].data or {}).get("result")
        written = len(marks.get(feed[-1].attempt or 0, ()))
        if isinstance(result, dict) and result.get("marks") != written:
            complaints.append(
                f"run {run}: its last attempt wrote {result.get('marks')} live events, {written} are there"
            )
    return complaints


def _judge_effects(history: History) -> list[str]:
    """One of each run that finished, of the attempt that finished it; none of any other."""
    complaints = []
    effects: dict[str, list[int]] = {}
    for feed in history.sinks.values():
        for event in feed:
            if event.type == EFFECT:
                effects.setdefault(event.data["run"], []).append(event.data["attempt"])
    finished = {
        run: feed[-1]
        for run, feed in history.feeds.items()
        if feed and feed[-1].type == "run.finished" and not _is_flow(feed)
    }
    complaints += _list("lost: no effect was settled of", [run for run in finished if run not in effects])
    complaints += _list("doubled: effects of", [run for run, attempts in effects.items() if len(attempts) > 1])
    complaints += _list("an effect of what did not finish:", [run for run in effects if run not in finished])
    for run, end in finished.items():
        if end.attempt not in effects.get(run, [end.attempt]):
            complaints.append(f"run {run}: attempt {end.attempt} finished it, its effect is of {effects[run]}")
    return complaints


def _is_flow(feed: Sequence[Happened]) -> bool:
    """It joins others, and leaves nothing itself."""
    return isinstance(feed[0].data, dict) and feed[0].data.get("task") == FLOW


def _judge_begun(history: History) -> list[str]:
    """A function is begun once an attempt, and only behind its run.started. An attempt that the server forgot begins anew."""
    complaints = []
    for (run, attempt), count in Counter((begun.run, begun.attempt) for begun in history.begun).items():
        if count > 1 and not history.forgets:
            who = sorted({b.who for b in history.begun if (b.run, b.attempt) == (run, attempt)})
            complaints.append(f"run {run}: attempt {attempt} was begun {count} times, by {who}")
        starts = [event.attempt for event in history.feeds.get(run, ()) if event.type == "run.started"]
        if attempt not in starts:
            complaints.append(f"run {run}: attempt {attempt} was begun and never started: {starts}")
    return complaints


def _list(what: str, runs: Collection[str]) -> list[str]:
    some = sorted(runs)
    return [f"{what} {len(some)} runs: {', '.join(some[:SHOWN])}{' …' * (len(some) > SHOWN)}"] if some else []


def _shown(feed: Sequence[Happened]) -> str:
    words = [f"{e.type}/{e.attempt}" if e.attempt is not None else e.type for e in feed]
    return " ".join([*words[:6], f"… {len(words) - 12} …", *words[-6:]] if len(words) > 12 else words)
