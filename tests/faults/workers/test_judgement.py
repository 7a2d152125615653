"""The oracle catches what it is for: it was tried on every kind of mistake before it was believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.workers.oracle import EFFECT, MARK, Begun, Happened, History, judge, judge_once

Feed = list[Happened]


def numbered(*events: tuple[str, int | None, Any]) -> Feed:
    return [Happened(f"{n}-1000", *event) for n, event in enumerate(events, 1)]


def mark(attempt: int, n: int) -> tuple[str, int | None, Any]:
    return MARK, attempt, {"n": n, "attempt": attempt}


QUEUED: tuple[str, int | None, Any] = ("run.queued", None, {})


def started(attempt: int) -> tuple[str, int | None, Any]:
    return "run.started", attempt, {}


def retrying(attempt: int) -> tuple[str, int | None, Any]:
    return "run.retrying", attempt, {"reason": "owner_lost"}


def finished(attempt: int, marks: int) -> tuple[str, int | None, Any]:
    return "run.finished", attempt, {"result": {"marks": marks}}


PLAIN = (QUEUED, started(1), mark(1, 1), mark(1, 2), finished(1, 2))
TAKEN_OVER = (QUEUED, started(1), mark(1, 1), retrying(2), started(2), mark(2, 1), mark(2, 2), finished(2, 2))
FAILED = (QUEUED, started(1), mark(1, 1), ("run.failed", 1, {"reason": "poison"}))


def effect(run: str, attempt: int) -> tuple[str, int | None, Any]:
    return EFFECT, None, {"run": run, "attempt": attempt}


GOOD = History(
    accepted=["a", "b", "c"],
    feeds={"a": numbered(*PLAIN), "b": numbered(*TAKEN_OVER), "c": numbered(*FAILED)},
    sinks={"s": numbered(effect("b", 2), effect("a", 1))},
    begun=[Begun("a", 1, "w1"), Begun("b", 1, "w1"), Begun("b", 2, "w2"), Begun("c", 1, "w2")],
    left={"work": 0},
    ends={"c": "run.failed"},
)


def of_a(*events: tuple[str, int | None, Any]) -> History:
    return replace(GOOD, feeds={**GOOD.feeds, "a": numbered(*events)})


def of_b(*events: tuple[str, int | None, Any]) -> History:
    return replace(GOOD, feeds={**GOOD.feeds, "b": numbered(*events)})


def sinks(*events: tuple[str, int | None, Any]) -> History:
    return replace(GOOD, sinks={"s": numbered(*events)})


def test_good_histories_pass() -> None:
    """Runs that were executed, taken over and given up as they should be give no complaint."""
    assert judge(GOOD) == []
    assert judge_once(GOOD, ["a", "c"]) == []


def test_unanswered_start_may_be_there_or_not() -> None:
    """A run whose producer died before it was told is judged like any other, and not missed where it is absent."""
    assert judge(replace(GOOD, accepted=["a", "c"])) == []
    extra = replace(GOOD, feeds={**GOOD.feeds, "d": numbered(QUEUED)})
    assert judge(extra) == ["run d has not ended: run.queued"]


BAD: dict[str, tuple[Callable[[], History], str]] = {
    "lost": (lambda: replace(GOOD, accepted=["a", "b", "c", "d"]), "nothing is known of 1 runs: d"),
    "never ended": (lambda: of_a(*PLAIN[:-1]), "run a has not ended"),
    "never queued": (lambda: of_a(*PLAIN[1:]), "run a does not begin with run.queued"),
    "ended twice": (lambda: of_a(*PLAIN, ("run.failed", 1, {})), "run a ended 2 times"),
    "goes on behind its end": (lambda: of_a(*PLAIN, mark(1, 3)), "events follow its end"),
    "ended otherwise": (
        lambda: of_a(*PLAIN[:-1], ("run.cancelled", 1, {})),
        "with run.cancelled in place of run.finished",
    ),
    "ended well": (lambda: replace(GOOD, ends={}), "run c ended with run.failed in place of run.finished"),
    "attempt skipped": (lambda: of_b(*TAKEN_OVER[:4], started(3), finished(3, 0)), "attempt 3 starts behind attempt 1"),
    "attempt repeated": (
        lambda: of_b(*TAKEN_OVER[:4], started(1), finished(1, 0)),
        "attempt 1 starts behind attempt 1",
    ),
    "old event": (
        lambda: of_b(*TAKEN_OVER[:5], mark(1, 2), *TAKEN_OVER[5:]),
        f"{MARK} of attempt 1 follows attempt 2, at 6-1000",
    ),
    "old end": (lambda: of_b(*TAKEN_OVER[:-1], finished(1, 1)), "run.finished of attempt 1 follows attempt 2"),
    "old event before the next start": (
        lambda: of_b(*TAKEN_OVER[:4], mark(1, 2), *TAKEN_OVER[4:]),
        "of attempt 1 follows attempt 2, at 5-1000",
    ),
    "early event": (lambda: of_a(QUEUED, mark(1, 1), *PLAIN[1:]), "of attempt 1 stands before its start, at 2-1000"),
    "live event lost": (lambda: of_a(*PLAIN[:2], *PLAIN[3:]), "live events of attempt 1 are [2]"),
    "live event doubled": (lambda: of_a(*PLAIN[:3], *PLAIN[2:]), "live events of attempt 1 are [1, 1, 2]"),
    "last live event lost": (lambda: of_a(*PLAIN[:3], PLAIN[-1]), "wrote 2 live events, 1 are there"),
    "live event under another attempt": (
        lambda: of_b(*TAKEN_OVER[:6], (MARK, 2, {"n": 2, "attempt": 1}), *TAKEN_OVER[7:]),
        "an event of attempt 1 bears 2",
    ),
    "effect lost": (lambda: sinks(effect("a", 1)), "no effect was settled of 1 runs: b"),
    "effect doubled": (lambda: sinks(effect("a", 1), effect("b", 2), effect("a", 1)), "effects of 1 runs: a"),
    "effect doubled by two attempts": (
        lambda: sinks(effect("a", 1), effect("b", 1), effect("b", 2)),
        "effects of 1 runs: b",
    ),
    "effect of the old attempt": (
        lambda: sinks(effect("a", 1), effect("b", 1)),
        "attempt 2 finished it, its effect is of [1]",
    ),
    "effect of a failure": (lambda: sinks(effect("a", 1), effect("b", 2), effect("c", 1)), "did not finish: 1 runs: c"),
    "effect of nobody": (lambda: sinks(effect("a", 1), effect("b", 2), effect("z", 1)), "did not finish: 1 runs: z"),
    "begun twice": (
        lambda: replace(GOOD, begun=[*GOOD.begun, Begun("a", 1, "w3")]),
        "run a: attempt 1 was begun 2 times, by ['w1', 'w3']",
    ),
    "begun without a start": (
        lambda: replace(GOOD, begun=[*GOOD.begun, Begun("a", 2, "w3")]),
        "attempt 2 was begun and never started: [1]",
    ),
    "work left": (lambda: replace(GOOD, left={"work": 2}), "work has 2 left in it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_caught(name: str) -> None:
    """Each kind of lost, doubled, late or left work is told with the run and the place."""
    spoil, words = BAD[name]
    complaints = judge(spoil())
    assert any(words in complaint for complaint in complaints), complaints


def test_holes_in_any_feed_are_caught() -> None:
    """Numbers that skip or times that go back are told, in sinks too."""
    skipping = [*numbered(*PLAIN[:2]), Happened("4-1000", *PLAIN[4])]
    assert any(
        "run a: its feed is not numbered" in c for c in judge(replace(GOOD, feeds={**GOOD.feeds, "a": skipping}))
    )
    late = [Happened("1-1000", *effect("a", 1)), Happened("2-999", *effect("b", 2))]
    assert judge(replace(GOOD, sinks={"s": late})) == ["run s: times in its feed go back"]


def test_second_executions_are_caught() -> None:
    """A run that was to be executed once and was taken over, or whose function was begun twice, is told."""
    assert judge_once(GOOD, ["b"]) == ["run b was started 2 times, and its function was begun 2 times"]
    assert judge_once(replace(GOOD, begun=[*GOOD.begun, Begun("a", 1, "w3")]), ["a"])


def test_forgotten_attempts_begin_anew() -> None:
    """Where the server forgot a start, the same attempt may be begun once more; its effect still lands once."""
    again = replace(GOOD, begun=[*GOOD.begun, Begun("a", 1, "w3")], forgets=True)
    assert judge(again) == []
    twice = replace(again, sinks={"s": numbered(effect("a", 1), effect("b", 2), effect("a", 1))})
    assert judge(twice) == ["doubled: effects of 1 runs: a"]


def test_events_are_read_as_they_are_stored() -> None:
    """A feed's entry gives its number, time, type, attempt and data."""
    event = Happened.of(b"7-1234", b'"type":"shop.mark","attempt":2,"data":{"n":1}}')
    assert (event.seq, event.ms, event.type, event.attempt, event.data) == (7, 1234, MARK, 2, {"n": 1})
