"""Feed IDs and cursors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.cursor import ZERO, FeedId, parse_cursor
from processor.core.errors import BadCursor

SEQ, MS = st.integers(1, 10**16 - 1), st.integers(0, 10**16 - 1)


@given(SEQ, MS)
def test_a_feed_id_is_a_cursor(seq: int, ms: int) -> None:
    """An ID as it was sent comes back as the same two integers, from text as from bytes."""
    id = FeedId(seq, ms)
    assert parse_cursor(str(id)) == FeedId.parse(str(id).encode()) == id


@given(st.tuples(SEQ, MS), st.tuples(SEQ, MS))
def test_compared_as_two_integers(one: tuple[int, int], other: tuple[int, int]) -> None:
    """Order is that of the numbers, never that of the text."""
    assert (FeedId(*one) < FeedId(*other)) == (one < other)
    assert FeedId(9, 10**13) < FeedId(10, 1)


@pytest.mark.parametrize("text", [None, "", "0"])
def test_before_the_first(text: str | None) -> None:
    """Absent, empty and `0` mean before the first event."""
    assert parse_cursor(text) == ZERO


BAD = [
    "1",
    "0-0",
    "0-1",
    "01-5",
    "1-",
    "-1",
    "1-2-3",
    " 1-2",
    "1-2 ",
    "1-2\n",
    "+1-2",
    "1-+2",
    "$",
    "now",
    "00",
    "١-٢",
    "1_0-2",
]
BAD += [f"{10**16}-1", f"1-{10**16}", "1.0-2", "0x1-2", "null", "1–2"]


@pytest.mark.parametrize("text", BAD)
def test_nothing_else_is_valid(text: str) -> None:
    """Any other text is refused and named, with its field and a remedy."""
    with pytest.raises(BadCursor) as caught:
        parse_cursor(text, field="Last-Event-ID")
    assert (caught.value.field, caught.value.value, caught.value.code) == ("Last-Event-ID", text, "bad-cursor")
    assert caught.value.remedy


@given(st.text(max_size=30))
def test_any_text_is_a_cursor_or_refused(text: str) -> None:
    """Whatever comes, it is either an ID that reads as it came, or BadCursor."""
    try:
        cursor = parse_cursor(text)
    except BadCursor:
        return
    assert str(cursor) == text or (cursor == ZERO and text in ("", "0"))
