"""Events: their payload, which the producer composes once, and what readers hold.

The payload is one line: `"type":…,"attempt":…,"labels":…,"traceparent":…,"data":…}`, absent members left out. An
envelope is `{"id":"…","run":"…",` and the payload. Only this module composes payloads; everybody else passes the bytes on.
"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Generic, NamedTuple, cast

import orjson
from typing_extensions import TypeVar

from processor.core.cursor import FeedId
from processor.core.json import dumps, loads
from processor.core.lifecycle import ENDS

__all__ = [
    "GAP",
    "OVERHEAD",
    "Draft",
    "Event",
    "Fields",
    "compose",
    "draft",
    "envelope",
    "gap_event",
    "is_increment",
    "payload_type",
    "plain",
    "text_payload",
    "text_tail",
]

D = TypeVar("D", default=Any)
M = TypeVar("M")
GAP = "tailrace.gap"
OVERHEAD: Final = 32  # bytes of an event besides its payload, about


@functools.cache
def is_increment(type: str) -> bool:
    """Increments go to the log only while a group has bound them; every other event is a fact."""
    return type.endswith(".delta") or type in ("tool.args", "log")


def compose(
    type: str,
    data: bytes,
    *,
    attempt: int = 0,
    labels: Mapping[str, str] | None = None,
    traceparent: str | None = None,
) -> bytes:
    """The payload of an event; data is JSON in one line, attempt 0 means none."""
    head = f'"type":"{type}",'
    if attempt:
        head += f'"attempt":{attempt},'
    return head.encode() + members(data, labels=labels, traceparent=traceparent)


def members(data: bytes, *, labels: Mapping[str, str] | None = None, traceparent: str | None = None) -> bytes:
    """What follows type and attempt in a payload."""
    head = b""
    if labels:
        head += b'"labels":%b,' % dumps(dict(labels))
    if traceparent:
        head += b'"traceparent":%b,' % dumps(traceparent)
    return b'%b"data":%b}' % (head, data)


def envelope(run: str, id: FeedId, payload: bytes) -> bytes:
    """What readers get, in every form."""
    return b'{"id":"%d-%d","run":"%b",%b' % (id[0], id[1], run.encode(), payload)


def payload_type(payload: bytes) -> str:
    """The type stands first and needs no escape."""
    return payload[8 : payload.index(b'"', 8)].decode()


class Draft(NamedTuple):
    """An event before it has a place: what `append` is given."""

    type: str
    payload: bytes
    extras: tuple[bytes | str | int, ...] = ()  # what the script may not read from JSON, as append.lua's header has it
    work: str = ""  # task of a run.queued or run.resumed, whose work stream must be passed

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about."""
        return len(self.payload) + OVERHEAD


Fields = tuple[str, bytes, tuple[bytes | str | int, ...], str]
"""What a Draft holds. As an exact tuple it takes a quarter of the time to make, and the garbage collector soon forgets it."""


def plain(type: str, payload: bytes) -> Fields:
    """A draft without extras."""
    return type, payload, (), ""


@functools.lru_cache(256)
def _text_head(type: str, attempt: int) -> bytes:
    return compose(type, b"", attempt=attempt)[:-1] + b'{"text":'


def text_tail(members: Mapping[str, str]) -> bytes:
    """What stands behind the text in the payload of an increment. members: of its data, besides text."""
    return b"".join(b",%b:%b" % (dumps(name), dumps(value)) for name, value in members.items()) + b"}}"


def text_payload(type: str, text: str, tail: bytes, attempt: int) -> bytes:
    """The payload of an increment, composed around its text. tail: from `text_tail`."""
    try:
        encoded = orjson.dumps(text)
    except TypeError:  # lone surrogates
        encoded = dumps(text)
    return _text_head(type, attempt) + encoded + tail


def _label_args(labels: Mapping[str, str] | None) -> tuple[str | int, ...]:
    args: list[str | int] = [len(labels or ())]
    for name, value in (labels or {}).items():
        args += (name, value)
    return tuple(args)


def draft(
    type: str,
    data: bytes,
    *,
    attempt: int = 0,
    labels: Mapping[str, str] | None = None,
    traceparent: str | None = None,
    task: str = "",
    start: str = "",
    thread: str = "",
    delay_ms: int = 0,
    nonce: str = "",
    owner: str = "",
    ask: str = "",
    value: bytes = b"null",
    error: bytes = b'""',
) -> Draft:
    """An event with what its type brings; arguments of other types are left alone.

    start: `start_hash` of task and input. nonce, owner: of an execution without a worker.
    error: JSON. delay_ms: of run.queued. task: of run.resumed, where it may wake a parked run.
    """
    extras: tuple[bytes | str | int, ...] = ()
    payload = compose(type, data, attempt=attempt, labels=labels, traceparent=traceparent)
    if type == "run.queued":
        extras = (task, start, thread, delay_ms, *_label_args(labels))
    elif type == "run.started":
        extras = (nonce, owner, start, task, thread, *_label_args(labels))
        if nonce:  # the script knows the attempt and writes type and attempt itself
            payload = members(data, labels=labels, traceparent=traceparent)
    elif type == "run.waiting":
        extras = (ask,)
    elif type == "run.resumed":
        extras = (ask, value, task)
    elif type == "run.failed":
        extras = (error,)
    return Draft(type, payload, extras, task if type in ("run.queued", "run.resumed") else "")


class Event(Generic[D]):
    """One event of a run. `raw` is the envelope as stored; the rest is parsed on first use."""

    __slots__ = ("_body", "_id", "payload", "run")

    def __init__(self, run: str, id: FeedId | str, payload: bytes) -> None:
        """id: as the server has it; its text is read when somebody asks for the number or the time."""
        self.run = run
        self._id = id
        self.payload = payload
        self._body: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        """The cursor to go on behind this event; empty for a gap."""
        if isinstance(self._id, str):
            return self._id
        return str(self._id) if self._id.seq else ""

    @property
    def feed_id(self) -> FeedId:
        if isinstance(self._id, str):
            self._id = FeedId.parse(self._id)
        return self._id

    @property
    def seq(self) -> int:
        return self.feed_id.seq

    @property
    def time(self) -> datetime:
        """When it was appended, by the server's clock."""
        return datetime.fromtimestamp(self.feed_id.ms / 1000, UTC)

    @property
    def raw(self) -> bytes:
        if not self.feed_id.seq:
            return b"{" + self.payload
        return envelope(self.run, self.feed_id, self.payload)

    @property
    def type(self) -> str:
        return payload_type(self.payload)

    def _parsed(self) -> dict[str, Any]:
        if self._body is None:
            self._body = loads(b"{" + self.payload)
        return self._body

    @property
    def data(self) -> D:
        return cast("D", self._parsed().get("data"))

    @property
    def attempt(self) -> int | None:
        """Of the execution that wrote it; None for events of outside producers."""
        attempt: int | None = self._parsed().get("attempt")
        return attempt

    @property
    def labels(self) -> Mapping[str, str]:
        labels: object = self._parsed().get("labels")
        return labels if isinstance(labels, dict) else {}

    @property
    def text(self) -> str:
        """Text of an increment (deltas, tool arguments, log lines joined by LF), else empty."""
        if not is_increment(self.type):
            return ""
        data = self._parsed().get("data")
        if not isinstance(data, dict):
            return ""
        if self.type == "log":
            lines = data.get("lines")
            return "\n".join(str(line) for line in lines) if isinstance(lines, list) else ""
        text = data.get("text")
        return text if isinstance(text, str) else ""

    def read(self, model: builtins.type[M]) -> M:
        """data as that model, checked by pydantic (imported here). Raises pydantic's ValidationError."""
        from pydantic import TypeAdapter

        return TypeAdapter(model).validate_python(self.data)

    @property
    def ends(self) -> str | None:
        """The status that this event ends its run with, or None."""
        return ENDS.get(self.type)

    def __repr__(self) -> str:
        return f"<Event {self.run} {self.id or '-'} {self.type}>"


def gap_event(run: str, first: int, last: int, reason: str, snapshot: object) -> Event[Any]:
    """What cannot be had any more, as `follow` tells it: WIRE 4's tailrace.gap."""
    data = dumps({"from": first, "to": last, "reason": reason, "snapshot": snapshot})
    return Event(run, FeedId(0, 0), compose(GAP, data))
