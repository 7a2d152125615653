"""What may be written as a rate or a limit, and where it is counted."""

from __future__ import annotations

import pytest

from processor.core.errors import BadInput
from processor.core.rate import Limit, Rate


@pytest.mark.parametrize(
    ("text", "count", "period_ms"),
    [
        ("60/min", 60, 60_000),
        ("90000/min", 90_000, 60_000),
        ("5/s", 5, 1_000),
        ("5/sec", 5, 1_000),
        ("5 / second", 5, 1_000),
        ("1/minute", 1, 60_000),
        ("1000/h", 1_000, 3_600_000),
        ("1000/hour", 1_000, 3_600_000),
        ("10000/day", 10_000, 86_400_000),
        ("1/d", 1, 86_400_000),
    ],
)
def test_rates_as_people_write_them(text: str, count: int, period_ms: int) -> None:
    """A count and a unit; as many as the count may come at once unless a burst is given."""
    rate = Rate(text)
    assert (rate.count, rate.period_ms, rate.burst) == (count, period_ms, count)
    assert rate.interval_ms == period_ms / count
    assert Rate(text, burst=1).burst == 1


@pytest.mark.parametrize(
    "text", ["", "60", "60/", "/min", "60/fortnight", "-1/s", "1.5/s", "1e3/s", "60/MIN", "60/min/h", None, 60]
)
def test_what_is_no_rate(text: object) -> None:
    """Anything else is refused with what can be written instead."""
    with pytest.raises(BadInput) as caught:
        Rate(text)  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"rate is {text!r}, which is no rate.\n"
        "  Give how many and in which time: 60/min, 5/s, 90000/min, 1000/h or 10000/day."
    )


@pytest.mark.parametrize("text", ["0/min", "100000001/s"])
def test_counts_have_bounds(text: str) -> None:
    """None at all is no rate, and the server's arithmetic ends at 100 million."""
    with pytest.raises(BadInput, match="from 1 to 100000000 are possible"):
        Rate(text)


@pytest.mark.parametrize("burst", [-1, 1.5, True, 100_000_001])
def test_bursts_are_whole_and_positive(burst: int) -> None:
    """A burst is a number of turns."""
    with pytest.raises(BadInput, match="how many may come at once"):
        Rate("60/min", burst=burst)


@pytest.mark.parametrize("at_most", [0, -1, 1.5, True, "3", 100_001])
def test_limits_are_whole_and_positive(at_most: int) -> None:
    """A limit is a number of places."""
    with pytest.raises(BadInput, match="how many may run at once"):
        Limit(at_most)


@pytest.mark.parametrize("kind", [lambda **more: Rate("1/s", **more), lambda **more: Limit(1, **more)])
def test_names_and_labels_are_checked(kind: type[Limit]) -> None:
    """A name is as other names are, and a label one that a run can have."""
    with pytest.raises(BadInput, match="Allowed"):
        kind(name="a b")  # type: ignore[call-arg]
    with pytest.raises(BadInput, match="Allowed"):
        kind(by="a:b")  # type: ignore[call-arg]


def test_where_it_is_counted() -> None:
    """By task or by name, and there by the label's value; nothing meets in one key that is not the same."""
    labels = {"user": "ada", "plan": "a=b:c"}
    kinds = [
        Rate("1/s"),
        Rate("1/s", by="user"),
        Rate("1/s", by="plan"),
        Rate("1/s", name="n"),
        Rate("1/s", "user", "n"),
    ]
    keys = {rate.key(task, labels) for rate in kinds for task in ("answer", "crawl", "n")}
    assert keys == {
        *("task:answer", "task:crawl", "task:n"),
        *("task:answer:user=ada", "task:crawl:user=ada", "task:n:user=ada"),
        *("task:answer:plan=a=b:c", "task:crawl:plan=a=b:c", "task:n:plan=a=b:c"),
        *("name:n", "name:n:user=ada"),
    }
    assert Limit(1, by="user").key("answer", {}) == "task:answer:user="


def test_what_a_task_may_be_given() -> None:
    """A text or a number will do, and nothing is nothing."""
    assert Rate.of("60/min") == Rate("60/min")
    assert Rate.of(Rate("60/min", by="user")) == Rate("60/min", by="user")
    assert Limit.of(3) == Limit(3)
    assert Limit.of(Limit(3, name="n")) == Limit(3, name="n")
    assert Rate.of(None) is None
    assert Limit.of(None) is None
