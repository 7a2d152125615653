"""Entries -> `log` events, and back to the bytes of the file.

`data`: `level`, `lines` (one element an entry, which may hold LF), `logger` (the file's path), `host`, `offset` (of the first
byte in the file), and `cut` where no LF stands behind the last element: it goes on in the next event of this file, or the
file ended without one. The event's number is the offset behind its last byte. Bytes that are no UTF-8 stand as half a
surrogate pair, U+DC80 to U+DCFF, as Python's `surrogateescape` has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from processor.core.events import Fields, compose, plain
from processor.core.json import dumps, loads
from processor.ship.entries import MAX_ENTRY_BYTES, Portion, cut_at

__all__ = ["MAX_LINES", "Packer", "bytes_of", "bytes_of_payload", "entry_limit", "is_shipped"]

MAX_LINES: Final = 1000  # of an event: readers draw them at once


def entry_limit(max_event_bytes: int) -> int:
    """Bytes of an entry, so that an event of one fits where hardly anything needs an escape."""
    return min(MAX_ENTRY_BYTES, max_event_bytes // 2)


class Packer:
    """Makes the events of one file."""

    def __init__(self, path: str, host: str, max_event_bytes: int) -> None:
        self._max = max_event_bytes
        self._limit = entry_limit(max_event_bytes)
        self._middle = b',"logger":%b,"host":%b,"offset":' % (dumps(path), dumps(host))

    def events(self, start: int, portions: Iterable[Portion]) -> Iterator[tuple[int, Fields]]:
        """(number, draft) of each event. start: offset of the portions' first byte."""
        waiting: list[bytes] = []
        for texts, cut in portions:
            waiting += texts
            if cut:
                for number, draft in self._events(waiting, True, start):
                    yield number, draft
                    start = number
                waiting = []
        yield from self._events(waiting, False, start)

    def _events(self, texts: Sequence[bytes], cut: bool, start: int) -> Iterator[tuple[int, Fields]]:
        at = 0
        while at < len(texts):
            end = self._fitting(texts, at)
            for number, payload in self._payloads(texts[at:end], cut and end == len(texts), start):
                yield number, plain("log", payload)
                start = number
            at = end

    def _fitting(self, texts: Sequence[bytes], at: int) -> int:
        """Behind the last one that still belongs to the event."""
        size = len(texts[at])
        end = at + 1
        last = min(len(texts), at + MAX_LINES)
        while end < last and size + len(texts[end]) < self._limit:
            size += len(texts[end]) + 1
            end += 1
        return end

    def _payloads(self, texts: Sequence[bytes], cut: bool, start: int) -> Iterator[tuple[int, bytes]]:
        """One, or several where escapes make it too large."""
        payload = self._payload(texts, cut, start)
        if len(payload) <= self._max or (len(texts) == 1 and len(texts[0]) < 2):
            yield start + sum(map(len, texts)) + len(texts) - cut, payload
            return
        if len(texts) > 1:
            half = len(texts) // 2
            parts = [(texts[:half], False), (texts[half:], cut)]
        else:
            at = cut_at(texts[0], len(texts[0]) // 2)
            parts = [([texts[0][:at]], True), ([texts[0][at:]], cut)]
        for part, is_cut in parts:
            for number, fitting in self._payloads(part, is_cut, start):
                yield number, fitting
                start = number

    def _payload(self, texts: Sequence[bytes], cut: bool, start: int) -> bytes:
        lines = dumps([text.decode("utf-8", "surrogateescape") for text in texts])
        end = b',"cut":true}' if cut else b"}"
        return compose("log", b'{"level":"info","lines":%b%b%d%b' % (lines, self._middle, start, end))

    def mark(self, offset: int) -> tuple[int, Fields]:
        """An event without lines: what stands before the offset is left out."""
        return offset, plain("log", self._payload([], False, offset))


def is_shipped(data: Any) -> bool:
    """Whether it is the data of an event that `tailrace ship` made."""
    return isinstance(data, dict) and isinstance(data.get("offset"), int) and isinstance(data.get("lines"), list)


def bytes_of(data: Any) -> bytes:
    """The bytes of the file that an event's data stands for. Raises ValueError if it is no event of a file."""
    if not is_shipped(data):
        raise ValueError(f"no log event of a file: {str(data)[:200]}")
    if not data["lines"]:
        return b""
    text = "\n".join(data["lines"]) + ("" if data.get("cut") else "\n")
    return text.encode("utf-8", "surrogateescape")


def bytes_of_payload(payload: bytes) -> bytes:
    """The same of a payload as it stands in a feed; empty for an event of another kind."""
    data = loads(b"{" + payload).get("data")
    return bytes_of(data) if is_shipped(data) else b""
