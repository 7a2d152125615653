"""Feed IDs and the cursors that readers bring back."""

from __future__ import annotations

import re
from typing import NamedTuple

from processor.core.errors import BadCursor

__all__ = ["ZERO", "FeedId", "parse_cursor"]

_FEED_ID = re.compile(r"[1-9][0-9]{0,15}-[0-9]{1,16}", re.ASCII)


class FeedId(NamedTuple):
    """`<seq>-<ms>`: an event's number in its feed, from 1, and when it was appended. Compared as two integers."""

    seq: int
    ms: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.ms}"

    @classmethod
    def parse(cls, text: str | bytes) -> FeedId:
        """The ID that the server stores. Raises ValueError."""
        seq, ms = text.split("-") if isinstance(text, str) else text.split(b"-")
        return cls(int(seq), int(ms))


ZERO = FeedId(0, 0)  # before the first event


def parse_cursor(text: str | None, *, field: str = "after") -> FeedId:
    """A reader's cursor; absent, empty and `0` mean before the first event. Raises BadCursor."""
    if not text or text == "0":
        return ZERO
    if not _FEED_ID.fullmatch(text):
        raise BadCursor(
            f"{field} is {text!r}, which is no cursor.",
            remedy="Give 0, or the id of an event of this run as it came, such as 42-1795506276265.",
            field=field,
            value=text,
        )
    return FeedId.parse(text)
