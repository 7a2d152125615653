"""Events of a file: as large as they may be, and the file's bytes again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from processor.core.cursor import FeedId
from processor.core.events import Event
from processor.core.json import loads
from processor.ship.entries import Portion, Splitter
from processor.ship.packing import MAX_LINES, Packer, bytes_of, bytes_of_payload, entry_limit

TEXT = st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))


def packed(text: bytes, max_event_bytes: int, start: int = 0) -> list[tuple[int, bytes]]:
    splitter = Splitter(limit=entry_limit(max_event_bytes))
    portions = splitter.feed(text) + splitter.finish()
    events = Packer("/var/log/a b.log", "web-1", max_event_bytes).events(start, portions)
    return [(number, draft[1]) for number, draft in events]


@given(st.lists(TEXT, max_size=8).map(b"\n".join), st.integers(0, 2**40))
def test_events_are_the_file(text: bytes, start: int) -> None:
    """Any bytes, no UTF-8 and control characters included, come back; numbers are the offsets behind; no event is too large."""
    at = start
    found = b""
    for number, payload in packed(text, 1024, start):
        assert len(payload) <= 1024
        part = bytes_of_payload(payload)
        data = loads(b"{" + payload)["data"]
        assert data["offset"] == at
        assert number == at + len(part)
        at, found = number, found + part
    assert found == text


def test_many_entries_are_one_event() -> None:
    """Entries of one read share events, up to a number of them and of bytes."""
    assert [bytes_of_payload(p) for _, p in packed(b"a\nb\nc\n", 65536)] == [b"a\nb\nc\n"]
    assert len(packed(b"a\n" * (MAX_LINES + 1), 65536)) == 2
    assert len(packed((b"x" * 1000 + b"\n") * 40, 65536)) == 2


def test_what_stands_in_an_event() -> None:
    """The file, the host, the offset; a line that is cut says so."""
    (number, payload), *_ = packed("ä\n".encode(), 65536, 7)
    assert number == 10
    event = Event("r", FeedId(1, 1), payload)
    expected = {"level": "info", "lines": ["ä"], "logger": "/var/log/a b.log", "host": "web-1", "offset": 7}
    assert event.data == expected
    assert event.text == "ä"
    (_, payload) = packed(b"no end", 65536)[0]
    assert loads(b"{" + payload)["data"]["cut"] is True


def test_bytes_that_are_no_text_are_plain_json() -> None:
    """They are escapes of half a surrogate pair, which any JSON parser of WIRE 2 keeps, and ASCII on the wire."""
    (_, payload) = packed(b"\xff\xfe\xed\xb3\xbf", 65536)[0]
    assert payload.isascii()
    assert bytes_of(json.loads(b"{" + payload)["data"]) == b"\xff\xfe\xed\xb3\xbf"


def test_a_mark_has_no_bytes() -> None:
    """What declares where a file begins holds no line."""
    number, draft = Packer("f", "h", 65536).mark(500)
    assert number == 500
    assert bytes_of_payload(draft[1]) == b""
    assert list(Packer("f", "h", 65536).events(0, [Portion([])])) == []
