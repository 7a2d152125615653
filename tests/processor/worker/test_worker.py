"""A worker, as those see it who start runs: ends, retries, cancels, limits of time, what is held and what is given back."""

from __future__ import annotations

import asyncio
import functools
import time
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import GiveUp, Retry, RetryLater
from processor.core.errors import RunCancelled, RunFailed
from processor.store.connection import execute
from processor.store.dead import Wanted, letters
from processor.worker import keeping
from processor.worker.execution import Execution
from processor.worker.worker import Worker
from tests.processor.worker.conftest import working
from tests.support.until import until

FAST = Retry(attempts=3, base_seconds=0.01)


async def types_of(run: Run[Any]) -> list[str]:
    return [event.type async for event in run.follow(live=False)]


async def status_of(run: Run[Any]) -> str:
    return (await run.state()).status


async def nothing_left(tail: Tailrace) -> None:
    """No entry waits or is pending, nothing is delayed."""
    session = await tail.session()
    for keys in session.keys.partitions:
        for task in tail.tasks:
            assert await execute(session.redis, "XLEN", keys.work(task)) == 0
            assert (await execute(session.redis, "XPENDING", keys.work(task), "workers"))["pending"] == 0
        assert await execute(session.redis, "ZCARD", keys.delayed) == 0
        assert await execute(session.redis, "HLEN", keys.delayed_body) == 0


async def test_a_run_from_queued_to_finished(tail: Tailrace) -> None:
    """The feed has queued, started, what the function wrote, and its return value, under attempt 1."""

    @tail.task
    async def answer(run: Run[Any], prompt: str) -> str:
        run.write("be")
        run.write("cause")
        return await run.text()

    async with working(tail):
        run = await answer.start("why?")
        assert await run.result(5) == "because"
    events = [event async for event in run.follow(live=False)]
    assert [event.type for event in events][:2] == ["run.queued", "run.started"]
    assert [event.type for event in events][-1] == "run.finished"
    assert {event.attempt for event in events[1:]} == {1}
    await nothing_left(tail)


async def test_tries(tail: Tailrace) -> None:
    """A failing run is tried as often as its task says, then failed with its error and a dead letter."""
    attempts: list[int] = []

    @tail.task(retry=FAST)
    async def work(run: Run[Any]) -> None:
        attempts.append(run.attempt)
        raise ValueError("no")

    async with working(tail):
        run = await work.start()
        with pytest.raises(RunFailed, match="ValueError: no"):
            await run.result(10)
    assert attempts == [1, 2, 3]
    session = await tail.session()
    (letter,) = [letter async for letter in letters(session, Wanted(task="work"))]
    assert letter.run == run.id
    assert b"Traceback" in letter.failed
    await nothing_left(tail)


async def test_given_up(tail: Tailrace) -> None:
    """GiveUp and errors that never mend fail the run at its first try."""

    @tail.task(retry=FAST)
    async def gives_up(run: Run[Any]) -> None:
        raise GiveUp("nothing to charge")

    @tail.task(retry=Retry(attempts=5, never=(KeyError,)))
    async def never(run: Run[Any]) -> None:
        raise KeyError("x")

    async with working(tail):
        with pytest.raises(RunFailed, match=r"given_up.*nothing to charge"):
            await (await gives_up.start()).result(5)
        with pytest.raises(RunFailed, match="KeyError"):
            await (await never.start()).result(5)


async def test_later_is_no_try(tail: Tailrace) -> None:
    """RetryLater puts a run off without counting it as a failed try."""
    attempts: list[int] = []

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> int:
        attempts.append(run.attempt)
        if len(attempts) < 4:
            raise RetryLater(0.01)
        return run.attempt

    async with working(tail):
        assert await (await work.start()).result(10) == 4
    await nothing_left(tail)


async def test_time_limit(tail: Tailrace) -> None:
    """A function that takes too long is cancelled, and the run fails for that reason; what it wrote before stands in the feed."""

    @tail.task(retry=1, timeout_seconds=0.05)
    async def work(run: Run[Any]) -> None:
        run.write("before")
        await asyncio.Event().wait()

    async with working(tail):
        run = await work.start()
        with pytest.raises(RunFailed, match=r"timeout.*longer than 0\.05 s"):
            await run.result(5)
    assert await run.text() == "before"


async def test_cancel(tail: Tailrace) -> None:
    """A cancel reaches the function within 200 ms as a cancellation that it may clean up after; the run ends cancelled."""
    begun = asyncio.Event()
    told_after: list[float] = []

    @tail.task
    async def work(run: Run[Any]) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told_after.append(time.monotonic())
            run.log("cleaned up")
            raise

    async with working(tail):
        run = await work.start()
        await begun.wait()
        asked = time.monotonic()
        assert await run.cancel("user pressed stop")
        with pytest.raises(RunCancelled, match="user pressed stop"):
            await run.result(5)
    assert told_after[0] - asked < 0.2
    assert (await types_of(run))[-3:] == ["run.cancel_requested", "log", "run.cancelled"]
    await nothing_left(tail)


async def test_cancel_of_a_waiting_one(tail: Tailrace) -> None:
    """A run that is queued, in backoff or waiting for an answer is cancelled at once, and its function hears of it."""

    @tail.task(retry=Retry(attempts=3, base_seconds=100))
    async def backs_off(run: Run[Any]) -> None:
        raise ValueError("no")

    stopped = asyncio.Event()

    @tail.task
    async def asks(run: Run[Any]) -> None:
        try:
            await run.ask("really?", str)
        finally:
            stopped.set()

    async with working(tail):
        one, two = await backs_off.start(), await asks.start()
        await until(lambda: _backs_off(one), "it backs off")
        await until(lambda: _is(two, "waiting"), "it waits")
        for run in (one, two):
            await run.cancel()
            assert await status_of(run) == "cancelled"
        async with asyncio.timeout(1):
            await stopped.wait()
    await nothing_left(tail)


async def _is(run: Run[Any], status: str) -> bool:
    return await status_of(run) == status


async def _backs_off(run: Run[Any]) -> bool:
    state = await run.state()
    return state.status == "queued" and state.attempt == 1


async def test_cancelled_before_it_is_begun(tail: Tailrace) -> None:
    """A run that is cancelled in the queue never runs."""
    ran: list[str] = []

    @tail.task
    async def work(run: Run[Any]) -> None:
        ran.append(run.id)

    cancelled, kept = await work.start(), await work.start()
    await cancelled.cancel()
    async with working(tail):
        await kept.result(5)
    assert ran == [kept.id]
    await nothing_left(tail)


async def test_parked(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits long for its answer is parked: nothing of it stays in the worker; answered, its next attempt is told at
    once what was answered, and it was no failed try."""
    monkeypatch.setattr(keeping, "PARK_SECONDS", 0.0)
    attempts: list[int] = []

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> str:
        attempts.append(run.attempt)
        first = await run.ask("first?", str)
        return first + await run.ask("second?", str)

    async with working(tail) as worker:
        run = await work.start()
        for answer in ("a", "b"):
            await until(lambda: _is(run, "waiting"), "it waits")
            await until(lambda: not len(worker.registry), "it is parked")
            await run.answer(answer)
        assert await run.result(5) == "ab"
    assert attempts == [1, 2, 3]
    await nothing_left(tail)


async def test_answered_in_memory(tail: Tailrace) -> None:
    """An answer within a minute wakes the function where it waits; meanwhile it takes no place."""

    @tail.task(concurrency=1)
    async def work(run: Run[Any], question: str) -> str:
        return await run.ask(question, str)

    async with working(tail, concurrency=1):
        runs = [await work.start(question) for question in ("a?", "b?", "c?")]
        for run in runs:
            await until(functools.partial(_is, run, "waiting"), "it waits")
        for run in runs:
            await run.answer("yes")
        assert [await run.result(5) for run in runs] == ["yes"] * 3
        assert [(await run.state()).attempt for run in runs] == [1, 1, 1]


async def test_released_at_drain(tail: Tailrace) -> None:
    """What does not end while its worker drains is released: another worker begins the next attempt, and it was no failed try."""
    begun = asyncio.Event()

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> int:
        if run.attempt == 1:
            begun.set()
            await asyncio.Event().wait()
        return run.attempt

    tail._settings = tail.settings.changed("test", drain_seconds=0.05)
    await tail.close()
    async with working(tail):
        run = await work.start()
        await begun.wait()
    assert await status_of(run) == "queued"
    async with working(tail):
        assert await run.result(5) == 2
    assert "run.retrying" in await types_of(run)
    await nothing_left(tail)


async def test_finishes_at_drain(tail: Tailrace) -> None:
    """What ends in time ends as if nothing was."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> int:
        begun.set()
        await go_on.wait()
        return run.attempt

    async with working(tail) as worker:
        run = await work.start()
        await begun.wait()
        worker.stop()
        go_on.set()
    assert await run.result(0.5) == 1


async def test_burst(tail: Tailrace) -> None:
    """A burst ends when nothing is left, retries that are due soon included."""

    @tail.task(retry=FAST)
    async def work(run: Run[Any]) -> int:
        if run.attempt == 1:
            raise ValueError("once")
        return run.attempt

    runs = [await work.start() for _ in range(30)]
    async with asyncio.timeout(10):
        await Worker(tail).run(burst=True)
    assert [await run.result(0.5) for run in runs] == [2] * 30
    await nothing_left(tail)


async def test_only_its_tasks(tail: Tailrace) -> None:
    """A worker of some tasks leaves the others to others."""

    @tail.task
    async def mine(run: Run[Any]) -> None: ...

    @tail.task
    async def theirs(run: Run[Any]) -> None: ...

    one, other = await mine.start(), await theirs.start()
    async with working(tail, tasks=["mine"]):
        await one.result(5)
    assert await status_of(other) == "queued"


async def test_places(tail: Tailrace) -> None:
    """Never more executions at once than the process, or the task, has places."""
    running = {"a": 0, "b": 0}
    most = {"a": 0, "b": 0, "all": 0}

    def watch(name: str) -> Any:
        async def work(run: Run[Any]) -> None:
            running[name] += 1
            most[name] = max(most[name], running[name])
            most["all"] = max(most["all"], sum(running.values()))
            await asyncio.sleep(0)
            running[name] -= 1

        return work

    a = tail.task(name="a", concurrency=3)(watch("a"))
    b = tail.task(name="b", concurrency=100)(watch("b"))
    for _ in range(100):
        await a.start()
        await b.start()
    async with asyncio.timeout(20):
        await Worker(tail, concurrency=5).run(burst=True)
    assert most["a"] <= 3
    assert most["all"] <= 5
    assert most["b"] > 1


@pytest.mark.parametrize("what", ["too large", "no JSON", "an exit"])
async def test_bad_results(tail: Tailrace, what: str) -> None:
    """A result that no event can carry, and a function that would end the process, fail their run and nothing else."""

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> object:
        if what == "an exit":
            raise SystemExit(3)
        return "x" * 100_000 if what == "too large" else object()

    @tail.task
    async def other(run: Run[Any]) -> str:
        return "fine"

    async with working(tail):
        run = await work.start()
        with pytest.raises(RunFailed, match={"too large": "at most", "no JSON": "JSON", "an exit": "SystemExit"}[what]):
            await run.result(5)
        assert await (await other.start()).result(5) == "fine"


async def test_wrong_input_is_a_dead_letter(tail: Tailrace) -> None:
    """An input that does not fit the task, queued by whoever does not have its code, fails at once."""

    @tail.task(retry=FAST)
    async def work(run: Run[Any], n: int) -> int:
        return n

    async with working(tail):
        run = await tail.start("work", n="seven")
        with pytest.raises(RunFailed, match="n is str, not int"):
            await run.result(5)
        assert (await run.state()).attempt == 1


async def test_groups_come_back(tail: Tailrace) -> None:
    """After a FLUSHALL the worker makes its groups again and goes on with what is queued then."""

    @tail.task
    async def work(run: Run[Any]) -> int:
        return 1

    async with working(tail):
        await (await work.start()).result(5)
        await (await tail.session()).redis.flushall()
        run = await work.start()
        assert await run.result(10) == 1


def test_suspects() -> None:
    """Only an entry that was taken over is a suspect, at its second loss or at its last try."""

    def suspect(tries: int, attempts: int, seen: str = "1-a") -> bool:
        class _Task:
            retry = Retry(attempts=attempts)

        class _Taken:
            pass

        execution = object.__new__(Execution)
        execution.task = _Task()  # type: ignore[assignment]
        taken = _Taken()
        taken.seen, taken.tries = seen, tries  # type: ignore[attr-defined]
        execution.taken = taken  # type: ignore[assignment]
        return execution.is_suspect

    assert not suspect(1, 3)
    assert suspect(2, 3)
    assert suspect(2, 10)
    assert suspect(1, 2)
    assert not suspect(2, 3, seen="")
