"""What a worker does where two things happen at once, and where the server forgot something."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import RetryLater
from processor.core.errors import RunCancelled, RunFailed, ServerUnreachable
from processor.store.connection import execute
from processor.store.executing import Taken
from processor.store.line import Line
from processor.store.scripts import Script
from processor.worker import draining
from processor.worker.execution import Execution
from processor.worker.keeping import Keeping
from processor.worker.worker import Worker
from tests.processor.worker.conftest import working
from tests.support.servers import TestServer
from tests.support.until import until


async def test_a_full_task_leaves_the_loop_free(tail: Tailrace) -> None:
    """While all places of the tasks are taken and the process has more, its functions go on, and what waits follows them."""
    running = 0

    @tail.task(concurrency=1)
    async def work(run: Run[Any]) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0.01)

    runs = [await work.start() for _ in range(3)]
    async with working(tail):
        await until(lambda: running == 3, "all ran")
        for run in runs:
            await run.result(5)


@pytest.mark.parametrize("how", ["no text", "no error", "group", "never again"])
async def test_odd_errors(tail: Tailrace, how: str) -> None:
    """Whatever a function raises fails its run, and its place is free again: a text that cannot be made, no Exception at all,
    a group of such, a delay that no calendar has."""

    class NoText(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    class NoError(BaseException):
        pass

    @tail.task(retry=1, concurrency=1)
    async def work(run: Run[Any], fails: bool) -> str:
        if not fails:
            return "fine"
        if how == "group":
            raise BaseExceptionGroup("of a task group", [NoError()])
        raise {"no text": NoText(), "no error": NoError(), "never again": RetryLater(float("inf"))}[how]

    async with working(tail) as worker:
        with pytest.raises(RunFailed):
            await (await work.start(True)).result(5)
        assert await (await work.start(False)).result(5) == "fine"
        await until(lambda: not len(worker.registry), "nothing is held")


async def test_a_long_error_is_cut(tail: Tailrace) -> None:
    """An error with a text of megabytes, as of what was parsed, is told by its beginning."""

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> None:
        raise ValueError("x" * 3_000_000)

    async with working(tail):
        run = await work.start()
        with pytest.raises(RunFailed, match="ValueError: xxx"):
            await run.result(5)
    last = [event async for event in run.follow(live=False)][-1]
    assert len(last.payload) < 100_000


async def test_released_though_it_raises_something_else(tail: Tailrace) -> None:
    """A function that answers its release with an error of its own, as clients of other services do, has not failed."""
    begun = asyncio.Event()

    @tail.task(retry=1)
    async def work(run: Run[Any]) -> int:
        if run.attempt == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise RuntimeError("connection closed") from None
        return run.attempt

    tail._settings = tail.settings.changed("test", drain_seconds=0.05)
    await tail.close()
    async with working(tail):
        run = await work.start()
        await begun.wait()
    assert (await run.state()).status == "queued"
    async with working(tail):
        assert await run.result(5) == 2


async def test_burst_with_few_places(tail: Tailrace) -> None:
    """A burst looks into each stream before it ends, also where it can name but one at a time."""

    @tail.task
    async def work(run: Run[Any]) -> int:
        return 1

    runs = [await work.start() for _ in range(10)]
    async with asyncio.timeout(20):
        await Worker(tail, concurrency=1).run(burst=True)
    assert [(await run.state()).status for run in runs] == ["succeeded"] * 10


async def test_cancelled_while_start_is_answered(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cancel that is heard before the answer to start is not lost: the function is cancelled as soon as it runs."""
    ended = asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    begin = Execution.begin
    heard = asyncio.Event()
    cancel = Execution.cancel

    def noted(execution: Execution) -> None:
        cancel(execution)
        heard.set()

    async def late(execution: Execution, begun: Any) -> None:
        await tail.run(execution.taken.run).cancel("now")
        await heard.wait()
        begin(execution, begun)

    later: set[asyncio.Task[None]] = set()
    monkeypatch.setattr(Execution, "cancel", noted)
    monkeypatch.setattr(Execution, "begin", lambda one, begun: later.add(asyncio.create_task(late(one, begun))))
    monkeypatch.setattr(Keeping, "_hear", lambda *_: None)  # of renewals, which would tell it seconds later
    async with working(tail):
        run = await work.start()
        async with asyncio.timeout(5):
            await ended.wait()
        with pytest.raises(RunCancelled):
            await run.result(5)


async def test_start_lost_by_the_server(tail: Tailrace) -> None:
    """A server that lost its last moments, start among them, gives the entry out again while it is executed here: that execution
    ends, and the entry is not left behind in this process's name."""
    attempts: list[int] = []
    stopped = asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> str:
        attempts.append(run.attempt)
        if len(attempts) > 1:
            return "again"
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        raise AssertionError

    async with working(tail):
        run = await work.start()
        await until(lambda: attempts, "it runs")
        session = await tail.session()
        keys = session.keys.of(run.id)
        pipe = session.redis.pipeline()  # what a restart behind a lost tail leaves: the entry, not given to anybody
        pipe.hset(keys.run(run.id), mapping={"status": "queued", "attempt": 0, "tries": 0})
        pipe.hdel(keys.run(run.id), "exec")
        pipe.xgroup_destroy(keys.work("work"), "workers")
        pipe.xgroup_create(keys.work("work"), "workers", "0")
        await pipe.execute()
        async with asyncio.timeout(10):
            await stopped.wait()
            assert await run.result() == "again"


async def test_a_corrupt_run_is_set_aside(tail: Tailrace) -> None:
    """A run whose feed was deleted while it was executed becomes a dead letter, by the same worker."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> None:
        begun.set()
        await go_on.wait()

    @tail.task
    async def other(run: Run[Any]) -> None: ...

    async with working(tail):
        for _ in range(2):  # the first look for entries of its own is over
            await (await other.start()).result(5)
        run = await work.start()
        await begun.wait()
        session = await tail.session()
        keys = session.keys.of(run.id)
        await session.redis.delete(keys.feed(run.id))
        go_on.set()
        await until(lambda: session.redis.xlen(keys.dead_task("work")), "it is a dead letter")
        await until(lambda: _none_pending(tail, run.id), "nothing is pending")


async def _none_pending(tail: Tailrace, run: str) -> bool:
    session = await tail.session()
    pending: int = (await session.redis.xpending(session.keys.of(run).work("work"), "workers"))["pending"]
    return not pending


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what asyncio tears down closes nothing
def test_a_keyboard_interrupt_ends_the_process(server: TestServer, namespace: str) -> None:
    """It is no failure of the run in which it comes: that is released, and the loop ends."""

    async def execute() -> None:
        async with Tailrace(server.url, namespace=namespace) as tail:

            @tail.task(retry=1)
            async def work(run: Run[Any]) -> None:
                raise KeyboardInterrupt

            runs.append((await work.start()).id)
            await Worker(tail).run()

    async def status() -> str:
        async with Tailrace(server.url, namespace=namespace) as tail:
            return (await tail.run(runs[0]).state()).status

    runs: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(execute())
    assert asyncio.run(status()) == "queued"
    gc.collect()  # here, and not in a test behind


async def test_burst_goes_on_behind_an_outage(tail: Tailrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is away when a burst asks whether anything is left does not end it."""
    asked: list[int] = []
    due_within = Keeping.due_within

    async def away_at_first(keeping: Keeping, ms: int) -> bool:
        asked.append(ms)
        if len(asked) == 1:
            raise ServerUnreachable("gone for a moment")
        return await due_within(keeping, ms)

    monkeypatch.setattr(Keeping, "due_within", away_at_first)
    async with asyncio.timeout(10):
        await Worker(tail).run(burst=True)
    assert len(asked) == 2


@pytest.mark.parametrize("batches", [1, 2])
async def test_drains_while_starts_have_no_answer(
    tail: Tailrace, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    """A worker whose starts are not answered ends all the same, in the time that it has for draining."""
    asked = 0

    async def never(line: Line, script: Script, *command: object) -> Any:
        nonlocal asked
        asked += 1
        raise ServerUnreachable("away")

    @tail.task
    async def work(run: Run[Any]) -> None: ...

    tail._settings = tail.settings.changed("test", drain_seconds=0.2)
    await tail.close()
    monkeypatch.setattr(draining, "SETTLE_SECONDS", 0.5)
    monkeypatch.setattr(Line, "script", never)
    worker = Worker(tail)
    running = asyncio.create_task(worker.run())
    for number in range(batches):
        await work.start()
        await until(lambda number=number: len(worker.registry) == number + 1, "it was read")  # type: ignore[misc]
    await until(lambda: asked > batches, "start was tried again")
    worker.stop()
    async with asyncio.timeout(5):
        await running


async def test_cancelled_worker_gives_back_what_it_read(tail: Tailrace) -> None:
    """Cancelling run() is as good as stop(): what was read and not begun goes to other workers at once."""
    read = asyncio.Event()

    @tail.task(rate="1000/min")
    async def work(run: Run[Any]) -> int:
        return 1

    worker = Worker(tail)

    async def held(executions: list[Execution]) -> list[Execution]:
        read.set()
        await asyncio.Event().wait()
        return executions

    worker._ask_limits = held  # type: ignore[method-assign]
    running = asyncio.create_task(worker.run())
    run = await work.start()
    await read.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: _none_pending(tail, run.id), "nothing is pending")
    async with working(tail):
        assert await run.result(5) == 1


async def test_what_is_claimed_at_the_end_is_given_back(tail: Tailrace) -> None:
    """A claim that is answered when its worker drains already keeps nothing from others."""

    @tail.task
    async def work(run: Run[Any]) -> int:
        return run.attempt

    session = await tail.session()
    worker = Worker(tail)
    running = asyncio.create_task(worker.run())
    await until(lambda: hasattr(worker, "_keeping"), "it is open")
    drained = asyncio.Event()
    close = worker._keeping.close

    async def late() -> None:
        run = await work.start()
        work_stream = session.keys.of(run.id).work("work")
        read = ("XREADGROUP", "GROUP", "workers", worker.consumer, "STREAMS", work_stream, ">")
        ((_, ((entry, fields),)),) = await execute(session.redis, *read)
        worker._take_over([Taken("work", entry.decode(), run.id, fields[b"i"].decode(), fields[b"e"])])
        runs.append(run)
        drained.set()
        await close()

    runs: list[Run[Any]] = []
    worker._keeping.close = late  # type: ignore[method-assign]
    await until(lambda: worker._reads.connections, "it reads")
    worker.stop()
    await running
    await until(lambda: _none_pending(tail, runs[0].id), "nothing is pending")
    async with working(tail):
        assert await runs[0].result(5) == 1


@pytest.mark.parametrize("when", ["start", "settle"])
async def test_a_broken_hash_takes_no_neighbour_along(tail: Tailrace, when: str) -> None:
    """A run whose hash somebody broke so that scripts fail on it stands alone: what is begun or settled with it goes on."""
    begun, go_on = 0, asyncio.Event()

    @tail.task
    async def work(run: Run[Any]) -> str:
        nonlocal begun
        begun += 1
        await go_on.wait()
        return "fine"

    runs = [await work.options(id=f"one~{n}").start() for n in range(8)]  # of one partition: they share calls
    session = await tail.session()
    broken = session.keys.of(runs[3].id).run(runs[3].id)
    if when == "start":
        await session.redis.hset(broken, "tail", "broken")
        go_on.set()
    async with asyncio.timeout(15):
        async with working(tail):
            if when == "settle":
                await until(lambda: begun == 8, "all run")
                await session.redis.hset(broken, "tail", "broken")
                go_on.set()
            for run in runs:
                if run is not runs[3]:
                    assert await run.result() == "fine"
            stream = session.keys.of(runs[0].id).work("work")
            await until(lambda: _length(tail, stream, 1), "only the broken one's entry is left")


async def _length(tail: Tailrace, stream: str, length: int) -> bool:
    return bool(await (await tail.session()).redis.xlen(stream) == length)


async def test_a_swallowed_cancel_is_told_again(tail: Tailrace) -> None:
    """A function that lost its cancellation, as some libraries do, is cancelled again after the grace."""

    @tail.task
    async def work(run: Run[Any]) -> None:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    begun = asyncio.Event()
    tail._settings = tail.settings.changed("test", grace_seconds=0.2)
    await tail.close()
    async with working(tail):
        run = await work.start()
        await begun.wait()
        await run.cancel("enough")
        with pytest.raises(RunCancelled, match="enough"):
            await run.result(5)
