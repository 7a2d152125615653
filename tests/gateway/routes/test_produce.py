"""The producer headers: together or not at all, once each, in plain digits."""

from __future__ import annotations

import pytest

from gateway.core.problems import Problem
from gateway.routes.produce import Numbers, numbers_of

MOST = 2**53 - 1


def test_none_of_them_is_fine() -> None:
    """The gateway is the producer then."""
    assert numbers_of([], [], []) is None


@pytest.mark.parametrize(
    ("number", "prev", "expected"),
    [
        ("1", [], Numbers("p", 1, 0)),
        ("7", [], Numbers("p", 7, 6)),
        ("7", ["0"], Numbers("p", 7, 0)),
        ("7", ["6"], Numbers("p", 7, 6)),
        (str(MOST), [], Numbers("p", MOST, MOST - 1)),
    ],
)
def test_numbers(number: str, prev: list[str], expected: Numbers) -> None:
    """prev is the number before by default."""
    assert numbers_of(["p"], [number], prev) == expected


@pytest.mark.parametrize(
    ("producers", "numbers", "prevs", "field"),
    [
        (["p"], [], [], "Tailrace-Number"),
        ([], ["1"], [], "Tailrace-Producer"),
        ([], [], ["0"], "Tailrace-Producer"),
        (["p"], [], ["0"], "Tailrace-Number"),
        (["p", "p"], ["1"], [], "Tailrace-Producer"),
        (["p"], ["1", "1"], [], "Tailrace-Number"),
        (["p"], ["5"], ["4", "4"], "Tailrace-Prev"),
        ([""], ["1"], [], "Tailrace-Producer"),
        (["a b"], ["1"], [], "Tailrace-Producer"),
        (["a~b"], ["1"], [], "Tailrace-Producer"),
        (["x" * 129], ["1"], [], "Tailrace-Producer"),
        *[
            (["p"], [number], [], "Tailrace-Number")
            for number in ("", "0", "-1", "+1", "01", "1.0", "1e3", " 1", "0x1", "١", str(MOST + 1), "9" * 30)
        ],
        *[(["p"], ["5"], [prev], "Tailrace-Prev") for prev in ("", "-1", "5", "6", "04", "4.0", "x")],
        (["p"], ["1"], ["1"], "Tailrace-Prev"),
    ],
)
def test_bad_numbers(producers: list[str], numbers: list[str], prevs: list[str], field: str) -> None:
    """Repeated, malformed or alone: 400 bad-number names the header."""
    with pytest.raises(Problem) as caught:
        numbers_of(producers, numbers, prevs)
    assert (caught.value.status, caught.value.type, caught.value.field) == (400, "bad-number", field)
