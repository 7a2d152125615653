"""Executing a task's function: input, middleware, threads."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import anyio
import pytest

from processor import Depends, Retry, Run, SyncRun, Tailrace
from processor.client.calling import CallNext, executing, invoke
from processor.core.errors import BadInput, RunFailed
from tests.support.until import until


async def test_the_input_becomes_arguments(tail: Tailrace) -> None:
    """A worker gives what the run carries; the function gets its arguments, and what it returns comes back."""

    @tail.task
    async def add(run: Run, a: int, b: int = 2) -> int:
        return a + b

    run = tail.run("r")
    assert await invoke(add, run, {"a": 1}) == 3
    with pytest.raises(BadInput, match="a is missing"):
        await invoke(add, run, {})


async def test_middleware_stands_around_outermost_first(tail: Tailrace) -> None:
    """Middleware sees the run and what becomes of it, and may answer in the task's place."""
    seen: list[str] = []

    def around(name: str) -> Any:
        async def middleware(run: Run, call_next: CallNext) -> Any:
            seen.append(f"{name} {run.id} {run.task}")
            try:
                return await call_next(run)
            finally:
                seen.append(name)

        return middleware

    other = Tailrace("redis://127.0.0.1:1", middleware=[around("first"), around("second")])

    @other.middleware
    async def cached(run: Run, call_next: CallNext) -> Any:
        return "kept" if run.id == "kept" else await call_next(run)

    def dependency() -> str:
        seen.append("dependency")
        return "x"

    @other.task
    async def task(run: Run, x: str = Depends(dependency)) -> str:
        seen.append("task")
        return x

    assert await invoke(task, other.run("r"), {}) == "x"
    assert seen == ["first r task", "second r task", "dependency", "task", "second", "first"]
    seen.clear()
    assert await invoke(task, other.run("kept"), {}) == "kept"
    assert seen == ["first kept task", "second kept task", "second", "first"]


async def test_start_here_goes_the_same_way(tail: Tailrace) -> None:
    """Dependencies and middleware are there in each try of a run that is executed here."""
    seen: list[str] = []

    @tail.middleware
    async def told(run: Run, call_next: CallNext) -> Any:
        seen.append(f"try {run.attempt}")
        return {"wrapped": await call_next(run)}

    async def number() -> int:
        return len(seen)

    @tail.task(retry=Retry(attempts=2, base_seconds=0.001))
    async def task(run: Run, name: str, n: int = Depends(number)) -> str:
        if n == 1:
            raise ValueError("again")
        return f"{name} {n}"

    with anyio.fail_after(5):
        run: Run = await task.start_here("x")  # middleware may give another type than the task
        assert await run.result() == {"wrapped": "x 2"}
    assert seen == ["try 1", "try 2"]
    first = [event async for event in (await task.options(id="r").start_here("y")).follow(live=False)][0]
    assert first.data["input"] == {"name": "y"}


async def test_what_is_executed_is_known_within(tail: Tailrace) -> None:
    """Code of an execution, also in its threads, knows its run; outside and behind its end there is none."""
    left: list[asyncio.Task[object]] = []
    over = asyncio.Event()

    async def later() -> object:
        await over.wait()
        return executing()

    def name() -> str:
        here = executing()
        return here.run.id if here else ""

    @tail.task
    async def task(run: Run) -> list[str]:
        left.append(asyncio.create_task(later()))
        return [name(), await asyncio.to_thread(name)]

    @tail.task
    def blocking(run: SyncRun) -> str:
        return name()

    assert executing() is None
    assert await invoke(task, tail.run("r"), {}) == ["r", "r"]
    assert await invoke(blocking, tail.run("s"), {}) == "s"
    assert executing() is None
    over.set()
    assert await left[0] is None


async def test_more_plain_functions_than_the_loop_has_threads(tail: Tailrace) -> None:
    """Plain functions wait for each other without filling a pool."""
    many = 50
    gate = threading.Barrier(many)

    @tail.task
    def meeting(run: SyncRun) -> int:
        return gate.wait(15)

    with anyio.fail_after(20):
        await asyncio.gather(*(invoke(meeting, tail.run(str(n)), {}) for n in range(many)))


async def test_cancel_reaches_a_plain_function_that_waits(tail: Tailrace) -> None:
    """A plain function that waits for tailrace gets the cancellation there."""
    told = threading.Event()
    begun = threading.Event()

    @tail.task
    def asking(run: SyncRun) -> None:
        begun.set()
        try:
            run.ask("anybody?", str)
        except asyncio.CancelledError:
            told.set()
            raise

    run = await asking.start_here()
    await until(lambda: _waits(run), "the run waits")
    assert await run.cancel("enough")
    await until(told.is_set, "the function is told")
    assert (await run.state()).status == "cancelled"


async def _waits(run: Run) -> bool:
    return (await run.state()).status == "waiting"


async def test_sync_in_a_coroutine_is_refused_instead_of_blocking_its_loop(tail: Tailrace) -> None:
    """An async task that uses `.sync` is told to await, as its loop would wait for itself."""

    @tail.task(retry=1)
    async def task(run: Run) -> None:
        run.sync.log("x")

    with anyio.fail_after(5), pytest.raises(RunFailed, match="await the method instead"):
        await (await task.start_here()).result()


async def test_nothing_around_a_task_costs_microseconds(tail: Tailrace) -> None:
    """A task of builtins without dependencies and middleware is called in a few microseconds."""

    @tail.task
    async def nothing(run: Run, prompt: str, times: int = 2) -> None: ...

    run, rounds, best = tail.run("r"), 2000, 1.0
    for _ in range(10):
        since = time.perf_counter()
        for _ in range(rounds):
            await invoke(nothing, run, {"prompt": "x"})
        best = min(best, (time.perf_counter() - since) / rounds)
    assert best < 15e-6, f"{best * 1e6:.1f} µs"  # 1.5 on a quiet machine
