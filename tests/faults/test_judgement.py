"""The oracle catches what it is for: it was tried on every kind of mistake before it was believed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.oracle import Accepted, Pair, Record, Truth, judge_accepted, judge_record, judge_truth

RUN = "r"
ENTRIES = [(b"%d-1000" % n, {b"e": b'"type":"log","data":{"text":"mark:p/%d;"}}' % n}) for n in range(1, 9)]
TRUTH = Truth.of(RUN, ENTRIES)
TOLD = [Accepted("p", n, f"{n}-1000") for n in range(1, 9)]


def record(events: list[Pair], after: str = "0") -> Record:
    held = Record("s", RUN, after)
    held.events = events
    return held


def test_equal_records_pass() -> None:
    """A record that equals the feed, whole or behind a cursor, gives no complaint."""
    assert judge_truth(TRUTH) == []
    assert judge_record(TRUTH, record([*TRUTH.events])) == []
    assert judge_record(TRUTH, record([*TRUTH.events[5:]], after="5-1000")) == []
    assert judge_accepted(TRUTH, TOLD) == []


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda e: e[:3] + e[4:], "1 lost: 4-1000"),
        (lambda e: e[:-1], "1 lost: 8-1000"),
        (lambda e: e[1:], "1 lost: 1-1000"),
        (lambda e: [*e[:4], *e[3:]], "1 doubled: 4-1000"),
        (lambda e: [*e, e[-1]], "1 doubled: 8-1000"),
        (lambda e: [*e[:2], e[3], e[2], *e[4:]], "1 out of order: 3-1000"),
        (lambda e: [*e[:2], ("3-1000", e[2][1] + b" "), *e[3:]], "1 other bytes: 3-1000"),
        (lambda e: [*e, ("9-1000", b"{}")], "1 not in the feed: 9-1000"),
        (lambda e: [*e[:2], ("3-1001", e[2][1]), *e[3:]], "1 not in the feed: 3-1001"),
    ],
    ids=[
        "lost",
        "lost at the end",
        "lost at the start",
        "doubled",
        "doubled at the end",
        "swapped",
        "altered",
        "invented",
        "other time",
    ],
)
def test_spoilt_records_are_caught(spoil: Callable[[list[Pair]], list[Pair]], word: str) -> None:
    """One lost, doubled, swapped, altered or invented event is told with its ID and the place."""
    complaints = judge_record(TRUTH, record(spoil([*TRUTH.events])))
    assert any(word in complaint for complaint in complaints), complaints
    assert "parts from the feed at its event" in complaints[0]


def test_gaps_are_held_against_what_was_trimmed() -> None:
    """A told gap excuses exactly the events that were trimmed, and no others."""
    trimmed = Truth.of(RUN, ENTRIES, trimmed=4)
    held = record([*TRUTH.events[:2], *TRUTH.events[4:]])
    held.tell(3, 4, "trimmed")
    assert judge_record(trimmed, held) == []
    assert judge_record(TRUTH, held)
    held = record([*TRUTH.events[:2], *TRUTH.events[5:]])
    held.tell(3, 4, "trimmed")
    assert any("1 lost: 5-1000" in complaint for complaint in judge_record(trimmed, held))


def test_rewritten_begins_anew() -> None:
    """After a rewritten history only what follows counts."""
    held = record([("1-900", b"old"), ("2-900", b"old")], after="3-800")
    held.tell(1, 2, "rewritten")
    held.events.extend(TRUTH.events)
    assert held.restarts == 1
    assert judge_record(TRUTH, held) == []


def test_holes_in_a_feed_are_caught() -> None:
    """A feed whose numbers skip, or whose times go back, is no feed."""
    assert judge_truth(Truth.of(RUN, [*ENTRIES[:2], *ENTRIES[3:]]))
    assert judge_truth(Truth.of(RUN, [*ENTRIES[:2], (b"3-999", ENTRIES[2][1])]))


def test_broken_promises_to_producers_are_caught() -> None:
    """An accepted event that is lost, doubled, moved or stored under another ID is told."""
    gone = Truth.of(RUN, ENTRIES[:7])
    assert any("event 8, accepted as 8-1000, is not in the feed" in c for c in judge_accepted(gone, TOLD))
    twice = Truth.of(RUN, [*ENTRIES, (b"9-1000", ENTRIES[7][1])])
    assert any("event 8 is in the feed 2 times" in c for c in judge_accepted(twice, TOLD))
    swapped = Truth.of(RUN, [*ENTRIES[:6], (b"7-1000", ENTRIES[7][1]), (b"8-1000", ENTRIES[6][1])])
    assert any("event 7 stands behind its 8" in c for c in judge_accepted(swapped, []))
    assert any("is in the feed as 9-1" in c for c in judge_accepted(Truth.of(RUN, [(b"9-1", ENTRIES[7][1])]), TOLD[7:]))
    assert judge_accepted(TRUTH, TOLD[:4]) == []
    assert judge_accepted(swapped, [*TOLD[:6], Accepted("p", 8, "7-1000")], loose={"p"}) == []
