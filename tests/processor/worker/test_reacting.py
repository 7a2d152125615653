"""Groups of a worker that meet what nobody foresaw."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from processor import Tailrace
from processor.core.backoff import Retry
from processor.core.events import Event
from processor.store.connection import execute
from processor.worker.ordering import OrderedGroup
from processor.worker.shared_group import SharedGroup
from tests.processor.worker.conftest import working
from tests.support.until import until

BY_HAND = {
    "names": ("x", "y"),
    "no feed ID": ("r", "r", "i", "nonsense", "e", '"type":"order.paid","data":1}'),
    "no payload": ("r", "r", "i", "1-1", "e", "nonsense"),
    "empty": ("r", "r", "i", "1-1", "e", ""),
    "no text": ("r", b"\xff", "i", b"\xff", "e", b"\xff"),
}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("fields", BY_HAND.values(), ids=BY_HAND)
async def test_an_entry_that_somebody_added_by_hand_stops_nothing(
    tail: Tailrace, fields: tuple[Any, ...], *, ordered: bool
) -> None:
    """What comes behind it is handled."""
    seen: list[Any] = []

    @tail.on("order.*", group="g", ordered=ordered)
    async def handle(event: Event[Any]) -> None:
        if event.run == "r":
            seen.append(event.data)

    async with working(tail):
        await tail.run("r").emit("order.paid", 1)
        await until(lambda: seen == [1], "the first is handled")
        session = await tail.session()
        keys = session.keys.of("r")
        number = await execute(session.redis, "HINCRBY", keys.meta, "logged", 1)
        seconds, _ = await execute(session.redis, "TIME")
        await execute(session.redis, "XADD", keys.log, f"{seconds}999-{number}", *fields)
        await tail.run("r").emit("order.paid", 2)
        await until(lambda: 2 in seen, "what comes behind it is handled")


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_reader_that_breaks_off_begins_again(
    tail: Tailrace, monkeypatch: pytest.MonkeyPatch, *, ordered: bool
) -> None:
    """It is told, and the group's entries are handled."""
    seen: list[Any] = []
    broken: list[str] = []

    @tail.on("order.*", group="g", ordered=ordered)
    async def handle(event: Event[Any]) -> None:
        seen.append(event.data)

    kind = OrderedGroup if ordered else SharedGroup
    run = kind.run

    async def breaking(self: Any) -> None:
        if not broken:
            broken.append("once")
            raise RuntimeError("nobody foresaw it")
        await run(self)

    monkeypatch.setattr(kind, "run", breaking)
    with capture_logs() as logs:
        async with working(tail):
            await tail.run("r").emit("order.paid", 1)
            await until(lambda: seen == [1], "it is handled")
    assert [log["group"] for log in logs if log["event"] == "group_broke_off"] == ["g"]


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_a_plain_function_writes_behind_its_time_limit_is_refused(tail: Tailrace, *, ordered: bool) -> None:
    """Its thread goes on beside the next try, whose outputs alone count."""
    tries: list[int] = []
    late: list[BaseException | None] = []

    @tail.on("order.paid", group="g", ordered=ordered, timeout_seconds=0.1, retry=Retry(attempts=3, base_seconds=0.01))
    def slow(event: Event[Any], run: Any) -> None:
        tries.append(len(tries) + 1)
        if len(tries) > 1:
            run.emit("seen", len(tries))
            return
        while len(tries) == 1:  # until the next try has begun
            time.sleep(0.01)
        try:
            run.emit("seen", 1)
        except asyncio.CancelledError as error:
            late.append(error)
            raise
        late.append(None)

    async with working(tail):
        await tail.run("r").emit("order.paid", {})
        await until(lambda: late, "the first try wrote")
    assert [type(one) for one in late] == [asyncio.CancelledError]
    assert [event.data async for event in tail.run("r").follow(live=False) if event.type == "seen"] == [2]
