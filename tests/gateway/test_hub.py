"""The hub: heartbeats by one timer, and the end of all streams."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any, cast

import pytest

from gateway.collector import THRESHOLDS, calm_collector
from gateway.hub import TICKS, Hub, drain_all
from gateway.subscriber import Subscriber
from gateway.unfinished import leave_unfinished
from tests.support.until import until


class Silent:
    """What a hub needs of a subscriber."""

    def __init__(self) -> None:
        self.touched = 0
        self.bucket = 0
        self.beats: list[int] = []
        self.last = b""
        self.hub: Hub | None = None

    def heartbeat(self) -> None:
        assert self.hub is not None
        self.beats.append(self.hub.tick)
        self.touched = self.hub.tick

    def break_off(self, frames: bytes) -> None:
        self.last = frames


def added(hub: Hub, one: Silent | None = None) -> Silent:
    one = one or Silent()
    one.hub = hub
    hub.add(cast("Subscriber", one))
    return one


def removed(hub: Hub, one: Silent) -> None:
    hub.remove(cast("Subscriber", one))


async def test_silence_is_counted_from_the_last_bytes() -> None:
    """A heartbeat comes one period behind the last bytes, a fifteenth late at most; and again after each period."""
    hub = Hub(3600.0)
    quiet, busy = added(hub), added(hub)
    for _ in range(3 * TICKS):
        hub._beat()
        if hub.tick == 10:
            busy.touched = hub.tick
    assert quiet.beats == [TICKS, 2 * TICKS, 3 * TICKS]
    assert busy.beats == [10 + TICKS, 10 + 2 * TICKS]
    removed(hub, quiet)
    removed(hub, busy)


class Broken(Silent):
    """Its connection raises whatever is written to it."""

    def heartbeat(self) -> None:
        raise RuntimeError("write_eof was called")

    def break_off(self, frames: bytes) -> None:
        raise RuntimeError("write_eof was called")


async def test_the_fault_of_one_leaves_the_others_alone() -> None:
    """They get their heartbeats, and end when the process drains."""
    hub = Hub(3600.0)
    ones = [added(hub, kind()) for kind in (Silent, Broken, Silent)]
    for _ in range(2 * TICKS):
        hub._beat()
    assert [one.beats for one in ones] == [[TICKS, 2 * TICKS], [], [TICKS, 2 * TICKS]]
    hub.drain()
    assert [bool(one.last) for one in ones] == [True, False, True]
    for one in ones:
        removed(hub, one)


async def test_who_left_is_not_looked_at() -> None:
    """A subscriber that was removed gets nothing, and the timer rests while nobody is there."""
    hub = Hub(3600.0)
    one = added(hub)
    removed(hub, one)
    for _ in range(2 * TICKS):
        hub._beat()
    assert one.beats == []
    assert hub._timer is None


async def test_drain_reaches_all_and_who_comes_later() -> None:
    """Draining ends every stream, those that begin while the process is about to end too."""
    hub = Hub.of_loop(3600.0)
    one = added(hub)
    drain_all()
    await until(lambda: one.last, "it was told")
    late = added(hub)
    for told in (one, late):
        assert told.last.startswith(b"event: tailrace.reconnect\nretry: ")
        removed(hub, told)
    hub._drained()
    assert not hub.draining


async def test_one_hub_a_loop_and_period() -> None:
    """Streams of all sessions of a loop share a timer."""
    assert Hub.of_loop(15.0) is Hub.of_loop(15.0)
    assert Hub.of_loop(15.0) is not Hub.of_loop(1.0)


async def test_only_what_was_meant_is_kept_from_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """uvicorn's line about an unfinished response is dropped for streams that were broken off, and for nobody else."""
    log = logging.getLogger("uvicorn.error")
    line = "ASGI callable returned without completing response."

    async def meant() -> None:
        leave_unfinished()
        log.error(line)
        log.error("something else")

    async def not_meant() -> None:
        log.error(line)

    with caplog.at_level(logging.ERROR, "uvicorn.error"):
        await asyncio.create_task(meant())
        assert [record.message for record in caplog.records] == ["something else"]
        await asyncio.create_task(not_meant())
        log.error(line)
    assert [record.message for record in caplog.records] == ["something else", line, line]


def test_calm_collector_freezes_what_is_there() -> None:
    """What is there is never looked at again, the rest seldom."""
    before: Any = gc.get_threshold()
    try:
        calm_collector()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == THRESHOLDS
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
