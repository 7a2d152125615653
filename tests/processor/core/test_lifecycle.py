"""The lifecycle in Python; test_lua_headers compares it with the one in Lua."""

from __future__ import annotations

from typing import get_args

import pytest

from processor.core.lifecycle import ENDS, TERMINAL, Status, next_status
from tests.processor.store import state

TYPES = [
    *ENDS,
    *(f"run.{name}" for name in ("queued", "started", "waiting", "resumed", "retrying", "cancel_requested")),
]
ACTIVE: tuple[Status, ...] = ("queued", "running", "waiting")


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("status", [None, *ACTIVE])
@pytest.mark.parametrize("type", [*TYPES, "message.delta", "run.mine", "order.paid"])
def test_as_the_documents_say(status: Status | None, type: str, live: bool) -> None:
    """The table is what a model written from DESIGN 4 and WIRE 2 says of every status, type and way of writing."""
    assert next_status(status, type, live=live) == state.next_status(status, type, live)


@pytest.mark.parametrize("type", [*TYPES, "message.delta"])
def test_an_end_is_final(type: str) -> None:
    """A terminal status takes nothing; statuses are those that end and those that do not."""
    assert set(get_args(Status)) == TERMINAL | set(ACTIVE)
    for status in get_args(Status):
        if status in TERMINAL:
            assert next_status(status, type) is next_status(status, type, live=True) is None


def test_every_status_is_reached_and_left() -> None:
    """Every status can be reached from nothing, and from every active one every end."""
    reached: set[Status | None] = {None}
    while True:
        more = {next_status(s, type, live=live) for s in reached for type in TYPES for live in (False, True)} | reached
        if more == reached:
            break
        reached = more
    assert reached == {None, *get_args(Status)}
    for status in ACTIVE:
        assert {next_status(status, type) for type in ENDS} == TERMINAL
