"""The oracle catches what it is for: it was tried on every kind of mistake before it was believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tests.faults.reactions.oracle import Fact, Group, History, Journaled, facts_of, judge, judge_alone, judge_once

A = [Fact("a", n) for n in (1, 2, 3, 4)]
B = [Fact("b", n) for n in (1, 2)]


def group(near: Sequence[Fact], far: Sequence[Fact], **more: object) -> Group:
    return replace(Group(near={"x": near}, far={"y": far}), **more)  # type: ignore[arg-type]


PLAIN = group([*A, *B], [A[1], B[1], A[3]], is_ordered=True)
SHARED = group([*B, *reversed(A)], [A[3], A[1], B[1]])
LETTERS = group([*A, B[0]], [A[1], A[3]], dead=[B[1]])
GOOD = History(
    accepted=[*A, *B],
    feeds={"a": [1, 2, 3, 4], "b": [1, 2]},
    groups={"o": PLAIN, "s": SHARED, "d": LETTERS},
    journal=[Journaled("o", "a", n, what, "w") for n in (1, 2) for what in ("begins", "ends")],
    left={"pending": 0},
    dead={"d": [B[1]]},
)


def ordered(near: Sequence[Fact], far: Sequence[Fact]) -> History:
    return replace(GOOD, groups={**GOOD.groups, "o": group(near, far, is_ordered=True)})


def letters(**more: object) -> History:
    return replace(GOOD, groups={**GOOD.groups, "d": replace(LETTERS, **more)})  # type: ignore[arg-type]


def test_good_histories_pass() -> None:
    """Facts that each group handled once, in any order where it has none, or gave up as it should, give no complaint."""
    assert judge(GOOD) == []
    assert judge_once(GOOD, "o", A[:2]) == []
    assert judge_alone(GOOD, "o") == []


def test_unanswered_facts_count_once_they_are_there() -> None:
    """A fact that no producer was told of is handled like any other if it is in its feed."""
    assert judge(replace(GOOD, accepted=A)) == []
    more = replace(GOOD, feeds={**GOOD.feeds, "b": [1, 2, 3]})
    assert any("group o: lost: no near effect of 1 facts: b/3" in complaint for complaint in judge(more))
    assert judge(replace(more, unhandled={key: [Fact("b", 3)] for key in GOOD.groups})) == []


BAD: dict[str, tuple[Callable[[], History], str]] = {
    "fact lost": (
        lambda: replace(GOOD, accepted=[*A, *B, Fact("b", 3)]),
        "accepted, and not in its feed: 1 facts: b/3",
    ),
    "fact doubled": (
        lambda: replace(GOOD, feeds={**GOOD.feeds, "b": [1, 2, 2]}),
        "doubled in their feeds: 1 facts: b/2",
    ),
    "facts swapped": (
        lambda: replace(GOOD, feeds={**GOOD.feeds, "b": [2, 1]}),
        "run b: its facts stand in another order",
    ),
    "feed broken": (lambda: replace(GOOD, broken=["b"]), "feed of b is not numbered"),
    "effect lost": (lambda: ordered([*A, B[0]], [A[1], A[3]]), "group o: lost: no near effect of 1 facts: b/2"),
    "far effect lost": (lambda: ordered([*A, *B], [A[1], A[3]]), "group o: lost: no far effect of 1 facts: b/2"),
    "one without the other": (lambda: ordered([*A, *B], [A[1], A[3]]), "one effect without the other, of 1 facts: b/2"),
    "effect doubled": (lambda: ordered([*A, *B, B[0]], [A[1], A[3], B[1]]), "doubled: near effects of 1 facts: b/1"),
    "far effect doubled": (lambda: ordered([*A, *B], [A[1], A[3], B[1], B[1]]), "doubled: far effects of 1 facts: b/2"),
    "out of order": (
        lambda: ordered([A[1], A[0], *A[2:], *B], [A[1], A[3], B[1]]),
        "out of order in x: 2 of run a stands before 1",
    ),
    "out of order far away": (
        lambda: ordered([*A, *B], [A[3], A[1], B[1]]),
        "out of order in y: 4 of run a stands before 2",
    ),
    "effect of nothing": (
        lambda: ordered([*A, *B, Fact("z", 1)], [A[1], A[3], B[1]]),
        "what is in no feed: 1 facts: z/1",
    ),
    "letter missing": (lambda: letters(dead=[]), "group d: given up without a dead letter: 1 facts: b/2"),
    "letter doubled": (lambda: letters(dead=[B[1], B[1]]), "more than one dead letter of 1 facts: b/2"),
    "letter of the innocent": (lambda: replace(GOOD, dead={}), "dead letters that should not be: 1 facts: b/2"),
    "letter and effect": (lambda: letters(near={"x": [*A, *B]}), "effects of what was given up: 1 facts: b/2"),
    "work left": (lambda: replace(GOOD, left={"pending": 2}), "pending has 2 left in it"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_histories_are_caught(name: str) -> None:
    """Each kind of lost, doubled, late or left reaction is told with the group and the fact."""
    spoil, words = BAD[name]
    complaints = judge(spoil())
    assert any(words in complaint for complaint in complaints), complaints


def test_second_calls_are_caught() -> None:
    """A handler that was to be called once, and was called again or never, is told."""
    again = replace(GOOD, journal=[*GOOD.journal, Journaled("o", "a", 1, "begins", "w")])
    assert judge_once(again, "o", A[:1])
    assert judge_once(GOOD, "o", A[2:3])


def test_calls_at_the_same_time_are_caught() -> None:
    """Two handlers of one run that overlap are told; those of other runs and groups may."""
    lines = [
        Journaled("o", "a", 1, "begins", "w"),
        Journaled("o", "b", 1, "begins", "w"),
        Journaled("s", "a", 2, "begins", "w"),
    ]
    assert judge_alone(replace(GOOD, journal=lines), "o") == []
    assert judge_alone(replace(GOOD, journal=[*lines, Journaled("o", "a", 2, "begins", "v")]), "o")


def test_facts_are_read_as_they_are_stored() -> None:
    """Entries of a feed give the data of the events that are asked for."""
    entries = [
        (b"1-1", {b"e": b'"type":"shop.fact","data":{"n":1}}'}),
        (b"2-1", {b"e": b'"type":"log","data":{"n":2}}'}),
    ]
    assert facts_of(entries, "shop.") == [{"n": 1}]
