"""Questions of runs that a worker executes: several at once, with a time limit, parked, at a drain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from processor import Tailrace
from processor.client import asking
from processor.client.run import Run
from processor.core.backoff import Retry
from processor.worker import keeping
from tests.processor.worker.conftest import working
from tests.support.until import until


async def _asks(run: Run[Any], question: str) -> bool:
    """Whether it waits for the answer to that."""
    last = None
    async for event in run.follow(live=False):
        if event.type in ("run.waiting", "run.resumed"):
            last = event
    return last is not None and last.type == "run.waiting" and last.data["question"] == question


async def test_one_question_a_time(tail: Tailrace) -> None:
    """Questions that are asked at once are put one after the other, since a run waits for one answer; each gets its own."""

    @tail.task
    async def work(run: Run[Any]) -> list[str]:
        return list(await asyncio.gather(run.ask("a?", str), run.ask("b?", str), run.ask("c?", str)))

    async with working(tail) as worker:
        run = await work.start()
        for question in ("a?", "b?", "c?"):
            await until(lambda question=question: _asks(run, question), f"it asks {question}")  # type: ignore[misc]
            await run.answer(question.upper())
        assert await run.result(5) == ["A?", "B?", "C?"]
        await until(lambda: worker.places.taken == 0, "its place is free")


async def test_an_answer_at_the_last_moment(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes in the moment in which the time to answer ends counts."""
    stop_waiting = asking._stop_waiting

    async def answered_before(run: Run[Any], id: str) -> Any:
        await tail.run(run.id).answer("yes")
        return await stop_waiting(run, id)

    monkeypatch.setattr(asking, "_stop_waiting", answered_before)

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> str:
        return await run.ask("really?", str, timeout_seconds=0.05)

    async with working(tail):
        assert await (await work.start()).result(5) == "yes"


async def test_a_time_limit_outlives_parking(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question with a time limit ends with it, however soon its worker parks what waits."""
    monkeypatch.setattr(keeping, "PARK_SECONDS", 0.0)

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> str:
        try:
            return await run.ask("really?", str, timeout_seconds=1)
        except TimeoutError:
            return "nobody answered"

    async with working(tail):
        assert await (await work.start()).result(8) == "nobody answered"


async def test_nobody_answered_is_no_answer(tail: Tailrace) -> None:
    """A try behind one whose question nobody answered in time asks it again, and is not told `null`."""

    @tail.task(retry=Retry(attempts=2, base_seconds=0.01))
    async def work(run: Run[Any]) -> str | None:
        return await run.ask("really?", str | None, timeout_seconds=0.1 if run.attempt == 1 else None)  # type: ignore[arg-type]

    async with working(tail):
        run = await work.start()
        await until(lambda: _attempt(run, 2), "the second try")
        await until(lambda: _asks(run, "really?"), "it asks again")
        await run.answer("yes")
        assert await run.result(5) == "yes"


async def _attempt(run: Run[Any], attempt: int) -> bool:
    state = await run.state()
    return state.attempt == attempt and state.status == "waiting"


async def test_a_question_during_a_drain_is_parked(tail: Tailrace) -> None:
    """A function that comes to its question while its worker drains is parked; the drain does not last for it."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> str:
        begun.set()
        await go_on.wait()
        return await run.ask("really?", str)

    tail._settings = tail.settings.changed("test", drain_seconds=60)
    await tail.close()
    async with asyncio.timeout(10):
        async with working(tail) as worker:
            run = await work.start()
            await begun.wait()
            worker.stop()
            await until(lambda: worker.stopping.is_set(), "it drains")
            await asyncio.wait({asyncio.get_running_loop().create_task(_turns(20))})
            go_on.set()
        assert (await run.state()).status == "waiting"
        async with working(tail):
            await run.answer("yes")
            assert await run.result(5) == "yes"


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
