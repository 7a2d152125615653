"""A shared group looks at what is pending for itself after each new connection: what it has, or has just settled, is not begun
again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import processor.worker.log_reader as log_reader
from processor import Tailrace
from processor.core.events import Event
from processor.store.reacting import Claimed, claim
from processor.worker.shared_group import SharedGroup
from tests.processor.worker.conftest import working
from tests.support.until import until


async def test_what_ends_during_the_look_is_not_begun_again(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler ends and is settled while the answer that lists its event as pending is on its way."""
    calls: list[str] = []
    listed = asyncio.Event()
    look = claim

    async def slow_look(*args: Any, **options: Any) -> Claimed:
        page = await look(*args, **options)
        if options.get("own") and page.deliveries:
            listed.set()
            await until(lambda: not worker.reacting.held, "the handler's event is settled")
        return page

    @tail.on("order.paid", group="g")
    async def handle(event: Event[Any]) -> None:
        calls.append(event.id)
        await listed.wait()

    monkeypatch.setattr(log_reader, "claim", slow_look)
    await (await tail.session()).bind_groups()  # it was opened before the reaction was there
    await tail.run("a").emit("order.paid", {})
    async with working(tail) as worker:
        await until(lambda: calls, "the handler has begun")
        [group] = worker.reacting._readers
        assert isinstance(group, SharedGroup)
        group._reader.be_unsure()  # as after a lost connection
        await until(listed.is_set, "the event was listed")
        await tail.run("a").emit("order.paid", {})
        await until(lambda: len(calls) >= 2, "the next event is handled")
        await until(lambda: not worker.reacting.held, "all is settled")
    assert len(set(calls)) == len(calls) == 2
