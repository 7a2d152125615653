"""Frames: every byte of the native SSE stream."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import sse
from processor.core.cursor import ZERO, FeedId
from processor.core.events import compose, envelope
from processor.core.json import dumps
from processor.core.splice import Gap, Message, group

DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_event_is_an_unnamed_frame_with_its_id() -> None:
    """`id:` is the feed ID, `data:` the envelope in one line; several events of a message share the ms."""
    messages = [Message(7, 90, [compose("a.b", b"1")]), Message(8, 91, [compose("a.c", b"2"), compose("a.d", b"3")])]
    assert sse.event_frames("r~x", messages) == (
        b'id: 7-90\ndata: {"id":"7-90","run":"r~x","type":"a.b","data":1}\n\n'
        b'id: 8-91\ndata: {"id":"8-91","run":"r~x","type":"a.c","data":2}\n\n'
        b'id: 9-91\ndata: {"id":"9-91","run":"r~x","type":"a.d","data":3}\n\n'
    )


@given(data=st.lists(DATA, min_size=1, max_size=5), same=st.booleans())
def test_any_data_stays_one_frame_an_event(data: list[object], same: bool) -> None:
    """Whatever an event carries, its frame has one data line, which is its envelope byte for byte."""
    payloads = [compose("a.b", dumps(value)) for value in data]
    entries = [(FeedId(i, 5 if same else i), payload) for i, payload in enumerate(payloads, 1)]
    frames = sse.event_frames("r1", group(entries))
    blocks = frames.split(b"\n\n")
    assert blocks.pop() == b""
    assert blocks == [b"id: %b\ndata: %b" % (str(id).encode(), envelope("r1", id, payload)) for id, payload in entries]
    assert b"\r" not in frames


def test_percent_signs_are_left_alone() -> None:
    """A payload is never taken for a format."""
    payload = compose("a.b", b'"%d %s %%"')
    frames = sse.event_frames("r1", [Message(1, 1, [payload, payload])])
    assert frames.count(payload) == 2


@pytest.mark.parametrize(
    ("frame", "name", "retry", "data"),
    [
        (
            sse.open_frame("r1", "running", FeedId(3, 4), FeedId(5, 6), 2, None, retry_ms=1500),
            "open",
            1500,
            {"run": "r1", "status": "running", "cursor": "3-4", "tail": "5-6", "attempt": 2},
        ),
        (
            sse.open_frame("r1", "queued", ZERO, ZERO, 0, "a worker", retry_ms=1000),
            "open",
            1000,
            {"run": "r1", "status": "queued", "cursor": "0", "tail": None, "attempt": 0, "waiting_for": "a worker"},
        ),
        (sse.caught_up(ZERO), "caught_up", None, {"cursor": "0"}),
        (
            sse.gap(Gap(2, 4, "trimmed"), {"run": "r1"}),
            "gap",
            None,
            {"from": 2, "to": 4, "reason": "trimmed", "snapshot": {"run": "r1"}},
        ),
        (sse.end("failed", FeedId(9, 9)), "end", None, {"status": "failed", "cursor": "9-9"}),
        (sse.reconnect(700), "reconnect", 700, {"after_ms": 700}),
        (sse.denied(b'{"type":"denied"}'), "denied", None, {"type": "denied"}),
    ],
)
def test_control_frames_are_named_and_have_no_id(frame: bytes, name: str, retry: int | None, data: object) -> None:
    """One name, one data line of JSON, `retry:` where it belongs, never an `id:`."""
    fields = dict(line.split(": ", 1) for line in frame.decode().removesuffix("\n\n").split("\n"))
    assert fields.pop("event") == f"tailrace.{name}"
    assert json.loads(fields.pop("data")) == data
    assert fields == ({} if retry is None else {"retry": str(retry)})


def test_chunk_has_its_size_in_front() -> None:
    """As HTTP/1.1 has it: size in hexadecimal, CRLF, body, CRLF."""
    assert sse.http_chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
