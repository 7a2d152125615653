"""Reactions that cannot work are told where they are written, or when a worker begins; never by an event that is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from processor import Event, Run, Tailrace
from processor.core.errors import BadInput


@pytest.fixture
def tail() -> Tailrace:
    return Tailrace("redis://unused")


def prepared(tail: Tailrace) -> None:
    """As a worker does that begins."""
    for group in tail.reactions.values():
        for reaction in group.reactions:
            reaction.prepare()


def test_a_function_that_yields_is_refused(tail: Tailrace) -> None:
    """Nothing would run a generator: its events would be acknowledged unhandled."""
    with pytest.raises(TypeError, match="reaction each yields"):

        @tail.on("order.paid")
        async def each(event: Event[Any]) -> AsyncIterator[int]:
            yield 1

    with pytest.raises(TypeError, match="reaction every yields"):

        @tail.on("order.paid")
        def every(event: Event[Any]) -> Iterator[int]:
            yield 1


def test_one_event_or_a_list_as_batch_says(tail: Tailrace) -> None:
    """A worker does not begin with a function that would get a list for an event, or the other way round."""

    @tail.on("order.paid", batch=10)
    async def one(event: Event[Any]) -> None: ...

    with pytest.raises(TypeError, match=r"reaction one: .* event, is Event; .*list\[Event\]"):
        prepared(tail)
    del tail.reactions["one"]

    @tail.on("order.paid")
    async def many(events: list[Event[Any]]) -> None: ...

    with pytest.raises(TypeError, match=r"reaction many: .* events, is list of Event; .*batch="):
        prepared(tail)


def test_the_event_comes_first(tail: Tailrace) -> None:
    """A function whose first parameter is the run would get them the other way round."""

    @tail.on("order.paid")
    async def swapped(run: Run[Any], event: Event[Any]) -> None: ...

    with pytest.raises(TypeError, match="first parameter, run, is Run; write `event: Event`"):
        prepared(tail)


def test_what_fits_begins(tail: Tailrace) -> None:
    """Lists with batch, events without, and functions that say nothing or Any."""

    @tail.on("order.paid", batch=10)
    async def many(events: list[Event[Any]], run: Run[Any]) -> None: ...

    @tail.on("order.paid")
    async def one(event: Event, run: Run[Any]) -> None: ...

    @tail.on("order.paid")
    def bare(event, run): ...  # type: ignore[no-untyped-def]

    @tail.on("order.paid", batch=10)
    def any_of(events: Any) -> None: ...

    prepared(tail)


def test_a_reaction_that_would_never_get_an_event_is_refused(tail: Tailrace) -> None:
    """Two functions of one group on the same pattern and labels: the second one would be silent for good."""

    def first(event: Event[Any]) -> None: ...

    def second(event: Event[Any]) -> None: ...

    tail.on("order.paid", group="g")(first)
    tail.on("order.paid", group="g", where={"country": "fr"})(second)
    tail.on("order.paid", group="g")(first)  # defined again: replaces itself
    with pytest.raises(BadInput, match=r"group g: .*first is on order.paid already.*second would get nothing"):
        tail.on("order.paid", group="g")(second)


def test_wrong_types_are_told(tail: Tailrace) -> None:
    """What the decorator is given by mistake is named, with what to write."""
    on: Any = tail.on
    pattern = "order.paid"
    mistakes: list[tuple[object, dict[str, object], str]] = [
        (test_wrong_types_are_told, {}, r'no pattern.*\n.*@tail.on\("order.paid"\)'),
        ([pattern, "order.sent"], {}, "decorate the function once for each"),
        (pattern, {"where": "country=fr"}, r"where is 'country=fr'.*\n.*by name"),
        (pattern, {"batch": True}, "batch is True"),
        (pattern, {"retry": "3"}, "attempts is '3'; give a whole number"),
    ]
    for given, settings, said in mistakes:
        with pytest.raises(BadInput, match=said):
            on(given, **settings)
