"""The text of a run's current attempt."""

from __future__ import annotations

import itertools

import orjson
from hypothesis import given
from hypothesis import strategies as st

from processor.core.assemble import Assembler, assemble
from processor.core.cursor import FeedId
from processor.core.events import Event, compose

_seq = itertools.count(1)


def event(type: str, attempt: int = 0, **data: object) -> Event[object]:
    return Event("run", FeedId(next(_seq), 1), compose(type, orjson.dumps(data), attempt=attempt))


def delta(text: str, attempt: int = 0, **more: object) -> Event[object]:
    return event("message.delta", attempt, text=text, **more)


@given(st.lists(st.text(max_size=5)))
def test_increments_are_joined(parts: list[str]) -> None:
    """Increments that name no message are one text, in order."""
    assert assemble(delta(part) for part in parts) == "".join(parts)


def test_messages_stand_apart() -> None:
    """Messages come in the order in which they were opened, an empty line between them; increments go to the one they name."""
    events = [
        event("message.started", message="a"),
        delta("1"),
        event("message.started", message="b"),
        delta("2"),
        delta("3", message="a"),
        event("step.started"),
    ]
    assert assemble(events) == "13\n\n2"


def test_a_failed_attempt_is_dropped() -> None:
    """When the next attempt begins, or a retry announces it, the text of older ones goes."""
    for beginning in ("run.started", "run.retrying"):
        events = [event("run.started", 1), delta("old", 1), event(beginning, 2), delta("late", 1), delta("new", 2)]
        assert assemble(events) == "new"


def test_outside_text_stays() -> None:
    """What outside producers wrote has no attempt and stays, an attempt's text in the same message does not."""
    events = [
        event("message.started", message="a"),
        delta("note ", message="a"),
        event("run.started", 1),
        delta("old", 1, message="a"),
        event("run.started", 2),
        delta("new", 2, message="a"),
    ]
    assert assemble(events) == "note new"


def test_a_rewritten_history() -> None:
    """After `restart` nothing of what came before is left."""
    assembler = Assembler()
    assembler.add(event("run.started", 3))
    assembler.add(delta("old", 3))
    assembler.restart()
    assembler.add(delta("new", 1))
    assert assembler.text == "new"
