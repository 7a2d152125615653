"""JSON in and out."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from processor.core.errors import BadEvent
from processor.core.json import dumps, loads
from processor.core.start import start_hash

any_text = st.text(st.characters(), max_size=20)  # lone surrogates too
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64, 10**400])
def test_long_integers_stay_whole(number: int) -> None:
    """orjson would take them for floats."""
    assert loads(dumps({"n": number})) == {"n": number}


@given(values)
def test_round_trip(value: object) -> None:
    """Every JSON value is written in one line and read as an equal one, whatever orjson thinks of it."""
    written = dumps(value)
    assert b"\n" not in written
    assert b"\r" not in written
    assert loads(written) == value


class Model(BaseModel):
    a: int


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Model(a=1), b'{"a":1}'),
        (Point(2), b'{"x":2}'),
        ([Point(2), Model(a=1)], b'[{"x":2},{"a":1}]'),
        ({"p": Point(2**70)}, b'{"p":{"x":1180591620717411303424}}'),
        ({3}, b"[3]"),
        ((1, 2), b"[1,2]"),
        (b"raw", b'"raw"'),
        ({"s": "\ud800", "m": Model(a=1)}, b'{"s":"\\ud800","m":{"a":1}}'),
    ],
)
def test_models_and_containers(value: object, text: bytes) -> None:
    """pydantic models, dataclasses, sets, tuples and bytes are written as one would expect."""
    assert dumps(value) == text


@pytest.mark.parametrize("value", [object(), {"a": object()}, [lambda: 1], 1j])
def test_what_is_no_json(value: object) -> None:
    """Anything else is BadEvent with a remedy."""
    with pytest.raises(BadEvent, match="cannot be written as JSON"):
        dumps(value)


@pytest.mark.parametrize("text", [b"", b"{", b"[1,]", b"nul", b'{"a" 1}'])
def test_bad_text(text: bytes) -> None:
    """What is no JSON raises ValueError."""
    with pytest.raises(ValueError):
        loads(text)


def test_numbers_beyond_a_double() -> None:
    """A number too large for a double is read as infinity rather than refused: it was stored as it came."""
    assert loads(b"1e400") == math.inf


@given(st.dictionaries(any_text, values, max_size=4))
def test_equal_starts_have_equal_hashes(input: dict[str, object]) -> None:
    """The order of members does not count, the task and every value do."""
    turned = json.loads(json.dumps(dict(reversed(input.items()))))
    assert start_hash("task", input) == start_hash("task", turned)
    assert start_hash("task", input) != start_hash("other", input)
    assert start_hash("task", input) != start_hash("task", {**input, "more": 1})
    assert start_hash("task", {"a": 1}) != start_hash("task", {"a": 1.0}) != start_hash("task", {"a": "1"})
