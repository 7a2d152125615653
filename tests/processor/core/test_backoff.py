"""When a failed try may be tried again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.backoff import Retry, RetryLater, retry_delay_ms
from processor.core.errors import BadInput
from processor.core.ulid import ulid

tries, draws = st.integers(1, 10_000), st.floats(0, 1, exclude_max=True)
ms = st.integers(0, 10**9)


@given(tries, draws, ms, ms)
def test_within_the_bound(count: int, draw: float, base: int, cap: int) -> None:
    """The delay is a whole number from 0 to the cap and to the base doubled with each try."""
    delay = retry_delay_ms(count, draw, base_ms=base, cap_ms=cap)
    assert isinstance(delay, int)
    assert 0 <= delay <= min(cap, base * 2 ** (count - 1))


@given(tries, draws, draws, ms, ms)
def test_a_higher_draw_waits_no_less(count: int, one: float, other: float, base: int, cap: int) -> None:
    """Equal arguments give equal delays, and the delay rises with the draw over the whole range."""
    low, high = sorted((one, other))
    assert retry_delay_ms(count, low, base_ms=base, cap_ms=cap) <= retry_delay_ms(count, high, base_ms=base, cap_ms=cap)
    assert retry_delay_ms(count, 0, base_ms=base, cap_ms=cap) == 0
    assert retry_delay_ms(1, 1 - 2**-53, base_ms=1000, cap_ms=10**6) == 1000


def test_tries_count_from_one() -> None:
    """No try at all has no delay."""
    with pytest.raises(ValueError, match="counts from 1"):
        retry_delay_ms(0, 0.5, base_ms=1, cap_ms=1)


def test_retry_in_seconds() -> None:
    """`Retry` says the same in seconds."""
    assert Retry(base_seconds=2, cap_seconds=5).delay_seconds(2, 0.5) == pytest.approx(2.0, abs=0.01)
    assert Retry(base_seconds=2, cap_seconds=5).delay_seconds(9, 0.999999) <= 5
    assert RetryLater(1.5).seconds == 1.5


def test_ulids_sort_by_time_and_differ() -> None:
    """26 characters of the alphabet, all different, in the order of the milliseconds in which they were made."""
    made = [ulid() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(len(one) == 26 and set(one) <= set("0123456789abcdefghjkmnpqrstvwxyz") for one in made)
    assert [one[:10] for one in made] == sorted(one[:10] for one in made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": "3"},
        {"attempts": 0},
        {"attempts": True},
        {"attempts": 1.5},
        {"base_seconds": "1s"},
        {"cap_seconds": -1},
        {"cap_seconds": float("inf")},
        {"never": "ValueError"},
        {"never": ("ValueError",)},
    ],
)
def test_what_makes_no_sense_is_told_where_it_is_written(wrong: dict[str, Any]) -> None:
    """A worker would meet it with a failed try in hands, and could not judge it."""
    [name] = wrong
    with pytest.raises(BadInput, match=f"Retry: {name} is "):
        Retry(**wrong)
    assert Retry(never=ValueError).never is ValueError  # type: ignore[arg-type, comparison-overlap]
