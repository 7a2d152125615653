"""Bytes in pieces -> entries: lines that belong together, such as a stack trace, stay together.

The entries do not depend on how the bytes came in pieces. Nothing is lost or changed: the texts, each with the LF behind it
unless it was cut, are the bytes that were fed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final, NamedTuple

from processor.core.errors import BadInput

__all__ = ["MAX_ENTRY_BYTES", "TRACES", "Portion", "Rule", "Splitter", "begins_by", "cut_at"]

MAX_ENTRY_BYTES: Final = 32 * 1024  # of one element; a longer entry is cut
JUDGED_BYTES: Final = 4096  # of a line: what decides whether it begins an entry; so much is known long before its LF

# Indented and empty lines, what Java and Python put between traces, and the line that ends a traceback: a name of an
# exception class at the line's beginning, which ends in one of these words.
_GOES_ON: Final = re.compile(
    rb"\s|$|Caused by:|Suppressed:|\.\.\.|Traceback \(|During handling of the above|The above exception was|[})\]]"
    rb"|(?:[A-Za-z_]\w*[.$])*[A-Z]\w*(?:Error|Exception|Throwable|Warning|Interrupt|Exit|Group)(?::|\s*$)"
)


class Rule(NamedTuple):
    """Which lines begin an entry: those whose beginning matches, or, without `begins`, those whose beginning does not."""

    pattern: re.Pattern[bytes]
    begins: bool

    def goes_on(self, line: bytes) -> bool:
        """Whether this line (without LF) goes on the entry before it."""
        return (self.pattern.match(line, 0, JUDGED_BYTES) is None) is self.begins

    def beginnings(self, lines: list[bytes]) -> list[int]:
        """Places of lines that begin an entry; the first one does, whatever it is. No call of ours for each line."""
        match, begins = self.pattern.match, self.begins
        return [at for at, line in enumerate(lines) if (match(line, 0, JUDGED_BYTES) is not None) is begins or not at]


TRACES: Final = Rule(_GOES_ON, begins=False)
"""The rule without --multiline."""


def begins_by(regex: str) -> Rule:
    """The rule of `--multiline REGEX`: a line whose beginning matches begins an entry. Raises BadInput."""
    try:
        return Rule(re.compile(regex.encode()), begins=True)
    except re.error as error:
        raise BadInput(
            f"{regex!r} is no regular expression: {error}.",
            remedy=r"Give what the first line of an entry begins with, as Python's re has it: '\d{4}-\d\d-\d\d'",
            field="--multiline",
            value=regex,
        ) from error


class Portion(NamedTuple):
    """Entries that are complete. cut: there is no LF behind the last one, which goes on in the next portion."""

    texts: list[bytes]
    cut: bool = False

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return sum(map(len, self.texts)) + len(self.texts) - self.cut


def cut_at(text: bytes, limit: int) -> int:
    """Where to cut a text longer than the limit: behind its last LF that fits, else between two characters."""
    at = text.rfind(b"\n", 0, limit) + 1
    if at:
        return at
    for at in range(limit, max(limit - 4, 0), -1):
        if text[at] & 0xC0 != 0x80:  # not within a character
            return at
    return limit  # no UTF-8


class Splitter:
    """What was read of a file and belongs to no complete entry yet; MAX_ENTRY_BYTES and a line's beginning at most."""

    def __init__(self, rule: Rule = TRACES, *, limit: int = MAX_ENTRY_BYTES) -> None:
        """limit: bytes of an entry."""
        self._rule, self._limit = rule, limit
        self._held = b""

    @property
    def held(self) -> int:
        """Bytes that were fed and not given out."""
        return len(self._held)

    @property
    def in_line(self) -> bool:
        """Whether the last line has no LF yet."""
        return not self._held.endswith(b"\n") and bool(self._held)

    def feed(self, chunk: bytes) -> list[Portion]:
        """Entries that are complete now: the next one has begun, or they are too long."""
        whole, lf, last = (self._held + chunk).rpartition(b"\n")
        lines = whole.split(b"\n") if lf else []
        if len(last) >= JUDGED_BYTES or (last and not lines):
            lines.append(last)  # nobody needs its end to know where it belongs
            last = b""
            lf = b""
        complete, entry = self._grouped(lines)
        portions = list(self._portions(complete))
        if lines and len(entry) > self._limit:
            *pieces, entry = self._pieces(entry)
            portions += [Portion([piece], True) for piece in pieces]
        self._held = entry + lf + last
        return portions

    def _grouped(self, lines: list[bytes]) -> tuple[list[bytes], bytes]:
        """The complete entries, and the one that may go on. The first line is where an entry begins, whatever it is."""
        if not lines:
            return [], b""
        beginnings = self._rule.beginnings(lines)
        last = beginnings[-1]
        if last == len(beginnings) - 1:  # each line before it is an entry
            return lines[:last], b"\n".join(lines[last:])
        pairs = pairwise(beginnings)
        texts = [b"\n".join(lines[begin:end]) if end > begin + 1 else lines[begin] for begin, end in pairs]
        return texts, b"\n".join(lines[last:])

    def _portions(self, texts: list[bytes]) -> Iterator[Portion]:
        """The texts, those that are too long in pieces."""
        fitting: list[bytes] = []
        for text in texts:
            if len(text) > self._limit:
                if fitting:
                    yield Portion(fitting)
                *pieces, text = self._pieces(text)
                yield from (Portion([piece], True) for piece in pieces)
                fitting = []
            fitting.append(text)
        if fitting:
            yield Portion(fitting)

    def _pieces(self, text: bytes) -> list[bytes]:
        pieces = []
        while len(text) > self._limit:
            at = cut_at(text, self._limit)
            pieces.append(text[:at])
            text = text[at:]
        return [*pieces, text]

    def close(self) -> list[Portion]:
        """The entry that nothing came to for long: what comes next is another one. A line without LF stays."""
        text, lf, self._held = self._held.rpartition(b"\n")
        return [Portion([text])] if lf else []

    def finish(self) -> list[Portion]:
        """The file has ended: whatever is left, a line without LF too."""
        text, lf, last = self._held.rpartition(b"\n")
        self._held = b""
        if not last:
            return [Portion([text])] if lf else []
        apart = lf and not self._rule.goes_on(last)
        *portions, end = self._portions([text, last] if apart else [text + lf + last])
        return [*portions, Portion(end.texts, True)]
