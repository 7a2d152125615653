"""Children in the sandbox."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from processor import Retry, RetryLater, Run, SyncRun, Tailrace
from processor.testing import sandbox

tail = Tailrace()


@tail.task
async def square(run: Run, n: int) -> int:
    return n * n


@tail.task
async def later(run: Run) -> str:
    if run.attempt == 1:
        raise RetryLater(3600)
    return "later"


@tail.task(retry=Retry(attempts=3, base_seconds=60))
async def family(run: Run) -> list[object]:
    return [await square.call(3), *await asyncio.gather(square.call(4), later.call())]


@tail.task
def plain(run: SyncRun) -> int:
    return square.sync.call(5)


@tail.task
async def asking(run: Run) -> int:
    return await run.ask("how many?", int)


@tail.task
async def parent_of_asking(run: Run) -> int:
    return 1 + await asking.options(id="asking").call()


@pytest.mark.parametrize("server", [False, True])
async def test_drain_does_what_children_do(server: bool) -> None:
    """drain returns when parents have their results, however deep they are."""
    async with sandbox(tail, server=server) as box:
        run = await plain.start()
        with anyio.fail_after(10):
            await box.drain()
            assert (await run.state()).status == "succeeded"
            assert await run.result() == 25


async def test_a_child_that_waits_for_time() -> None:
    """drain leaves a parent waiting whose child is due later; it goes on when time has passed."""
    async with sandbox(tail) as box:
        run = await family.start()
        with anyio.fail_after(10):
            await box.drain()
            assert (await run.state()).status == "running"
            await box.advance(3600)
            assert await run.result() == [9, 16, "later"]
        assert (await run.state()).attempt == 1


async def test_a_child_that_waits_for_a_person() -> None:
    """An answer to a child lets its parent go on in the same drain."""
    async with sandbox(tail) as box:
        run = await parent_of_asking.options(id="r").start()
        child = tail.run("r~asking")
        with anyio.fail_after(10):
            await box.drain()
            assert (await child.state()).status == "waiting"
            await child.answer(41)
            await box.drain()
            assert (await run.state()).status == "succeeded"
            assert await run.result() == 42


async def test_a_crash_leaves_the_children() -> None:
    """A parent whose worker crashed is executed again and finds its child."""
    async with sandbox(tail) as box:
        run = await family.start()
        with anyio.fail_after(20):
            await box.drain()
            await box.crash()
            await box.advance(3600)
            assert await run.result() == [9, 16, "later"]
        assert (await run.state()).attempt == 2
        assert len([state async for state in tail.runs(task="square")]) == 2
