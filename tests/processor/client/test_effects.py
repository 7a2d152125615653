"""What a task does to other runs, executed without a worker: once, when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.backoff import Retry
from processor.core.errors import BufferFull, NotStarted, RunFailed, RunNotFound
from tests.support.until import until

__all__: list[str] = []


async def _exists(tail: Tailrace, run: str) -> bool:
    try:
        return bool(await tail.run(run).state())
    except RunNotFound:
        return False


async def types_of(tail: Tailrace, run: str) -> list[str]:
    return [event.type async for event in tail.run(run).follow(live=False)]


async def test_once_when_it_is_over(tail: Tailrace) -> None:
    """Events for other runs of a task that is tried three times are applied once, in their order, with its end."""

    @tail.task(retry=Retry(attempts=3, base_seconds=0.01))
    async def work(run: Run[Any]) -> None:
        assert await tail.run("other").emit("order.seen", {"attempt": run.attempt}) is None
        tail.run("other").emit("order.paid")
        if run.attempt < 3:
            raise ValueError("not yet")

    run = await work.start_here()
    await run.result(10)

    await until(lambda: _exists(tail, "other"), "the other run has its events")
    events = [event async for event in tail.run("other").follow(live=False)]
    assert [event.type for event in events] == ["order.seen", "order.paid"]
    assert events[0].data == {"attempt": 3}


async def test_through_another_handle(tail: Tailrace) -> None:
    """A second handle of the task's own run writes live, as the first one does."""

    @tail.task
    async def work(run: Run[Any]) -> None:
        tail.run(run.id).emit("order.seen")

    run = await work.start_here()
    await run.result(10)
    assert await types_of(tail, run.id) == ["run.started", "order.seen", "run.finished"]


async def test_refused(tail: Tailrace) -> None:
    """A task whose event is not allowed in a run of its partition has failed, and nothing of it was applied."""
    await tail.run("t~closed").emit("run.started")
    await tail.run("t~closed").emit("run.finished")

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> None:
        tail.run("t~fresh").emit("order.seen")
        tail.run("t~closed").emit("order.seen")

    with pytest.raises(RunFailed, match="refused: closed"):
        await (await work.options(thread="t").start_here()).result(10)
    assert not await _exists(tail, "t~fresh")
    assert await types_of(tail, "t~closed") == ["run.started", "run.finished"]


async def test_too_many(tail: Tailrace) -> None:
    """More than 200 events for other runs are refused when they are written."""

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> None:
        for _ in range(200):
            tail.run("many").emit("order.seen")
        with pytest.raises(BufferFull, match="200 events"):
            tail.run("many").emit("order.seen")
        raise ValueError("and nothing is applied")

    with pytest.raises(RunFailed):
        await (await work.start_here()).result(10)


async def test_started_as_an_effect(tail: Tailrace) -> None:
    """A run that a task starts is queued when the task is over; to wait for it in the task is refused."""

    @tail.task
    async def later(run: Run[Any]) -> None: ...

    @tail.task
    async def work(run: Run[Any]) -> str:
        started = await later.start()
        with pytest.raises(NotStarted, match="begins when this handler returns"):
            await started.result()
        return started.id

    run = await work.start_here()
    child = tail.run(await run.result(10))

    await until(lambda: _exists(tail, child.id), "the run is queued")
    assert (await child.state()).status == "queued"
