"""A log record as data of a `log` event: level, lines, logger and fields, JSON whatever they hold, and of a bounded size."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import math
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, NamedTuple
from uuid import UUID

from processor.core.json import dumps

__all__ = ["Line", "of_event", "of_record"]

MAX_CHARS: Final = 8000  # of one text in fields
MAX_NODES: Final = 1000  # values in all fields of a record
MAX_DEPTH: Final = 8
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_OF_STRUCTLOG: Final = frozenset({"event", "level", "logger", "exc_info", "exception", "stack", "stack_info"})
_AS_TEXT: Final = (UUID, Decimal, PurePath)
_LEVELS: Final = {"warn": "warning", "exception": "error", "fatal": "critical", "notset": "debug", "msg": "info"}


class Line(NamedTuple):
    """What a record says. fields: of any values; they become JSON when it is encoded."""

    level: str
    lines: list[str]
    logger: str
    fields: Mapping[str, object]

    def encode(self, limit: int) -> bytes:
        """WIRE 7's data of `log`, of at most so many bytes: what is too much is left out, and said to be."""
        data: dict[str, object] = {"level": self.level, "lines": self.lines}
        if self.logger:
            data["logger"] = self.logger
        if self.fields:
            data["fields"] = _Safe().members(self.fields)
        encoded = dumps(data)
        if len(encoded) > limit and self.fields:
            size = len(encoded)
            data["fields"] = {"left_out": f"the record has {size:,} bytes, and {limit:,} are allowed"}
            encoded = dumps(data)
        if len(encoded) > limit:
            data["lines"] = _shortened(self.lines, max(100, limit - (len(encoded) - len(dumps(self.lines))) - 100))
            encoded = dumps(data)
        return encoded


def _shortened(lines: list[str], room: int) -> list[str]:
    """First and last ones: what was logged stands in front, and what a traceback is about behind. room: bytes of JSON."""
    kept_first: list[str] = []
    kept_last: list[str] = []
    left = room // 2
    for line in lines:
        piece, size = _cut_to(line, left)
        if piece:
            kept_first.append(piece)
        left -= size
        if piece != line:
            break
    left = room // 2
    for line in reversed(lines[len(kept_first) :]):
        piece, size = _cut_to(line, left)
        if piece != line:
            break
        kept_last.append(line)
        left -= size
    missing = len(lines) - len(kept_first) - len(kept_last)
    return [*kept_first, f"… {missing or 'parts of'} lines left out: the record is too large …", *reversed(kept_last)]


def _cut_to(line: str, room: int) -> tuple[str, int]:
    """The line, or its beginning, and what that takes. JSON needs six bytes a character at most."""
    size = len(dumps(line)) + 1
    if size <= room:
        return line, size
    return line[: max(0, room - 3) // 6], room


def of_record(record: logging.LogRecord, form: Callable[[logging.LogRecord], str] | None = None) -> Line:
    """Of Python's logging, also where structlog passes its events on. form: what formats it, a message by default."""
    if isinstance(record.msg, Mapping) and "event" in record.msg and form is None:
        return of_event(record.msg, record.levelname, record.name)
    fields = {
        name: value for name, value in record.__dict__.items() if name not in _STANDARD and not name.startswith("_")
    }
    if form is not None:
        return Line(_level(record.levelname), form(record).split("\n"), record.name, fields)
    lines = _message(record).split("\n")
    if record.exc_info:
        lines += _traceback(record.exc_info)
    elif record.exc_text:
        lines += record.exc_text.split("\n")
    if record.stack_info:
        lines += str(record.stack_info).split("\n")
    return Line(_level(record.levelname), lines, record.name, fields)


def of_event(event: Mapping[str, Any], level: str, logger: str) -> Line:
    """Of structlog. level: the method's name, where the event names none."""
    lines = _text(event.get("event", "")).split("\n")
    rendered = event.get("exception")
    lines += rendered.split("\n") if isinstance(rendered, str) else _traceback(event.get("exc_info"))
    for name in ("stack", "stack_info"):
        if isinstance(event.get(name), str):
            lines += event[name].split("\n")
    fields = {
        str(name): value for name, value in event.items() if name not in _OF_STRUCTLOG and not str(name).startswith("_")
    }
    if rendered is not None and not isinstance(rendered, str):
        fields["exception"] = rendered
    return Line(_level(_text(event.get("level") or level)), lines, _text(event.get("logger") or logger), fields)


def _level(name: str) -> str:
    name = name.lower()
    return _LEVELS.get(name, name)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit: what was logged is shown all the same
        return f"{_text(record.msg)} {brief(record.args)} (not formatted: {type(error).__name__})"


def _traceback(exc_info: Any) -> list[str]:
    """Lines of an exception, as logging and structlog give it: itself, a triple, or True for the present one."""
    if not exc_info:
        return []
    if isinstance(exc_info, BaseException):
        error: BaseException | None = exc_info
    elif isinstance(exc_info, tuple) and len(exc_info) == 3:
        error = exc_info[1]
    else:
        import sys

        error = sys.exc_info()[1]
    if error is None:
        return []
    try:
        return "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    except Exception as odd:  # noqa: BLE001 - an exception that cannot even be shown
        return [f"{type(error).__name__} (its traceback cannot be shown: {type(odd).__name__})"]


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - whatever the user's class raises
        return f"<{type(value).__name__}>"


def brief(value: object) -> str:
    """repr() that always is one."""
    try:
        return _cut(repr(value))
    except Exception:  # noqa: BLE001 - whatever the user's class raises
        return f"<{type(value).__name__}>"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else f"{text[:MAX_CHARS]}… ({len(text):,} characters)"


class _Safe:
    """Makes JSON of anything. One for each record, since it counts what it has made."""

    def __init__(self) -> None:
        self._left = MAX_NODES

    def members(self, fields: Mapping[Any, object], depth: int = 0) -> dict[str, object]:
        made: dict[str, object] = {}
        for name, value in list(fields.items()):
            if self._left <= 0:
                made["…"] = f"{len(fields) - len(made)} more"
                break
            made[_cut(name) if isinstance(name, str) else brief(name)] = self.value(value, depth + 1)
        return made

    def value(self, value: object, depth: int) -> object:
        """Never raises."""
        self._left -= 1
        try:
            return self._value(value, depth)
        except Exception:  # noqa: BLE001 - whatever the user's class raises
            return brief(value)

    def _value(self, value: Any, depth: int) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self.value(value.value, depth + 1)
        if isinstance(value, str):
            return _cut(str.__str__(value))
        if isinstance(value, int):
            return int(value) if value.bit_length() <= 64 else brief(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else repr(float(value))
        if isinstance(value, (bytes, bytearray)):
            return _cut(bytes(value[:MAX_CHARS]).decode("utf-8", "replace"))
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        if isinstance(value, _AS_TEXT):
            return _cut(str(value))
        if depth >= MAX_DEPTH:
            return brief(value)
        return self._whole(value, depth)

    def _whole(self, value: Any, depth: int) -> object:
        if isinstance(value, Mapping):
            return self.members(value, depth)
        if isinstance(value, (list, tuple, Set, deque)):
            return self._items(value, len(value), depth)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return self.members({one.name: getattr(value, one.name) for one in dataclasses.fields(value)}, depth)
        dump = getattr(type(value), "model_dump", None)
        return self.members(dump(value), depth) if dump is not None else brief(value)

    def _items(self, values: Iterable[object], count: int, depth: int) -> list[object]:
        made: list[object] = []
        for value in list(values):
            if self._left <= 0:
                made.append(f"… {count - len(made)} more")
                break
            made.append(self.value(value, depth + 1))
        return made
