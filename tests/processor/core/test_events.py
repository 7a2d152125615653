"""Events: what producers compose and readers hold."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor.core.cursor import FeedId
from processor.core.events import Event, compose, draft, envelope, gap_event, is_increment, payload_type

words = st.text("abcdefXYZ019_-", min_size=1, max_size=8)
types = st.lists(words, min_size=1, max_size=3).map(".".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
labels = st.dictionaries(words, st.text(max_size=10), max_size=3)
traces = st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@given(types, values, st.integers(0, 9), labels, traces, st.integers(1, 10**9), st.integers(0, 10**13))
def test_an_envelope_holds_what_was_composed(
    type: str, value: object, attempt: int, named: dict[str, str], trace: str | None, seq: int, ms: int
) -> None:
    """An envelope is one line of JSON, members in their order, absent ones left out, data as the bytes that came."""
    data = orjson.dumps(value)
    payload = compose(type, data, attempt=attempt, labels=named, traceparent=trace)
    raw = envelope("r~1", FeedId(seq, ms), payload)
    assert b"\n" not in raw
    assert b"\r" not in raw
    present = {"attempt": attempt, "labels": named, "traceparent": trace}
    expected = {
        "id": f"{seq}-{ms}",
        "run": "r~1",
        "type": type,
        **{k: v for k, v in present.items() if v},
        "data": value,
    }
    assert list(json.loads(raw).items()) == list(expected.items())
    assert raw.endswith(b'"data":%b}' % data)
    assert payload_type(payload) == type


@given(types, values, st.integers(0, 9), labels, st.integers(1, 10**9), st.integers(0, 10**12))
def test_an_event_reads_its_payload(
    type: str, value: object, attempt: int, named: dict[str, str], seq: int, ms: int
) -> None:
    """An event gives back type, data, attempt, labels, number, time and the envelope's bytes."""
    payload = compose(type, orjson.dumps(value), attempt=attempt, labels=named)
    event: Event[object] = Event("run", FeedId(seq, ms), payload)
    assert (event.id, event.seq, event.run, event.type) == (f"{seq}-{ms}", seq, "run", type)
    assert (event.data, event.attempt, event.labels) == (value, attempt or None, named)
    assert event.time == datetime.fromtimestamp(ms / 1000, UTC)
    assert event.raw == envelope("run", FeedId(seq, ms), payload)


@pytest.mark.parametrize("type", ["message.delta", "reasoning.delta", "x.delta", "tool.args", "log"])
def test_increments(type: str) -> None:
    """Increments are `*.delta`, `tool.args` and `log`."""
    assert is_increment(type)


@pytest.mark.parametrize(
    "type", ["delta", "message.deltas", "message.started", "tool.args.x", "logs", "my.log", "run.started"]
)
def test_facts(type: str) -> None:
    """Everything else is a fact."""
    assert not is_increment(type)


@pytest.mark.parametrize(
    ("type", "data", "text"),
    [
        ("message.delta", {"text": "a\u2028b"}, "a\u2028b"),
        ("log", {"level": "info", "lines": ["a", "b"]}, "a\nb"),
        ("log", "just text", ""),
        ("message.delta", {"text": 5}, ""),
        ("message.delta", None, ""),
        ("order.paid", {"text": "a"}, ""),
    ],
)
def test_text(type: str, data: object, text: str) -> None:
    """Text is that of an increment, or empty; ill-typed members count as absent."""
    assert Event("run", FeedId(1, 1), compose(type, orjson.dumps(data))).text == text


def test_what_orjson_refuses_is_read() -> None:
    """Lone surrogates and numbers beyond a double are stored as they came, and read."""
    event: Event[dict[str, object]] = Event(
        "run", FeedId(1, 1), compose("note", b'{"a":"\\ud800","b":1e400,"c":99999999999999999999}')
    )
    assert event.data["a"] == "\ud800"
    assert event.data["b"] == float("inf")
    assert event.data["c"] == 99999999999999999999


def test_a_gap_has_no_id() -> None:
    """A gap is an event of type tailrace.gap without an ID, so that nobody resumes behind it."""
    gap = gap_event("run", 3, 9, "trimmed", {"status": "running"})
    assert (gap.id, gap.type, gap.ends) == ("", "tailrace.gap", None)
    assert gap.data == {"from": 3, "to": 9, "reason": "trimmed", "snapshot": {"status": "running"}}
    assert orjson.loads(gap.raw) == {"type": "tailrace.gap", "data": gap.data}


def test_ends() -> None:
    """The three ends are known by their type."""
    ends = {
        type: Event("run", FeedId(1, 1), compose(type, b"{}")).ends
        for type in ("run.finished", "run.failed", "run.cancelled")
    }
    assert ends == {"run.finished": "succeeded", "run.failed": "failed", "run.cancelled": "cancelled"}
    assert Event("run", FeedId(1, 1), compose("run.waiting", b"{}")).ends is None


def test_a_start_with_a_nonce_leaves_the_attempt_to_the_script() -> None:
    """With a nonce the payload of run.started is what follows the attempt."""
    plain, owned = (
        draft("run.started", b"{}", attempt=0),
        draft("run.started", b"{}", nonce="n", owner="me", labels={"a": "b"}),
    )
    assert plain.payload == b'"type":"run.started","data":{}}'
    assert owned.payload == b'"labels":{"a":"b"},"data":{}}'
    assert owned.extras == ("n", "me", "", "", "", 1, "a", "b")
