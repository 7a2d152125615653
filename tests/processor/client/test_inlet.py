"""What an entry of an inlet becomes: events for one run, nothing, or a dead letter with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processor import Tailrace
from processor.client.inlet import Entry, Inlet, Into
from processor.core.errors import BadEvent, BadInput, BadName
from processor.core.inlet import Item
from processor.core.start import start_hash

MAX_EVENT = 64 * 1024


def raw_of(fields: Mapping[str, bytes | str]) -> list[bytes]:
    return [
        part
        for name, value in fields.items()
        for part in (name.encode(), value.encode() if isinstance(value, str) else value)
    ]


def entry(**fields: bytes | str) -> Entry:
    return Entry("1-0", raw_of(fields))


def default(**fields: bytes | str) -> Item | None:
    return Inlet("orders").item("5-1", raw_of(fields), MAX_EVENT)


def mapped(result: object) -> Item | None:
    """What becomes of an entry whose function returns that."""
    inlet = Inlet("orders")
    inlet.map = lambda entry: result  # type: ignore[assignment,return-value]
    return inlet.item("5-1", [b"a", b"1"], MAX_EVENT)


def taken(item: Item | None) -> Item:
    assert item is not None
    assert item.letter is None, item.letter
    return item


def reason(item: Item | None) -> str:
    assert item is not None
    assert item.letter is not None
    assert item.events == ()
    return item.letter.reason


# Entries.


def test_fields() -> None:
    """Bytes, text and JSON; of a field that occurs twice the last counts."""
    one = Entry("5-1", [b"a", b"1", b"b", b"\xff", b"a", "é".encode(), b"\xfe", b""])
    assert one.fields == {"a": "é".encode(), "b": b"\xff", "\udcfe": b""}
    assert (one.get("a"), one.get("b"), one.get("\udcfe"), one.get("c")) == ("é".encode(), b"\xff", b"", None)
    assert one.text("a") == "é"
    assert entry(a='{"n": [1]}').json("a") == {"n": [1]}
    assert repr(one) == "<Entry 5-1 a, b, \udcfe>"


def test_what_a_field_is_not() -> None:
    """Missing, no UTF-8, no JSON: the error says which field."""
    one = entry(a=b"\xff", b="{")
    for read, words in (
        (lambda: one.text("c"), "there is no field c; it has a, b"),
        (lambda: one.text("a"), "field a is no UTF-8"),
        (lambda: one.json("a"), "field a is no JSON"),
        (lambda: one.json("b"), "field b is no JSON"),
        (lambda: one.raw("b"), "field b is no JSON"),
        (lambda: Entry("1-1", []).text("run"), "there is no field run; it has none"),
    ):
        with pytest.raises(BadEvent, match=words):
            read()


# Without a function.


def test_default_fields() -> None:
    """run, type and data, whose JSON is kept as it was written; others are left out, and data may be missing."""
    item = taken(default(run="o-1", type="order.paid", data='{ "cents":1.50,\n"a":"\\ud800" }', more="x"))
    assert (item.id, item.run) == ("5-1", "o-1")
    assert item.events == (("order.paid", b'"type":"order.paid","data":{ "cents":1.50, "a":"\\ud800" }}', (), ""),)
    assert item.size == len(item.events[0][1])
    assert taken(default(run="o-1", type="a")).events[0][1] == b'"type":"a","data":null}'


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "a"}, "there is no field run; it has type"),
        ({"run": "r"}, "there is no field type; it has run"),
        ({"run": "a b", "type": "a"}, 'run ID "a b"'),
        ({"run": "r", "type": "a b"}, "no event type"),
        ({"run": "r", "type": "tailrace.gap"}, "never stored"),
        ({"run": "r", "type": "run.retrying"}, "does not come from outside"),
        ({"run": "r", "type": "a", "data": "paid"}, "field data is no JSON"),
        ({"run": "r", "type": "a", "data": ""}, "field data is no JSON"),
        ({"run": "r", "type": "a", "data": b"\xff"}, "field data is no JSON"),
        ({"run": "r", "type": "run.queued", "data": "{}"}, "task"),
        ({"run": "r", "type": "a", "data": json.dumps("x" * MAX_EVENT)}, "at most 65536"),
    ],
)
def test_what_cannot_be_an_event(fields: dict[str, bytes | str], words: str) -> None:
    """It is set aside with the reason and its raw fields."""
    item = default(**fields)
    assert words in reason(item)
    assert item is not None
    assert item.letter is not None
    assert item.letter.raw == raw_of(fields)


# With one.


@dataclass
class Order:
    cents: int


def test_one_event() -> None:
    """data is anything that is JSON; labels go along."""
    item = taken(mapped(Into("r", "order.paid", Order(5), {"shop": "eu"})))
    assert item.events[0][1] == b'"type":"order.paid","labels":{"shop":"eu"},"data":{"cents":5}}'
    assert item.raw == [b"a", b"1"]


def test_several_events_for_one_run() -> None:
    """In one step; of none nothing becomes."""
    item = taken(mapped([Into("r", "a", 1), Into("r", "b", 2)]))
    assert [event[0] for event in item.events] == ["a", "b"]
    assert mapped([]) is None
    assert mapped(None) is None
    assert len(taken(mapped((Into("r", "a"),) * 200)).events) == 200


def test_lifecycle() -> None:
    """What run.queued brings beside its data is read from it."""
    (event,) = taken(mapped(Into("r", "run.queued", {"task": "pay", "input": {"cents": 5}}))).events
    assert event[2][:2] == ("pay", start_hash("pay", {"cents": 5}))
    assert event[3] == "pay"
    (same,) = taken(default(run="r", type="run.queued", data='{"task":"pay","input":{"cents":5}}')).events
    assert same[2:] == event[2:]


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ([Into("r", "a"), Into("s", "a")], "for runs r and s"),
        ([Into("r", "a")] * 201, "201 events"),
        ([Into("r", "a", "x" * 60_000)] * 10, "512 KB"),
        (Into("r", "a", object()), "cannot be written as JSON"),
        (Into("r", "a", labels={"b c": "1"}), "labels"),
        (Into("r", "a", labels={"b": "x" * 65}), "labels.b"),
        (Into("r", "a", labels=5), "TypeError"),  # type: ignore[arg-type]
        (Into(["r"], "a"), "TypeError"),  # type: ignore[arg-type]
        (Into(None, "a"), "run is None"),  # type: ignore[arg-type]
        (Into("r", None), "no event type"),  # type: ignore[arg-type]
        ("order.paid", "returned str"),
        ({"run": "r"}, "returned dict"),
        (7, "returned int"),
        ([Into("r", "a"), None], "returned list"),
    ],
)
def test_what_a_function_should_not_return(result: object, words: str) -> None:
    """It is set aside, and says what it was."""
    assert words in reason(mapped(result))


def test_what_a_function_raises() -> None:
    """The entry is set aside with error and traceback, from the function's own line."""
    inlet = Inlet("orders")

    @inlet
    def take(entry: Entry) -> Into:
        return Into("r", "a", entry.fields["cents"])

    item = inlet.item("5-1", [b"a", b"1"], MAX_EVENT)
    assert reason(item) == "KeyError: 'cents'"
    assert item is not None
    assert item.letter is not None
    assert 'entry.fields["cents"]' in item.letter.traceback
    assert "processor/client/inlet.py" not in item.letter.traceback


@given(st.lists(st.tuples(st.sampled_from([b"run", b"type", b"data", b"\xff"]), st.binary(max_size=12))))
def test_any_entry(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Whatever stands in it, it is an event or a letter."""
    item = Inlet("orders").item("5-1", [part for field in fields for part in field], MAX_EVENT)
    assert item is not None
    if item.letter is None:
        (event,) = item.events
        assert json.loads(b"{" + event[1])["type"] == event[0]
    else:
        assert item.letter.reason


# Definitions.


def _one(entry: Entry) -> Into:
    return Into("r", "one")


def _two(entry: Entry) -> Into:
    return Into("r", "two")


def test_ways_to_define() -> None:
    """With a function, as a decorator, or with neither."""
    tail = Tailrace("redis://localhost:1")
    assert tail.inlet("orders", _one).map is _one
    assert tail.inlet("bills", map=_one, name="b").name == "b"

    decorated = tail.inlet("stock", start="now", url="redis://other:1")(_two)
    assert decorated is _two
    plain = tail.inlet("plain")
    assert plain.item("5-1", [b"run", b"r", b"type", b"a"], MAX_EVENT) is not None
    assert {name: inlet.stream for name, inlet in tail.inlets.items()} == {
        "orders": "orders",
        "b": "bills",
        "stock": "stock",
        "plain": "plain",
    }
    assert (tail.inlets["stock"].start, tail.inlets["stock"].url) == ("now", "redis://other:1")
    assert repr(plain) == "<Inlet plain of plain>"


def test_defined_twice() -> None:
    """The same function again is its module, loaded anew; another one under the same name is a mistake."""
    tail = Tailrace("redis://localhost:1")
    tail.inlet("orders")(_one)
    tail.inlet("orders")(_one)
    with pytest.raises(ValueError, match=r"inlet orders is defined twice: by \S+_one and by \S+_two"):
        tail.inlet("orders")(_two)
    with pytest.raises(ValueError, match="of orders and of bills"):
        tail.inlet("bills", _one, name="orders")


async def _later(entry: Entry) -> Any:
    return None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"stream": "{shop}:orders"}, BadName),
        ({"stream": "orders", "name": "a b"}, BadName),
        ({"stream": ""}, BadInput),
        ({"stream": 5}, BadInput),
        ({"stream": "orders", "start": "end"}, BadInput),
        ({"stream": "orders", "map": _later}, BadInput),
    ],
)
def test_bad_definitions(arguments: dict[str, Any], error: type[Exception]) -> None:
    """They are refused where they stand: a key that is no name needs one, and a function answers at once."""
    with pytest.raises(error):
        Tailrace("redis://localhost:1").inlet(**arguments)
