"""Partitions of an ordered group go from member to member: joins, drains, deaths, lost leases, a server that lost its last second."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from processor import Tailrace
from processor.client.run import Run
from processor.core.events import Event
from processor.core.settings import Settings
from processor.store.leases import owners
from processor.worker.ordering import OrderedGroup
from processor.worker.worker import Worker
from tests.processor.worker.conftest import dead_of, handled, working
from tests.support.until import until

Handler = Callable[..., Any]


@asynccontextmanager
async def member(tail: Tailrace, handler: Handler, pattern: str = "order.*", **policy: Any) -> AsyncIterator[Worker]:
    """A worker with a client of its own, as another process has it."""
    async with another(tail) as other:
        other.on(pattern, group="g", ordered=True, **policy)(handler)
        async with working(other) as worker:
            yield worker


@asynccontextmanager
async def another(tail: Tailrace) -> AsyncIterator[Tailrace]:
    known = tail.settings
    settings = Settings(
        redis_url=known.redis_url,
        namespace=known.namespace,
        visibility_seconds=known.visibility_seconds,
        drain_seconds=5,
    )
    async with Tailrace(settings=settings) as other:
        yield other


async def owned_by(tail: Tailrace, worker: Worker) -> int:
    return [owner for owner, _ in await owners(await tail.session(), "g")].count(worker.consumer)


async def test_a_joining_member_has_its_share_within_5_s(tail: Tailrace) -> None:
    """Although calls run of every partition; these end, and nothing is handled twice or out of its order."""
    seen: dict[str, list[int]] = defaultdict(list)

    async def handle(event: Event[Any]) -> None:
        await asyncio.sleep(0.01)
        seen[event.run].append(event.data["n"])

    runs = [f"r{n}" for n in range(24)]
    async with member(tail, handle) as first:
        await until(lambda: is_share(tail, first, 8), "the first has all")
        for n in range(60):
            for run in runs:
                tail.run(run).emit("order.paid", {"n": n})
        await tail.run(runs[0]).emit("order.paid", {"n": 60})
        begun = time.monotonic()
        async with member(tail, handle) as second:
            await until(lambda: is_share(tail, second, 4), "the second has half of them", deadline=5)
            took = time.monotonic() - begun
            async with member(tail, handle) as third:
                await until(lambda: is_share(tail, third, 2), "the third has its share")
                assert [await owned_by(tail, one) for one in (first, second, third)] == [3, 3, 2]
                await until(lambda: sum(map(len, seen.values())) >= 60 * 24 + 1, "all is handled", deadline=20)
        await until(lambda: is_share(tail, first, 8), "the first has all again", deadline=3)
    assert took < 5
    assert {run: seen[run] for run in runs[1:]} == {run: list(range(60)) for run in runs[1:]}


async def is_share(tail: Tailrace, worker: Worker, count: int) -> bool:
    return await owned_by(tail, worker) == count


async def test_a_dead_member_is_replaced(tail: Tailrace) -> None:
    """Within its visibility timeout and a look; what it held runs again in its order, and its output is there once."""
    begun: list[tuple[str, int]] = []
    stuck = asyncio.Event()

    async def hangs(event: Event[Any], run: Run[Any]) -> None:
        begun.append((event.run, event.data["n"]))
        if event.data["n"] == 3:
            stuck.set()
            await asyncio.sleep(60)
        run.emit("handled", event.data)

    async def works(event: Event[Any], run: Run[Any]) -> None:
        run.emit("handled", event.data)

    async with another(tail) as other:
        other.on("order.*", group="g", ordered=True)(hangs)
        dying = Worker(other)
        running = asyncio.create_task(dying.run())
        await until(lambda: is_share(tail, dying, 8), "it works")
        for n in range(6):
            await tail.run("r").emit("order.paid", {"n": n})
        await stuck.wait()
        async with member(tail, works) as successor:
            await until(lambda: is_share(tail, successor, 4), "it has its share")
            await dying.crash()
            await running
            died = time.monotonic()
            await until(lambda: is_share(tail, successor, 8), "it has all")
            took = time.monotonic() - died
            await until(lambda: handled_of(tail, "r", 6), "all is handled")
    assert await handled(tail, "r") == list(range(6))
    assert took < tail.settings.visibility_seconds + 1.2


async def handled_of(tail: Tailrace, run: str, count: int) -> bool:
    return len(await handled(tail, run)) >= count


async def test_an_event_that_kills_its_process_becomes_a_dead_letter(tail: Tailrace) -> None:
    """Its neighbours, which ran beside it, lose no try: each is handled."""
    killed: list[int] = []
    dying: list[Worker] = []

    async def kills(event: Event[Any], run: Run[Any]) -> None:
        if event.data["n"] == 2 and event.run == "x~a":
            killed.append(1)
            dying[0].stopping.set()
            await asyncio.sleep(60)
        if event.run == "x~slow" and not killed:
            await asyncio.sleep(60)
        run.emit("handled", event.data)

    async def process() -> None:
        async with another(tail) as other:
            other.on("order.*", group="g", ordered=True, retry=2)(kills)
            dying[:] = [Worker(other)]
            before = len(killed)
            running = asyncio.create_task(dying[0].run())
            await until(lambda: len(killed) > before, "it dies", deadline=10)
            await dying[0].crash()
            await running

    async with another(tail) as other:
        other.on("order.*", group="g", ordered=True)(kills)
        await (await other.session()).bind_groups()
    runs = ["x~slow", "x~a", "x~b"]  # of one partition
    for n in range(4):
        for run in runs:
            await tail.run(run).emit("order.paid", {"n": n})
    for _ in range(3):  # the first time nobody knows which one it was
        await process()
    async with member(tail, kills, retry=2):
        await until(lambda: handled_of(tail, "x~a", 3), "the rest is handled", deadline=10)
        await until(lambda: handled_of(tail, "x~slow", 4), "the neighbours are", deadline=10)
        await until(lambda: handled_of(tail, "x~b", 4), "the neighbours are")
    assert await handled(tail, "x~a") == [0, 1, 3]
    assert await handled(tail, "x~b") == await handled(tail, "x~slow") == list(range(4))
    assert await dead_of(tail, "g") == [("x~a", 2, "poison")]


async def test_a_member_that_lost_its_lease_settles_nothing(tail: Tailrace) -> None:
    """Its renewals stopped, as those of a frozen process do; what it runs is cancelled when it hears of it."""
    outcomes: list[str] = []
    begun = asyncio.Event()

    async def freezes(event: Event[Any], run: Run[Any]) -> None:
        begun.set()
        run.emit("handled", {"n": "of the old one"})
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise

    async def works(event: Event[Any], run: Run[Any]) -> None:
        run.emit("handled", event.data)

    async with member(tail, freezes) as old:
        await until(lambda: is_share(tail, old, 8), "it has all")
        await tail.run("r").emit("order.paid", {"n": 1})
        await begun.wait()
        session = await tail.session()
        keys = session.keys.of("r")
        await session.redis.hdel(keys.lease("g"), "owner", "until")  # as if its time had passed
        [group] = old.reacting._readers
        assert isinstance(group, OrderedGroup)
        group._balancing._has_left = True
        async with member(tail, works) as new:
            await until(lambda: handled_of(tail, "r", 1), "the new owner handles it")
            await until(lambda: outcomes == ["cancelled"], "the old call is cancelled")
            assert await owned_by(tail, new) >= 1
    assert await handled(tail, "r") == [1]


async def test_what_the_server_lost_is_settled_again(tail: Tailrace) -> None:
    """A settlement that went with its last second: the owner notices, and what it did is there once."""
    ran: list[int] = []

    async def works(event: Event[Any], run: Run[Any]) -> None:
        ran.append(event.data["n"])
        run.emit("handled", event.data)

    async with member(tail, works):
        await tail.run("r").emit("order.paid", {"n": 0})
        await until(lambda: handled_of(tail, "r", 1), "it is handled")
        session = await tail.session()
        keys = session.keys.of("r")
        redis: Any = session.redis
        names = [keys.lease("g"), keys.log, keys.run("r"), keys.feed("r"), keys.meta]
        kept = [await redis.dump(name) for name in names]
        await tail.run("r").emit("order.paid", {"n": 1})
        await until(lambda: handled_of(tail, "r", 2), "the next one is")
        async with redis.pipeline() as pipe:
            for name, dump in zip(names, kept, strict=True):
                pipe.restore(name, 0, dump, replace=True)
            await pipe.execute()
        await tail.run("r").emit("order.paid", {"n": 2})
        await until(lambda: handled_of(tail, "r", 3), "it goes on")
    assert (await handled(tail, "r"), ran) == ([0, 1, 2], [0, 1, 1, 2])  # its producer sent it again


async def test_a_run_waits_for_the_member_that_has_its_handler(tail: Tailrace) -> None:
    """Rolling deploy: the old one yields its partitions to the new one, which handles more, and acknowledges nothing of it."""

    async def works(event: Event[Any], run: Run[Any]) -> None:
        run.emit("handled", event.data)

    async with member(tail, works, "order.paid") as old:
        await until(lambda: is_share(tail, old, 8), "it has all")
        async with another(tail) as newer:  # it tells what it handles, and is gone before it works
            newer.on("order.paid", group="g", ordered=True)(works)
            newer.on("order.sent", group="g", ordered=True)(works)
            await (await newer.session()).bind_groups()
            await tail.run("r").emit("order.sent", {"n": 1})
            await tail.run("r").emit("order.paid", {"n": 2})
            await tail.run("other").emit("order.paid", {"n": 3})
            await until(lambda: handled_of(tail, "other", 1), "what the old one handles goes on")
            assert await handled(tail, "r") == []
            async with working(newer) as new:
                await until(lambda: handled_of(tail, "r", 2), "the new one handles the rest", deadline=6)
                assert (await owned_by(tail, new), await owned_by(tail, old)) == (8, 0)
    assert await handled(tail, "r") == [1, 2]
