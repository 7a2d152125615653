"""What tasks are to a worker: inputs, dependencies, middleware, threads, starts as effects, calls."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from processor import Depends, Retry, Run, SyncRun, Tailrace
from processor.client.calling import CallNext
from processor.core.errors import NotStarted, RunCancelled, RunFailed
from processor.core.settings import Settings
from tests.processor.worker.conftest import working
from tests.support.until import until


@dataclass
class Place:
    row: int


@pytest.fixture
async def tail(settings: Settings) -> AsyncIterator[Tailrace]:
    async with Tailrace(settings=settings) as tail:
        yield tail


async def test_typed_input_dependencies_and_middleware(tail: Tailrace) -> None:
    """A queued run's function gets its arguments as their types, its dependencies, and middleware around it."""
    seen: list[str] = []

    @tail.middleware
    async def told(run: Run, call_next: CallNext) -> Any:
        seen.append(run.id)
        return await call_next(run)

    async def double(run: Run) -> AsyncIterator[str]:
        yield run.id * 2
        seen.append("cleaned up")

    @tail.task
    async def task(run: Run, place: Place, more: int = 2, twice: str = Depends(double)) -> list[object]:
        assert isinstance(place, Place)
        return [place.row, more, twice]

    async with working(tail):
        run = await task.options(id="r").start(Place(3))
        with anyio.fail_after(5):
            assert await run.result() == [3, 2, "rr"]
    assert seen == ["r", "cleaned up"]


async def test_an_input_that_does_not_fit_fails_the_run_at_once(tail: Tailrace) -> None:
    """What was started elsewhere with another input is not tried again, and its error names the parameter."""

    @tail.task(retry=5)
    async def task(run: Run, place: Place) -> None: ...

    async with working(tail):
        run = await tail.start("task", place={"row": "many"})
        with anyio.fail_after(5), pytest.raises(RunFailed, match="place does not fit: row") as failed:
            await run.result()
    assert failed.value.reason == "error"
    assert (await run.state()).attempt == 1


async def test_a_start_in_a_task_begins_when_that_is_over(tail: Tailrace) -> None:
    """A start is an effect: of a try that fails nothing is started, and the handle does not wait for what has not begun."""
    tries = 0

    @tail.task
    async def second(run: Run, tried: int) -> int:
        return tried

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001))
    async def first(run: Run) -> None:
        nonlocal tries
        tries += 1
        started = await second.options(id=f"second-{tries}").start(tries)
        with pytest.raises(NotStarted):
            await started.result()
        if tries == 1:
            raise ValueError("once more")

    async with working(tail):
        run = await first.start()
        with anyio.fail_after(10):
            await run.result()
            await until(lambda: _status(tail, "second-2", "succeeded"), "what the second try started has ended")
    assert [state.run async for state in tail.runs(task="second")] == ["second-2"]


def _has(items: list[str], number: int) -> bool:
    return len(items) == number


async def _status(tail: Tailrace, run: str, status: str) -> bool:
    return status in [state.status async for state in tail.runs() if state.run == run]


async def test_a_plain_task_starts_by_sync_as_an_effect(tail: Tailrace) -> None:
    """`.sync.start` in a thread of a task is settled with the task as well."""

    @tail.task
    async def second(run: Run) -> str:
        return "done"

    @tail.task
    def first(run: SyncRun) -> str:
        started = second.sync.options(id="second").start()
        with pytest.raises(NotStarted):
            started.result()
        return started.id

    async with working(tail):
        with anyio.fail_after(10):
            assert await (await first.start()).result() == "second"
            await until(lambda: _status(tail, "second", "succeeded"), "the second task has ended")


async def test_calls_nest_deeper_than_there_are_places(tail: Tailrace) -> None:
    """A parent that waits takes no place, so children of children run however few places there are."""

    @tail.task(concurrency=2)
    async def down(run: Run, depth: int) -> int:
        return 0 if depth == 0 else 1 + await down.call(depth - 1)

    @tail.task
    def plain(run: SyncRun, depth: int) -> int:
        return 0 if depth == 0 else 1 + plain.sync.call(depth - 1)

    async with working(tail, concurrency=2) as worker:
        with anyio.fail_after(20):
            assert await (await down.start(12)).result() == 12
            assert await (await plain.start(12)).result() == 12
        await until(lambda: worker.places.taken == 0, "no place is taken")


async def test_calls_at_once(tail: Tailrace) -> None:
    """A parent may wait for many children at once; its place is free once, and taken once behind them."""

    @tail.task
    async def child(run: Run, n: int) -> int:
        return n * n

    @tail.task
    async def parent(run: Run) -> list[int]:
        return await asyncio.gather(*(child.call(n) for n in range(10)))

    async with working(tail, concurrency=3) as worker:
        with anyio.fail_after(10):
            assert await (await parent.start()).result() == [n * n for n in range(10)]
        await until(lambda: worker.places.taken == 0, "every place is free")
        assert worker.places.free_in_all == 3


async def test_the_next_attempt_of_a_parent_reuses_its_children(tail: Tailrace) -> None:
    """Each finished child is executed once, however often its parent is tried; a failed one again for each try."""
    executed: list[str] = []

    @tail.task(retry=1)
    async def child(run: Run, name: str) -> str:
        executed.append(name)
        if name == "unlucky" and executed.count(name) < 3:
            raise ValueError(name)
        return name

    @tail.task(retry=Retry(attempts=3, base_seconds=0.001))
    async def parent(run: Run) -> list[str]:
        return [await child.call("lucky"), await child.call("unlucky")]

    async with working(tail):
        with anyio.fail_after(10):
            assert await (await parent.start()).result() == ["lucky", "unlucky"]
    assert executed == ["lucky", "unlucky", "unlucky", "unlucky"]


async def test_a_cancel_passes_from_parent_to_child(tail: Tailrace) -> None:
    """A cancel reaches the function of the child, async or in a thread, and both runs end as cancelled."""
    stopped: list[str] = []
    begun = asyncio.Event()

    @tail.task
    async def child(run: Run) -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append(run.id)

    @tail.task
    async def parent(run: Run) -> None:
        await child.call()

    @tail.task
    def plain(run: SyncRun) -> None:
        child.sync.call()

    async with working(tail):
        for number, task in enumerate((parent, plain), 1):
            run = await task.start()
            with anyio.fail_after(10):
                await begun.wait()
                begun.clear()
                await run.cancel("enough")
                with pytest.raises(RunCancelled, match="enough"):
                    await run.result()
                await until(functools.partial(_has, stopped, number), "the child is stopped")
                with pytest.raises(RunCancelled):
                    await tail.run(stopped[-1]).result()


async def test_many_plain_tasks_at_once(tail: Tailrace) -> None:
    """As many plain functions run at once as the worker has places."""
    many = 40
    gate = threading.Barrier(many)

    @tail.task
    def meeting(run: SyncRun) -> int:
        return gate.wait(15)

    async with working(tail, concurrency=many):
        runs = [await meeting.start() for _ in range(many)]
        with anyio.fail_after(20):
            assert sorted([await run.result() for run in runs]) == list(range(many))


async def test_a_call_from_start_here_is_executed_by_a_worker(tail: Tailrace) -> None:
    """A run that is executed without a worker may call tasks that workers execute."""

    @tail.task
    async def child(run: Run) -> str:
        return run.id

    @tail.task
    async def parent(run: Run) -> str:
        return await child.call()

    async with working(tail):
        with anyio.fail_after(5):
            run = await parent.start_here()
            assert (await run.result()).startswith(f"{run.id}~")


async def test_what_a_task_left_behind_is_no_part_of_it(tail: Tailrace) -> None:
    """Code that outlives its execution writes, starts and follows as code outside of one: nothing of it is lost."""
    over = asyncio.Event()
    left: list[asyncio.Task[str]] = []

    @tail.task
    async def second(run: Run) -> str:
        return "done"

    async def later() -> str:
        await over.wait()
        await tail.run("other").emit("order.paid", {})
        return await (await second.start()).result()

    @tail.task
    async def first(run: Run) -> None:
        left.append(asyncio.create_task(later()))

    async with working(tail):
        with anyio.fail_after(5):
            await (await first.start()).result()
            over.set()
            assert await left[0] == "done"
            assert [event.type async for event in tail.run("other").follow(live=False)] == ["order.paid"]


async def test_another_namespace_is_no_part_of_it(tail: Tailrace) -> None:
    """What a task writes into another namespace goes there at once: it cannot be settled with the task."""
    other = tail.in_namespace(f"{tail.settings.namespace}-other")

    @tail.task(retry=1)
    async def first(run: Run) -> str:
        await other.run("r").log("a line")
        started = await other.start("elsewhere")
        return (await started.state()).status

    async with working(tail):
        with anyio.fail_after(5):
            assert await (await first.start()).result() == "queued"
        assert [event.type async for event in other.run("r").follow(live=False)] == ["log"]
    assert not [state async for state in tail.runs(task="elsewhere")]
    await other.close()


async def test_a_child_gives_what_its_function_returns(tail: Tailrace) -> None:
    """A parent gets its child's result as the type that it returns."""

    @tail.task
    async def child(run: Run, row: int) -> Place:
        return Place(row)

    @tail.task
    async def parent(run: Run) -> bool:
        place = await child.call(3)
        return place == Place(3)

    async with working(tail):
        with anyio.fail_after(5):
            assert await (await parent.start()).result()
