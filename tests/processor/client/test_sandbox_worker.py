"""The sandbox's worker and its time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.backoff import GiveUp, Retry
from processor.core.errors import RunFailed
from processor.testing import sandbox

__all__: list[str] = []


async def test_drain() -> None:
    """What was started has run when drain returns, and so has what that started, in other partitions too."""
    tail = Tailrace()

    @tail.task
    async def second(run: Run[Any], n: int) -> int:
        return n * 2

    @tail.task
    async def first(run: Run[Any], n: int) -> str:
        return (await second.start(n)).id

    async with sandbox(tail) as box:
        runs = [await first.start(n) for n in range(10)]
        await box.drain()
        started = [tail.run(await run.result(0.1)) for run in runs]
        assert [await run.result(0.1) for run in started] == [n * 2 for n in range(10)]


async def test_backoff_without_waiting() -> None:
    """A retry happens when the sandbox's time has reached it, and all of them within an hour."""
    tail = Tailrace()
    attempts: list[int] = []

    @tail.task(retry=Retry(attempts=4, base_seconds=60, cap_seconds=600))
    async def flaky(run: Run[Any]) -> int:
        attempts.append(run.attempt)
        if run.attempt < 4:
            raise ValueError("not yet")
        return run.attempt

    async with sandbox(tail) as box:
        run = await flaky.start()
        await box.drain()
        assert attempts == [1]
        assert (await run.state()).status == "queued"
        await box.advance(3600)
        assert await run.result(0.1) == 4


async def test_delayed_start() -> None:
    """A delayed start runs when its time has come, not before."""
    tail = Tailrace()

    @tail.task
    async def later(run: Run[Any]) -> str:
        return "done"

    async with sandbox(tail) as box:
        run = await later.options(delay_seconds=300).start()
        await box.advance(299)
        assert (await run.state()).status == "queued"
        await box.advance(2)
        assert await run.result(0.1) == "done"


async def test_crash() -> None:
    """A worker that is killed in the midst of a task is replaced: the next attempt begins, and what the first one wrote counts
    as its."""
    tail = Tailrace()
    begun = asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> int:
        tail.run("sink").emit("order.seen")
        run.write(f"attempt {run.attempt}")
        if run.attempt == 1:
            begun.set()
            await asyncio.Event().wait()
        return run.attempt

    async with sandbox(tail) as box:
        run = await work.start()
        draining = asyncio.create_task(box.drain())
        await begun.wait()
        draining.cancel()
        await box.crash()
        await box.drain()
        assert await run.result(0.1) == 2
        assert await run.text() == "attempt 2"
        assert len([event async for event in tail.run("sink").follow(live=False)]) == 1


async def test_dead() -> None:
    """What failed for the last time is a dead letter with its reason, error and attempts."""
    tail = Tailrace()

    @tail.task
    async def work(run: Run[Any]) -> None:
        raise GiveUp("nothing to charge")

    async with sandbox(tail) as box:
        run = await work.start()
        await box.drain()
        with pytest.raises(RunFailed, match="nothing to charge"):
            await run.result(0.1)
        (letter,) = await box.dead(work)
        assert (letter.run, letter.reason, letter.error) == (run.id, "given_up", "nothing to charge")


async def test_answer() -> None:
    """A task that asks waits behind drain; answered, it goes on."""
    tail = Tailrace()

    @tail.task
    async def work(run: Run[Any]) -> str:
        return await run.ask("really?", str)

    async with sandbox(tail) as box:
        run = await work.start()
        await box.drain()
        assert (await run.state()).status == "waiting"
        await run.answer("yes")
        await box.drain()
        assert await run.result(1) == "yes"


async def test_schedules() -> None:
    """A schedule fires each time that the sandbox's time passes one of its due times."""
    tail = Tailrace()
    fired: list[str] = []

    @tail.task(cron="0 * * * *")
    async def hourly(run: Run[Any]) -> None:
        fired.append(run.id)

    async with sandbox(tail) as box:
        await box.drain()
        await box.advance(3 * 3600 + 1)
        assert len(fired) == 3
        assert len(set(fired)) == 3
