"""Inlets: a stream that others write with plain XADD, and the function that says where its entries go."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from processor.client.lifecycle import is_lifecycle, lifecycle_draft
from processor.core.errors import BadEvent, BadInput
from processor.core.events import Fields, draft
from processor.core.failure import traceback_of, words_of
from processor.core.inlet import Item, Letter
from processor.core.json import dumps, loads
from processor.core.names import check_labels, check_name, check_run, check_type

__all__ = ["Entry", "Inlet", "Into", "Map", "Start"]

MAX_EVENTS: Final = 200  # of one entry, as of one handler: they are appended in one step
MAX_BYTES: Final = 512_000
TRACEBACK_CHARS: Final = 8000
_LINE_ENDS: Final = re.compile(rb"[\r\n]")
_OUTSIDE_ILLEGAL: Final = ("run.retrying", "run.cancel_requested")

Start = Literal["first", "now"]
M = TypeVar("M", bound="Map")


class _Json(bytes):
    """JSON as its producer wrote it, in one line."""


class Entry:
    """One entry of the foreign stream. Its fields are bytes; of a field that occurs twice the last one counts."""

    __slots__ = ("_raw", "id")

    def __init__(self, id: str, raw: Sequence[bytes]) -> None:
        """raw: names and values in turn."""
        self.id, self._raw = id, raw

    @classmethod
    def of(cls, *, id: str = "1-0", **fields: str | bytes) -> Entry:
        """One of these fields, for tests of an inlet's function."""
        raw: list[bytes] = []
        for name, value in fields.items():
            raw += (name.encode(), value.encode() if isinstance(value, str) else value)
        return cls(id, raw)

    @property
    def fields(self) -> Mapping[str, bytes]:
        names: Iterator[bytes] = iter(self._raw)
        return {_name(name): value for name, value in zip(names, names, strict=True)}

    def get(self, name: str) -> bytes | None:
        """The field's bytes; None if it has none of that name."""
        raw, wanted = self._raw, name.encode("utf-8", "surrogateescape")
        for at in range(len(raw) - 2, -1, -2):
            if raw[at] == wanted:
                return raw[at + 1]
        return None

    def text(self, name: str) -> str:
        """The field as UTF-8. Raises BadEvent."""
        value = self._needed(name)
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadEvent(f"field {name} is no UTF-8: {error.reason} at byte {error.start}", field=name) from error

    def json(self, name: str) -> Any:
        """The field as JSON. Raises BadEvent."""
        try:
            return loads(self._needed(name))
        except ValueError as error:  # not UTF-8 either
            raise BadEvent(f"field {name} is no JSON: {error}", field=name) from error

    def raw(self, name: str) -> object:
        """The field's JSON as data for Into, kept byte for byte (line ends become spaces). Raises BadEvent."""
        self.json(name)
        return _Json(_LINE_ENDS.sub(b" ", self._needed(name)))

    def _needed(self, name: str) -> bytes:
        value = self.get(name)
        if value is None:
            raise BadEvent(f"there is no field {name}; it has {', '.join(self.fields) or 'none'}", field=name)
        return value

    def __repr__(self) -> str:
        return f"<Entry {self.id} {', '.join(self.fields)}>"


def _name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Into:
    """An event that an entry becomes. data: JSON, a dataclass, a pydantic model, or what Entry.raw gives."""

    run: str
    type: str
    data: object = None
    labels: Mapping[str, str] | None = None


Map = Callable[[Entry], "Into | Sequence[Into] | None"]


def _default_map(entry: Entry) -> Into:
    """Fields run, type and data; without data it is null."""
    return Into(entry.text("run"), entry.text("type"), None if entry.get("data") is None else entry.raw("data"))


class Inlet:
    """A stream whose entries workers append to runs. Calling it with a function makes that one say where they go."""

    def __init__(
        self,
        stream: str,
        map: Map | None = None,
        *,
        name: str | None = None,
        start: Start = "first",
        url: str | None = None,
        known: Inlet | None = None,
    ) -> None:
        """known: of the same name, defined before. Raises BadInput, BadName, ValueError."""
        if not isinstance(stream, str) or not stream:
            raise BadInput(f"an inlet's stream is {stream!r}; give its key", field="stream", value=str(stream))
        if start not in ("first", "now"):
            raise BadInput(f"start is {start!r}; give 'first' or 'now'", field="start", value=str(start))
        if url is not None and not url.startswith(("redis://", "rediss://", "unix://")):
            raise BadInput(
                f"inlet {stream}: url is {url!r}, which is no Redis server.",
                remedy="Give redis://user:password@host:port/0, rediss://… (TLS) or unix:///path/of/the.sock.",
                field="url",
                value=url[:200],
            )
        self.stream, self.start, self.url = stream, start, url
        self.name = check_name(stream if name is None else name, "inlet", field="name")
        self._known = known
        if known is not None and (known.stream, known.url) != (stream, url):
            raise _defined_twice(self.name, f"of {known.stream}", f"of {stream}")
        self.map: Map = _default_map
        if map is not None:
            self(map)

    def __call__(self, fn: M) -> M:
        """Raises BadInput; ValueError for a second function, unless it is the same one, loaded anew."""
        first = _default_map if self._known is None else self._known.map
        if first is not _default_map and _place(first) != _place(fn):
            raise _defined_twice(self.name, f"by {_place(first)}", f"by {_place(fn)}")
        if inspect.iscoroutinefunction(fn):
            raise BadInput(
                f"inlet {self.name}: {fn.__name__} is async; its answer must follow from the entry alone.",
                remedy="Write it with def, and do what needs I/O in a task or reaction.",
                field="map",
            )
        self.map = fn
        return fn

    def item(self, id: str, raw: Sequence[bytes], max_event_bytes: int) -> Item | None:
        """What becomes of an entry: None if it is left out. Whatever the function raises, the entry is set aside."""
        entry = Entry(id, raw)
        try:
            found = self.map(entry)
            return None if found is None else _item(entry, found, max_event_bytes)
        except BadInput as error:
            return _set_aside(entry, error.message)
        except Exception as error:  # noqa: BLE001 - of the user's function, or of what it returned; told in the letter
            return _set_aside(entry, words_of(error), traceback=traceback_of(error)[-TRACEBACK_CHARS:])

    def __repr__(self) -> str:
        return f"<Inlet {self.name} of {self.stream}>"


def _place(fn: Map) -> str:
    return f"{fn.__module__}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"


def _defined_twice(name: str, first: str, second: str) -> ValueError:
    return ValueError(
        f'inlet {name} is defined twice: {first} and {second}; give one of them a name: tail.inlet(…, name="…")'
    )


def _set_aside(entry: Entry, reason: str, *, traceback: str = "") -> Item:
    return Item(entry.id, "", letter=Letter(reason, entry._raw, traceback=traceback))


def _item(entry: Entry, found: Into | Sequence[Into], max_event_bytes: int) -> Item | None:
    """Raises BadInput."""
    if isinstance(found, Into):
        event = _event(found, max_event_bytes)
        return Item(entry.id, _checked_run(found.run), (event,), len(event[1]), raw=entry._raw)
    if not isinstance(found, Sequence) or not all(isinstance(one, Into) for one in found):
        raise BadEvent(f"its function returned {type(found).__name__}; return Into, several of them, or None")
    if not found:
        return None
    run = _checked_run(found[0].run)
    other = next((one.run for one in found if one.run != run), None)
    if other is not None:
        raise BadEvent(
            f"its events are for runs {run} and {other}: those of one entry are appended in one step, to one run"
        )
    events = [_event(one, max_event_bytes) for one in found]
    size = sum(len(event[1]) for event in events)
    if len(events) > MAX_EVENTS or size > MAX_BYTES:
        raise BadEvent(
            f"it makes {len(events)} events of {size} bytes; {MAX_EVENTS} events and {MAX_BYTES // 1000} KB are appended at once"
        )
    return Item(entry.id, run, events, size, raw=entry._raw)


@functools.lru_cache(4096)
def _checked_run(run: str) -> str:
    if not isinstance(run, str):
        raise BadEvent(f"its run is {run!r}, which is no string", field="run", value=repr(run))
    return check_run(run)


@functools.lru_cache(1024)
def _checked_type(type: str) -> bool:
    """Whether it is one of the lifecycle."""
    check_type(type)
    if type in _OUTSIDE_ILLEGAL:
        raise BadEvent(f"{type} does not come from outside", field="type", value=type)
    return is_lifecycle(type)


def _event(one: Into, max_event_bytes: int) -> Fields:
    """Raises BadInput."""
    labels = check_labels(one.labels) if one.labels else None
    if _checked_type(one.type):
        data = loads(one.data) if isinstance(one.data, _Json) else one.data
        event: Fields = lifecycle_draft(one.type, data, labels, None)
    else:
        event = draft(one.type, bytes(one.data) if isinstance(one.data, _Json) else dumps(one.data), labels=labels)
    if len(event[1]) > max_event_bytes:
        raise BadEvent(
            f"its event {one.type} has {len(event[1])} bytes; at most {max_event_bytes} are allowed", field="data"
        )
    return event
