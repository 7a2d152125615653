"""Much at once: thousands of entries in a worker's hands, several workers in a process, and what functions leave behind."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import Retry, RetryLater
from processor.core.errors import RunError, RunNotFound, StaleAttempt
from processor.core.settings import Settings
from processor.store.connection import execute
from processor.store.executing import Taken
from processor.worker.execution import Execution
from processor.worker.worker import Worker
from tests.processor.worker.conftest import working
from tests.support.servers import TestServer
from tests.support.until import until

MANY = 9000  # more than Lua unpacks into the arguments of one command


def of_one_partition(server: TestServer, namespace: str) -> Tailrace:
    settings = Settings(redis_url=server.url, namespace=namespace, partitions=1, visibility_seconds=2, drain_seconds=5)
    return Tailrace(settings=settings)


async def _add_entries(tail: Tailrace, count: int) -> str:
    """Work entries of runs that do not exist. Returns their stream."""
    session = await tail.session()
    stream = session.keys.partitions[0].work("work")
    pipe: Any = session.redis.pipeline(transaction=False)
    for number in range(count):
        pipe.xadd(stream, {"r": f"run-{number}", "i": "1-1", "e": b'"type":"run.queued","data":{}}'})
    await pipe.execute()
    return stream


async def test_thousands_are_acknowledged(server: TestServer, namespace: str) -> None:
    """As many entries of runs that are over as a worker has places for go in one look."""
    async with of_one_partition(server, namespace) as tail:

        @tail.task(concurrency=10_000)
        async def work(run: Run[Any]) -> None: ...

        stream = await _add_entries(tail, MANY)
        session = await tail.session()
        async with working(tail, concurrency=10_000):
            await until(lambda: _is_empty(session.redis, stream), "nothing is left", 15)


async def _is_empty(redis: Any, stream: str) -> bool:
    return not await redis.xlen(stream)


async def test_thousands_are_renewed(server: TestServer, namespace: str) -> None:
    """A worker that holds thousands of entries, as where functions wait for answers, renews each of them."""
    async with of_one_partition(server, namespace) as tail:

        @tail.task
        async def work(run: Run[Any]) -> None: ...

        stream = await _add_entries(tail, MANY)
        session = await tail.session()
        pipe: Any = session.redis.pipeline(transaction=False)
        for number in range(MANY):
            pipe.hset(session.keys.partitions[0].run(f"run-{number}"), "status", "queued")
        await pipe.execute()
        await session.redis.xgroup_create(stream, "workers", "0")
        worker = Worker(tail)
        read = ("XREADGROUP", "GROUP", "workers", worker.consumer, "COUNT", MANY, "STREAMS", stream, ">")
        ((_, entries),) = await execute(session.redis, *read)
        await worker.open(alone=True)
        try:
            for entry, fields in entries:
                taken = Taken("work", entry.decode(), fields[b"r"].decode(), "1-1", fields[b"e"])
                worker.registry.add(Execution(worker, taken, worker.tasks["work"], 0))
            await until(lambda: _idle(session.redis, stream, 600), "entries grow old", 10)
            await until(lambda: _none_idle(session.redis, stream, 600), "each is renewed", 10)
        finally:
            await worker.crash()
        keys = [session.keys.partitions[0].run(f"run-{number}") for number in range(MANY)]
        await session.redis.delete(*keys)


async def _idle(redis: Any, stream: str, ms: int) -> bool:
    return bool(await redis.xpending_range(stream, "workers", "-", "+", 1, idle=ms))


async def _none_idle(redis: Any, stream: str, ms: int) -> bool:
    return not await _idle(redis, stream, ms)


async def test_a_task_of_few_places_among_others(tail: Tailrace) -> None:
    """A task with fewer places than there are partitions is read from all of them, whatever room its neighbours have."""

    @tail.task(concurrency=1)
    async def narrow(run: Run[Any]) -> str:
        return run.id

    @tail.task
    async def wide(run: Run[Any]) -> None: ...

    runs = [await narrow.start() for _ in range(20)]
    async with working(tail):
        assert [await run.result(10) for run in runs] == [run.id for run in runs]


async def test_two_workers_in_a_process(tail: Tailrace) -> None:
    """Workers in one loop share the work, each run is executed once, and a cancel reaches the one that has it."""
    executed: list[str] = []
    hanging = asyncio.Event()

    @tail.task(concurrency=2)
    async def work(run: Run[Any]) -> str:
        executed.append(run.id)
        await asyncio.sleep(0)
        return run.id

    @tail.task
    async def hangs(run: Run[Any]) -> None:
        hanging.set()
        await asyncio.Event().wait()

    async with working(tail), working(tail):
        runs = [await work.start() for _ in range(40)]
        other = await hangs.start()
        assert [await run.result(10) for run in runs] == [run.id for run in runs]
        await hanging.wait()
        await other.cancel()
        with pytest.raises(RunError):
            await other.result(5)
    assert sorted(executed) == sorted(run.id for run in runs)


async def test_what_a_function_leaves_behind(tail: Tailrace) -> None:
    """What goes on behind the end of its function cannot write into its run and is told so; what it starts is started at once."""
    told: dict[str, object] = {}
    left_behind: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    @tail.task
    async def other(run: Run[Any]) -> str:
        return "other"

    async def goes_on(run: Run[Any], name: str) -> None:
        await ended.wait()
        try:
            run.log("late")
        except StaleAttempt as error:
            told[name] = error
        started = await other.options(id=f"late-{name}").start()
        told[f"result {name}"] = await started.result(5)

    @tail.task
    async def work(run: Run[Any], name: str) -> None:
        if name == "wrote":
            run.log("in time")
        left_behind.append(asyncio.create_task(goes_on(run, name)))

    async with working(tail) as worker:
        session = await tail.session()
        for name in ("wrote", "silent"):
            run = await work.start(name)
            await run.result(5)
        await until(lambda: not len(worker.registry), "nothing is held")
        ended.set()
        await asyncio.gather(*left_behind)
        assert set(told) == {"wrote", "silent", "result wrote", "result silent"}
        assert told["result wrote"] == "other"
        assert not session.producer._live


async def test_a_start_from_a_task_of_a_function(tail: Tailrace) -> None:
    """What a function starts in tasks of its own, that it waits for, is settled with it: a try that fails has started nothing."""

    @tail.task
    async def other(run: Run[Any], attempt: int) -> int:
        return attempt

    @tail.task(retry=Retry(attempts=2, base_seconds=0.01))
    async def work(run: Run[Any]) -> list[str]:
        async with asyncio.TaskGroup() as group:
            started = [group.create_task(_started(other, run.attempt, n)) for n in range(3)]
        if run.attempt == 1:
            raise ValueError("no")
        return [task.result() for task in started]

    async with working(tail):
        ids = await (await work.start()).result(10)
        for id in ids:
            await until(lambda id=id: _began(tail.run(id)), "it is there")  # type: ignore[misc]
            assert await tail.run(id).result(5) == 2
    assert len([state async for state in tail.runs(task="other")]) == 3


async def _began(run: Run[Any]) -> bool:
    with suppress(RunNotFound):
        return bool((await run.state()).attempt)
    return False


async def _started(task: Any, attempt: int, n: int) -> str:
    run: Run[Any] = await task.options(id=f"{attempt}-{n}").start(attempt)
    return run.id


@pytest.mark.parametrize("seed", range(3))
async def test_no_place_is_lost(tail: Tailrace, seed: int) -> None:
    """Whatever becomes of runs (ends, retries, questions, children, cancels at any moment), each ends, and all places are free."""
    draw = random.Random(seed)
    print("seed", seed)

    @tail.task(retry=1, concurrency=20)
    async def child(run: Run[Any], n: int) -> int:
        await asyncio.sleep(draw.random() / 50)
        if n % 5 == 0:
            raise ValueError("a child's")
        return n

    @tail.task(retry=Retry(attempts=3, base_seconds=0.01), concurrency=5, timeout_seconds=2)
    async def work(run: Run[Any], n: int) -> int:
        run.log(f"begins {n}")
        match n % 6:
            case 0:
                raise ValueError("no")
            case 1:
                await run.ask("?", int, timeout_seconds=draw.random() / 5)
            case 2:
                await asyncio.gather(child.call(n), child.call(n + 1), run.ask("?", int, timeout_seconds=0.1))
            case 3 if run.attempt < 3:
                raise RetryLater(0.01)
            case 4:
                await asyncio.sleep(draw.random() / 20)
            case _:
                await child.call(n)
        return n

    async with working(tail, concurrency=8) as worker:
        runs = [await work.start(n) for n in range(60)]
        for run in draw.sample(runs, 30):
            await run.cancel()
            for _ in range(draw.randrange(20)):
                await asyncio.sleep(0)
        for run in runs:
            with suppress(RunError):  # any end is right
                await run.result(20)
        await until(lambda: not len(worker.registry), "nothing is held", 10)
        assert worker.places.taken == 0
        assert worker.places.free("work") == 5


@pytest.mark.parametrize("burst", [False, True])
async def test_a_busy_narrow_task_costs_few_reads(tail: Tailrace, burst: bool) -> None:
    """While a task has no free place its worker looks at the others some times in a second, not all the time."""
    reads: list[int] = []

    @tail.task(concurrency=1)
    async def narrow(run: Run[Any]) -> None:
        reads.append(await _reads(tail))
        await asyncio.sleep(0.5)
        reads.append(await _reads(tail))

    @tail.task
    async def wide(run: Run[Any]) -> None: ...

    run = await narrow.start()
    worker = Worker(tail)
    running = asyncio.create_task(worker.run(burst=burst))
    await run.result(5)
    worker.stop()
    await running
    assert reads[1] - reads[0] < 100


async def _reads(tail: Tailrace) -> int:
    stats = await (await tail.session()).redis.info("commandstats")
    calls: int = stats["cmdstat_xreadgroup"]["calls"]
    return calls
