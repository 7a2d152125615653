"""Accept -> form, with q-values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.negotiate import Form, choose

SSE, JSON, NDJSON = Form.SSE, Form.JSON, Form.NDJSON


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, JSON),
        ("", JSON),
        ("  ", JSON),
        ("*/*", JSON),
        ("*/*;q=0.1", JSON),
        ("text/html, */*;q=0.8", JSON),
        ("text/event-stream", SSE),
        ("Text/Event-Stream", SSE),
        ("text/event-stream; charset=utf-8", SSE),
        ("text/*", SSE),
        ("application/*", JSON),
        ("application/json", JSON),
        ("application/x-ndjson", NDJSON),
        ("application/x-ndjson, application/json", JSON),
        ("application/json, text/event-stream", SSE),
        ("application/x-ndjson,text/event-stream;q=0.9", NDJSON),
        ("application/json;q=0.5, application/x-ndjson;q=0.6", NDJSON),
        ("application/json, text/plain, */*", JSON),
        ("application/x-ndjson, */*", NDJSON),
        ("text/event-stream;q=0.5, */*", JSON),
        ("application/json;q=0, */*", SSE),
        ("application/json;q=0, text/event-stream;q=0, */*", NDJSON),
        ("application/*;q=0.2, application/json;q=0.1", NDJSON),
        ("text/event-stream;q=1.000", SSE),
        ("text/event-stream;q=0", None),
        ("*/*;q=0", None),
        ("text/html", None),
        ("text/event-streams", None),
        ("application/ndjson", None),
        ("garbage", None),
        ("text/event-stream;q=2", None),
        ("text/event-stream;q=", None),
        ("text/event-stream;q=x, application/json", JSON),
        (", ,application/json,", JSON),
        ("*/json", None),
    ],
)
def test_the_form_that_is_served(accept: str | None, expected: Form | None) -> None:
    """The heaviest; of equals a named one, then SSE, JSON, NDJSON; `*/*` or nothing means JSON."""
    assert choose(accept) is expected


@given(st.text(max_size=60))
def test_any_header_gets_an_answer(accept: str) -> None:
    """No text raises."""
    choose(accept)


@given(st.permutations([("text/event-stream", 3), ("application/json", 2), ("application/x-ndjson", 1)]))
def test_the_heaviest_wins_in_any_order(wishes: list[tuple[str, int]]) -> None:
    """The order inside the header does not matter."""
    assert choose(", ".join(f"{media};q=0.{weight}" for media, weight in wishes)) is SSE
