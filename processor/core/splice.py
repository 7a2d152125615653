"""Joins what comes live to what is read from the feed: each event of a run once, in order. No I/O.

A live message is a hint and may be lost, repeated or late; the feed is the truth. Wherever a message does not simply go
on from the last event, the answer is "read the feed first", from that last event **inclusive**: if it is no longer
there under the same ID, the server lost it and others wrote its number anew. Messages that came before such a read began are
forgotten: what they told is in the feed, or in no history any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Literal, NamedTuple

from processor.core.cursor import ZERO, FeedId
from processor.core.lifecycle import TERMINAL

__all__ = [
    "READ_FEED",
    "Entry",
    "Gap",
    "Look",
    "Message",
    "ReadFeed",
    "Splice",
    "Standing",
    "explain",
    "go_on",
    "group",
    "parse_message",
]

Entry = tuple[FeedId, bytes]  # of a feed: its ID and the event's payload
Reason = Literal["trimmed", "expired", "rewritten", "corrupt"]


class Message(NamedTuple):
    """Events of one append: their numbers are first, first + 1, and so on; all carry the same ms."""

    first: int
    ms: int
    payloads: list[bytes]

    @property
    def last(self) -> FeedId:
        return FeedId(self.first + len(self.payloads) - 1, self.ms)


_new = tuple.__new__


def parse_message(body: bytes) -> Message:
    """`<first seq>-<ms>` LF payloads, LF between them. Raises ValueError."""
    payloads = body.split(b"\n")
    seq, _, ms = payloads.pop(0).partition(b"-")
    if not payloads:
        raise ValueError(f"a message without events: {body[:60]!r}")
    return _new(Message, (int(seq), int(ms), payloads))  # half of what calling the class takes


def group(entries: Sequence[Entry]) -> list[Message]:
    """Entries that follow each other, as messages: what shares a ms becomes one."""
    messages: list[Message] = []
    ms = -1
    for id, payload in entries:
        if id.ms == ms:
            messages[-1].payloads.append(payload)
        else:
            ms = id.ms
            messages.append(Message(id.seq, ms, [payload]))
    return messages


class ReadFeed(Enum):
    """Read the feed from the last event inclusive before this message is believed."""

    FIRST = "first"


READ_FEED = ReadFeed.FIRST


class Splice:
    """Where a reader of a run is. `last` is the ID of the last event that it took, ZERO for none."""

    __slots__ = ("_ms", "_seq")

    def __init__(self, last: FeedId) -> None:
        self.last = last

    @property
    def last(self) -> FeedId:
        return FeedId(self._seq, self._ms)

    @last.setter
    def last(self, last: FeedId) -> None:
        self._seq, self._ms = last

    def take(self, message: Message) -> Message | ReadFeed | None:
        """What of a live message is new; None if nothing is; READ_FEED if the feed has to be read first.

        READ_FEED answers a hole, and whatever contradicts the last event: in one history a later number never has an
        earlier ms, and a number has one ms only.
        """
        first, ms, payloads = message
        seq = self._seq
        if first == seq + 1 and ms >= self._ms:
            self._seq, self._ms = seq + len(payloads), ms
            return message
        if first > seq:
            return READ_FEED
        last = first + len(payloads) - 1
        if last < seq:
            return READ_FEED if ms > self._ms else None
        if ms != self._ms:  # it holds the last event's number
            return READ_FEED
        if last == seq:
            return None
        self._seq = last
        return Message(seq + 1, ms, payloads[seq + 1 - first :])


class Gap(NamedTuple):
    """What a reader cannot have: the events first to last, both included, and why."""

    first: int
    last: int
    reason: Reason

    @property
    def restart(self) -> bool:
        """The reader has to discard all that it has; the feed follows from its first event."""
        return self.reason in ("rewritten", "corrupt")

    def position(self) -> FeedId:
        """Where the reader is behind the gap. The ms of an event that is gone is unknown: 0, below every other."""
        return ZERO if self.restart else FeedId(self.last, 0)


def go_on(position: FeedId, entries: Sequence[Entry]) -> Sequence[Entry] | Gap | None:
    """What a read of the feed brought that was made from `position` inclusive, by number, oldest first.

    The entries behind the position (none: nothing new); a Gap where it does not go on; None if nothing was there at
    all, not even the position's own entry: look at the run (`explain`).
    """
    if not entries:
        return None
    first = entries[0][0]
    if first == position:
        return entries[1:]
    if first.seq <= position.seq or first.ms < position.ms:
        # a number that is there has one ms; one that was trimmed is followed by none of an earlier ms
        return Gap(1, position.seq, "rewritten")
    if first.seq == position.seq + 1:
        return entries
    return Gap(position.seq + 1, first.seq - 1, "trimmed")


class Standing(Enum):
    """What a run's hash and feed say together."""

    UNKNOWN = "unknown"  # neither is there
    THERE = "there"
    EXPIRED = "expired"  # a tombstone: the hash of an ended run, without its feed
    CORRUPT = "corrupt"  # they do not belong together


class Look(NamedTuple):
    """A run's hash and its feed's last entry, read in one step. None: not there."""

    status: str | None
    tail: FeedId | None
    last: FeedId | None

    @property
    def standing(self) -> Standing:
        if self.status is None:
            return Standing.UNKNOWN if self.last is None else Standing.CORRUPT
        if self.last == self.tail:
            return Standing.THERE
        if self.last is None and self.ended:
            return Standing.EXPIRED
        return Standing.CORRUPT

    @property
    def ended(self) -> str | None:
        """The status of a run that has ended, else None."""
        return self.status if self.status in TERMINAL else None

    @property
    def position(self) -> FeedId:
        """The last event that there is or was, ZERO for none."""
        known = self.last if self.standing is Standing.CORRUPT else self.tail
        return known or ZERO


def explain(position: FeedId, look: Look) -> Gap | None:
    """Why a read from `position` inclusive brought nothing; None: nothing is missing (or it came since)."""
    match look.standing:
        case Standing.CORRUPT:
            return Gap(1, position.seq, "corrupt")
        case Standing.UNKNOWN:
            return Gap(1, position.seq, "rewritten") if position.seq else None
        case Standing.EXPIRED | Standing.THERE:
            tail = look.position
            if position.seq > tail.seq or (position.seq == tail.seq and position.ms not in (0, tail.ms)):
                return Gap(1, position.seq, "rewritten")
            if look.standing is Standing.EXPIRED and position.seq < tail.seq:
                return Gap(position.seq + 1, tail.seq, "expired")
            return None
