"""Flows on a real server, with workers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import anyio
import pytest

from processor import Run, Tailrace
from processor.client.queueing import input_hash
from processor.core.errors import RunCancelled, RunFailed
from processor.core.events import draft
from processor.core.settings import Settings
from processor.flows import ChildFailed, chain, chord, group
from tests.processor.worker.conftest import working
from tests.support.servers import TestServer
from tests.support.until import until


class Shop:
    """Tasks, and what was begun of them."""

    def __init__(self, tail: Tailrace) -> None:
        self.tail = tail
        self.begun: list[int] = []
        self.gate = asyncio.Event()

        @tail.task
        async def number(run: Run, n: int) -> int:
            self.begun.append(n)
            return n

        @tail.task
        async def gated(run: Run, n: int) -> int:
            self.begun.append(n)
            await self.gate.wait()
            return n

        @tail.task
        async def total(run: Run, numbers: list[int]) -> int:
            return sum(numbers)

        @tail.task
        async def shown(run: Run, values: list[int | ChildFailed]) -> list[str]:
            return [value.reason if isinstance(value, ChildFailed) else str(value) for value in values]

        self.number, self.gated, self.total, self.shown = number, gated, total, shown


def settings_of(server: TestServer, namespace: str, **more: float) -> Settings:
    return Settings(
        redis_url=server.url,
        namespace=namespace,
        visibility_seconds=1.0,
        owner_seconds=0.6,
        drain_seconds=5,
        work_limit=int(more.get("work_limit", 100_000)),
    )


@pytest.fixture
async def shop(server: TestServer, namespace: str) -> AsyncIterator[Shop]:
    async with Tailrace(settings=settings_of(server, namespace)) as tail:
        yield Shop(tail)


async def children(run: Run, task: str) -> list[Run]:
    told = [event.data async for event in run.follow(live=False) if event.type == "child.started"]
    return [run._tail.run(data["run"]) for data in told if data["task"] == task]


async def test_one_place_is_enough(shop: Shop) -> None:
    """Flows that wait take no place: a worker with a single one executes flows in flows, started by a task too."""

    @shop.tail.task
    async def caller(run: Run, n: int) -> int:
        return await chord([shop.number.bind(n), shop.number.bind(n)], shop.total.bind()).call()

    flow = chord(
        [caller.bind(1), chain(shop.number.bind(2), group(shop.number.bind())), caller.bind(3)], shop.shown.bind()
    )
    with anyio.fail_after(20):
        async with working(shop.tail, concurrency=1):
            runs = [await group(*[caller.bind(n) for n in range(4)]).start() for _ in range(3)]
            assert [await run.result() for run in runs] == [[0, 2, 4, 6]] * 3
            with pytest.raises(RunFailed, match="values does not fit"):
                await (await flow.start()).result()


async def test_a_thousand_children(shop: Shop) -> None:
    """As many as a join may have, each once; in reasonable time."""
    flow = chord([shop.number.bind(n) for n in range(1000)], shop.total.bind())
    with anyio.fail_after(60):
        async with working(shop.tail):
            begin = time.monotonic()
            assert await (await flow.start()).result() == 499_500
            print(f"1,000 children joined in {time.monotonic() - begin:.2f} s")
    assert sorted(shop.begun) == list(range(1000))


async def test_workers_of_some_tasks_take_flows(shop: Shop) -> None:
    """--tasks narrows what a worker takes, and flows are taken all the same."""
    with anyio.fail_after(20):
        async with working(shop.tail, tasks=["number"]), working(shop.tail, tasks=["total"]):
            assert await (await chord([shop.number.bind(4)], shop.total.bind()).start()).result() == 4


async def test_a_drain_hands_the_flow_over(shop: Shop) -> None:
    """A worker that ends gives its flows to another at once, which starts nothing twice; that is no try."""
    flow = chain(group(shop.number.bind(1), shop.gated.bind(2)), shop.total.bind())
    shop.gate.set()
    with anyio.fail_after(20):
        async with working(shop.tail, tasks=["number"]):
            run = await flow.start()
            await until(lambda: shop.begun == [1], "the first is begun")
            begin = time.monotonic()
        assert time.monotonic() - begin < 3
        async with working(shop.tail):
            assert await run.result() == 3
        state = await run.state()
    assert (shop.begun, state.attempt) == ([1, 2], 2)


async def test_a_cancel_reaches_what_runs(shop: Shop) -> None:
    """Children that workers execute are cancelled with their flow."""
    with anyio.fail_after(20):
        async with working(shop.tail):
            run = await group(*(shop.gated.bind(n) for n in range(5))).start()
            await until(lambda: len(shop.begun) == 5, "all are begun")
            await run.cancel("enough")
            for one in [run, *await children(run, "gated")]:
                with pytest.raises(RunCancelled, match="enough"):
                    await one.result()


async def test_a_child_whose_owner_is_lost_counts(shop: Shop) -> None:
    """A child that a process without a worker had begun, and that died with it, ends as owner_lost: its join goes on."""
    with anyio.fail_after(20):
        child = shop.tail.run("flow~early")
        start = input_hash("number", b'{"n":1}')
        event = draft("run.started", b"{}", nonce="0123456789ab", owner="gone.1", start=start, task="number")
        await child._writer().put(event)
        early = shop.number.options(id="early").bind(1)
        run = await chord([early], shop.shown.bind(), on_failure="continue").options(id="flow").start()
        async with working(shop.tail, tasks=["shown"]):
            assert await run.result() == ["owner_lost"]


async def test_a_full_backlog_is_waited_for(server: TestServer, namespace: str) -> None:
    """A flow that is wider than the backlog goes on as its children leave it, in one attempt and without a place of its own."""
    async with Tailrace(settings=settings_of(server, namespace, work_limit=10)) as tail:
        shop = Shop(tail)
        with anyio.fail_after(30):
            async with working(tail, concurrency=1):
                run = await chord([shop.number.bind(n) for n in range(30)], shop.total.bind()).start()
                assert await run.result() == 435
                assert (await run.state()).attempt == 1


async def test_the_deadline_of_the_whole(shop: Shop) -> None:
    """What is not done by then is cancelled, and the flow fails without another try."""
    with anyio.fail_after(20):
        async with working(shop.tail):
            run = await chain(shop.gated.bind(1), shop.number.bind(2), deadline_seconds=0.3).start()
            with pytest.raises(RunFailed, match=r"of task gated failed \(deadline\)"):
                await run.result()
            (child,) = await children(run, "gated")
            with pytest.raises(RunCancelled):
                await child.result()
            assert (await run.state()).attempt == 1
    assert shop.begun == [1]


async def test_a_full_task_keeps_no_flow_waiting(shop: Shop) -> None:
    """While every place of a worker's tasks is taken it takes flows all the same, and no place that comes free waits for them."""
    tail, turns = shop.tail, asyncio.Semaphore(0)

    @tail.task(concurrency=1)
    async def busy(run: Run) -> None:
        await turns.acquire()

    with anyio.fail_after(20):
        async with working(tail, tasks=["busy"]):
            runs = [await busy.start() for _ in range(20)]
            await until(lambda: _is_running(runs), "one is executed")
            flow = await group(shop.number.bind(1)).start()
            await until(lambda: _has(flow, 1), "the flow is taken")
            begin = time.monotonic()
            for _ in runs:
                turns.release()
            for run in runs:
                await run.result()
            print(f"20 turns took {time.monotonic() - begin:.2f} s")
            await (await children(flow, "number"))[0].emit("run.finished", {"result": 7})
            assert await flow.result() == [7]


async def _is_running(runs: list[Run]) -> bool:
    return any([(await run.state()).status == "running" for run in runs])


async def _has(run: Run, count: int) -> bool:
    return len(await children(run, "number")) == count
