"""A task with a schedule, from its decorator to its runs."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.schedule import Schedule
from processor.store.schedules import list_schedules, pause, resume
from processor.worker import keeping
from processor.worker.singletons import Singletons
from tests.processor.worker.conftest import working
from tests.support.until import until


def second_of(run: str) -> int:
    return int(datetime.strptime(run, "beat~%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp())


async def test_a_scheduled_task(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs at each of its times, once, though one of two workers ends; while it is paused it does not."""
    monkeypatch.setattr(keeping, "Singletons", partial(Singletons, ttl_ms=500))
    ran: list[int] = []

    @tail.task(cron=Schedule(every_seconds=1))
    async def beat(run: Run) -> None:
        ran.append(second_of(run.id))

    session = await tail.session()
    async with working(tail, consumer="a"):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(working(tail, consumer="b"))
            await until(lambda: len(ran) >= 3, "it ran three times", 15)
        before = len(ran)
        await until(lambda: len(ran) >= before + 2, "it runs on with one worker", 15)
        await pause(session, "beat")
        paused_ms, _ = await list_schedules(session)

        async def passed() -> bool:
            return (await list_schedules(session))[0] > paused_ms + 3000

        await until(passed, "three times passed in the pause", 10)
        whole = sorted(ran)
        await resume(session, "beat")
        await until(lambda: len(ran) >= len(whole) + 2, "it runs again", 10)
    assert whole == list(range(whole[0], whole[0] + len(whole)))
    assert whole[-1] <= paused_ms // 1000 + 1  # one look may have been under way
    assert min(set(ran) - set(whole)) > paused_ms // 1000 + 2
    assert len(ran) == len(set(ran))
