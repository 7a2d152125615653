"""Records as data of `log` events."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from processor.logs.lines import Line, of_event, of_record

LIMIT = 60_000


def record(message: object, *args: object, level: int = logging.INFO, **more: Any) -> logging.LogRecord:
    return logging.getLogger("shop").makeRecord("shop", level, __file__, 1, message, args, **{"exc_info": None, **more})


def data(line: Line, limit: int = LIMIT) -> Any:
    encoded = line.encode(limit)
    assert len(encoded) <= limit
    assert b"\n" not in encoded
    return json.loads(encoded)


def error() -> Any:
    try:
        raise ValueError("no such order\nreally")
    except ValueError:
        return sys.exc_info()


class Odd:
    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_a_record() -> None:
    """Level, lines, logger, and what `extra` added."""
    line = of_record(record("order %s\nis late", 7, level=logging.WARNING, extra={"user": "ada", "cents": 5}))
    assert data(line) == {
        "level": "warning",
        "lines": ["order 7", "is late"],
        "logger": "shop",
        "fields": {"user": "ada", "cents": 5},
    }
    assert data(of_record(record("x"))) == {"level": "info", "lines": ["x"], "logger": "shop"}


def test_an_exception() -> None:
    """Its traceback's lines stand behind the message's, the stack's behind those."""
    line = of_record(record("failed", level=logging.ERROR, exc_info=error(), sinfo="Stack:\n  here"))
    assert line.lines[:2] == ["failed", "Traceback (most recent call last):"]
    assert line.lines[-4:] == ["ValueError: no such order", "really", "Stack:", "  here"]


def test_a_formatter_makes_the_lines() -> None:
    """Where one is set, as its user wants them."""
    form = logging.Formatter("%(levelname)s %(message)s").format
    assert of_record(record("a", exc_info=error()), form).lines[:2] == ["INFO a", "Traceback (most recent call last):"]


def test_arguments_that_do_not_fit() -> None:
    """A message that cannot be formatted is shown as it was written."""
    assert of_record(record("%d of %d", 1)).lines == ["%d of %d (1,) (not formatted: TypeError)"]
    assert of_record(record(Odd())).lines[0].startswith("<Odd>")


def test_an_event_of_structlog() -> None:
    """The event's lines, level and logger; the rest are fields."""
    event = {"event": "paid", "level": "info", "cents": 5, "exc_info": error()[1], "_record": object()}
    line = of_event(event, "exception", "shop")
    assert (line.level, line.logger, line.fields) == ("info", "shop", {"cents": 5})
    assert (line.lines[0], line.lines[-1]) == ("paid", "really")
    assert of_event({"event": "x", "exception": "a\nb"}, "warn", "").lines == ["x", "a", "b"]
    assert of_event({"event": "x"}, "exception", "").level == "error"
    assert of_event({"event": "x", "exception": [{"type": "E"}]}, "info", "").fields == {"exception": [{"type": "E"}]}


def test_structlog_behind_logging() -> None:
    """What structlog hands to logging unrendered is an event all the same."""
    line = of_record(record({"event": "paid", "cents": 5, "logger": "till"}))
    assert (line.lines, line.logger, line.fields) == (["paid"], "till", {"cents": 5})


class Colour(Enum):
    RED = "red"


@dataclass
class Order:
    number: int
    lines: list[Decimal]


class Model(BaseModel):
    when: datetime


def test_fields_of_any_kind() -> None:
    """Values become JSON: what has a shape keeps it, everything else is shown as repr does."""
    cycle: dict[str, object] = {}
    cycle["self"] = cycle
    fields = {
        "order": Order(1, [Decimal("1.5")]),
        "model": Model(when=datetime(2026, 1, 2, tzinfo=UTC)),
        "colour": Colour.RED,
        "path": Path("a/b"),
        "id": UUID(int=1),
        "bytes": b"\xff1",
        "nan": float("nan"),
        "large": 1 << 70,
        "set": {1},
        "keys": {1: 2, None: 3},
        "surrogate": "\ud800",
        "odd": Odd(),
        "type": int,
        "cycle": cycle,
    }
    said = data(Line("info", ["x"], "", fields))["fields"]
    cycle_text = json.dumps(said.pop("cycle"))
    assert cycle_text.startswith('{"self": {"self"')
    assert len(cycle_text) < 500
    assert said == {
        "order": {"number": 1, "lines": ["1.5"]},
        "model": {"when": "2026-01-02T00:00:00+00:00"},
        "colour": "red",
        "path": "a/b",
        "id": "00000000-0000-0000-0000-000000000001",
        "bytes": "\ufffd1",
        "nan": "nan",
        "large": str(1 << 70),
        "set": [1],
        "keys": {"1": 2, "None": 3},
        "surrogate": "\ud800",
        "odd": "<Odd>",
        "type": "<class 'int'>",
    }


def test_sizes_are_bounded() -> None:
    """A record keeps its limit: long texts and large collections are cut, then fields left out, then lines in the middle."""
    said = data(Line("info", ["x"], "", {"text": "y" * 20_000, "list": list(range(5000))}))["fields"]
    assert said["text"].endswith("… (20,000 characters)")
    assert said["list"][-1].endswith(" more")
    assert data(Line("info", ["x"], "", {"text": "y" * 7000}), 5000)["fields"]["left_out"]
    lines = data(Line("info", [f"line {n} ü" for n in range(10_000)], "", {}), 5000)["lines"]
    assert (lines[0], lines[-1]) == ("line 0 ü", "line 9999 ü")
    assert any(line.endswith("lines left out: the record is too large …") for line in lines)
    assert data(Line("info", ["\ud800" * 20_000], "", {}), 5000)["lines"][0].startswith("\ud800")


@given(
    st.lists(st.text(), min_size=1),
    st.dictionaries(
        st.text(), st.recursive(st.none() | st.floats() | st.text() | st.integers() | st.binary(), st.lists)
    ),
    st.integers(400, 3000),
)
def test_any_record_fits(lines: list[str], fields: dict[str, object], limit: int) -> None:
    """Whatever it holds, a record is JSON in one line within its limit."""
    assert data(Line("info", lines, "shop", fields), limit)["level"] == "info"
