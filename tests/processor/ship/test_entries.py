"""Entries: complete, together, and the same however the bytes came."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processor.core.errors import BadInput
from processor.ship.entries import JUDGED_BYTES, TRACES, Portion, Splitter, begins_by, cut_at
from tests.support.recorded import log_files

LINES = st.sampled_from(
    [b"12:00 begin", b"  at x", b"", b"Caused by: y", b"12:01 \xc3\xa4\xe2\x82\xac\xff", b"\r", b"x" * 70]
)
SOURCES = st.builds(
    lambda lines, end: b"\n".join(lines) + end, st.lists(LINES, max_size=30), st.sampled_from([b"", b"\n"])
)


def entries(portions: list[Portion]) -> list[bytes]:
    """Whole entries, what was cut put together."""
    found: list[bytes] = []
    cut = False
    for portion in portions:
        for at, text in enumerate(portion.texts):
            if cut:
                found[-1] += text
            else:
                found.append(text)
            cut = portion.cut and at == len(portion.texts) - 1
    return found


def source(portions: list[Portion]) -> bytes:
    return b"".join(b"\n".join(portion.texts) + (b"" if portion.cut else b"\n") for portion in portions)


def split(pieces: list[bytes], limit: int = 64) -> list[Portion]:
    splitter = Splitter(limit=limit)
    portions = [portion for piece in pieces for portion in splitter.feed(piece)]
    return portions + splitter.finish()


@given(SOURCES, st.lists(st.integers(0, 400)))
@example(b"a" * 65 + b"\n  b\nc", [64, 65, 66])
def test_entries_do_not_depend_on_the_pieces(text: bytes, cuts: list[int]) -> None:
    """Any division of the bytes gives the same entries and cuts, and all of the bytes."""
    places = sorted({0, *(cut for cut in cuts if cut < len(text)), len(text)})
    pieces = [text[begin:end] for begin, end in pairwise(places)]
    at_once, in_pieces = split([text]), split(pieces)
    assert source(in_pieces) == source(at_once) == text
    assert entries(in_pieces) == entries(at_once)
    assert sum(portion.size for portion in in_pieces) == len(text)
    assert all(len(one) <= 64 for portion in in_pieces for one in portion.texts)


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_come_out(text: bytes, step: int) -> None:
    """Bytes that are no text, NUL and lines without end included."""
    assert source(split([text[at : at + step] for at in range(0, len(text), step)])) == text


def test_a_trace_is_one_entry() -> None:
    """The lines of a Java trace and of a Python traceback stay with the line before them."""
    java = b"[1] ERROR x\njava.io.IOException: no\n\tat a.b(C.java:1)\nCaused by: d.E: f\n\t... 3 more"
    python = b"[2] ERROR y\nTraceback (most recent call last):\n  File 1\n\nasyncio.exceptions.CancelledError\n\nDuring handling"
    python += b" of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  z\nValueError: q"
    assert entries(split([b"\n".join([java, python, b"[3] INFO", b""])], 4096)) == [java, python, b"[3] INFO"]


def test_the_last_entry_waits_for_the_next() -> None:
    """An entry is given out when the next one begins; closed by silence, without the line that has no end yet."""
    splitter = Splitter()
    assert splitter.feed(b"one\ntwo\n  more\nthr") == [Portion([b"one"])]
    assert splitter.in_line
    assert splitter.close() == [Portion([b"two\n  more"])]
    assert splitter.close() == []
    assert splitter.held == 3
    assert splitter.feed(b"ee\n") == []
    assert splitter.held == len(b"three\n")
    assert splitter.close() == [Portion([b"three"])]


def test_own_rule() -> None:
    """With a regular expression, a line begins an entry where its beginning matches."""
    splitter = Splitter(begins_by(r"\d\d"))
    assert splitter.feed(b"10 a\nb\n  11\n11 c\n") == [Portion([b"10 a\nb\n  11"])]
    with pytest.raises(BadInput, match="no regular expression"):
        begins_by("(")


def test_a_line_without_end_is_cut_between_characters() -> None:
    """Memory is bounded: what is longer than an entry may be goes out in pieces, each of whole characters."""
    splitter = Splitter(limit=100)
    portions = splitter.feed("ä€".encode() * 50)
    assert [portion.cut for portion in portions] == [True] * len(portions)
    assert all(portion.texts[0].decode() for portion in portions)
    assert splitter.held <= 100
    assert cut_at(b"ab\ncd", 4) == 3


def test_a_long_line_behind_an_entry() -> None:
    """A long line that begins an entry closes the one before, though its own end has not come."""
    splitter = Splitter()
    assert splitter.feed(b"one\n" + b"x" * JUDGED_BYTES) == [Portion([b"one"])]
    assert splitter.held == JUDGED_BYTES


def test_real_logs() -> None:
    """The recorded logs come out byte for byte; no line of a trace stands alone."""
    for file in log_files():
        text = file.read_bytes()
        portions = split([text[at : at + 1000] for at in range(0, len(text), 1000)], 32 * 1024)
        assert source(portions) == text
        found = entries(portions)
        assert not [entry for entry in found[1:] if TRACES.goes_on(entry)]
        if file.name.startswith("kafka"):
            assert all(entry.startswith(b"[") for entry in found)
