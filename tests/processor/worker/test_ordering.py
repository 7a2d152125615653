"""Ordered groups on a real server: order per run, retries in place, runs side by side."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import Retry, RetryLater
from processor.core.events import Event
from processor.store.scripts import partition_keys
from tests.processor.worker.conftest import dead_of, handled, has, working
from tests.support.until import until


async def test_events_of_a_run_are_handled_in_their_order(tail: Tailrace) -> None:
    """Each once, although every third one fails at first, and runs go side by side."""
    seen: dict[str, list[int]] = defaultdict(list)
    failed: set[tuple[str, int]] = set()

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=3, base_seconds=0.02))
    async def handle(event: Event[Any]) -> None:
        n = event.data["n"]
        await asyncio.sleep(0)
        if n % 3 == 0 and (event.run, n) not in failed:
            failed.add((event.run, n))
            raise ValueError("not yet")
        seen[event.run].append(n)

    runs = [f"r{n}" for n in range(6)]
    async with working(tail):
        for n in range(10):
            for run in runs:
                await tail.run(run).emit("order.paid", {"n": n})
        await until(lambda: sum(map(len, seen.values())) >= 60, "all handled", deadline=10)
    assert seen == {run: list(range(10)) for run in runs}


async def test_a_run_that_waits_holds_up_no_other(tail: Tailrace) -> None:
    """Its failed event stays first, and those behind it wait; other runs of the same partition go on."""
    seen: list[tuple[str, int]] = []
    may_go = asyncio.Event()

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=50, base_seconds=0.02, cap_seconds=0.05))
    async def handle(event: Event[Any]) -> None:
        if event.run == "x~bad" and not may_go.is_set():
            raise ValueError("not yet")
        seen.append((event.run, event.data["n"]))

    async with working(tail):
        for n in range(20):
            for run in ("x~bad", "x~good"):  # of one partition
                await tail.run(run).emit("order.paid", {"n": n})
        await until(lambda: len(seen) >= 20, "the other run is handled")
        assert {run for run, _ in seen} == {"x~good"}
        may_go.set()
        await until(lambda: len(seen) >= 40, "both are")
    assert [n for run, n in seen if run == "x~bad"] == list(range(20))


async def test_retry_later_waits_in_place_and_counts_as_no_try(tail: Tailrace) -> None:
    """However often it comes."""
    tries = 0
    seen: list[int] = []

    @tail.on("order.*", group="g", ordered=True, retry=1)
    async def handle(event: Event[Any]) -> None:
        nonlocal tries
        tries += 1
        if tries <= 4:
            raise RetryLater(0.01)
        seen.append(event.data["n"])

    async with working(tail):
        await tail.run("r").emit("order.paid", {"n": 1})
        await tail.run("r").emit("order.paid", {"n": 2})
        await until(lambda: len(seen) == 2, "both are handled")
    assert (seen, tries) == ([1, 2], 6)


async def test_a_run_goes_on_behind_its_dead_letter(tail: Tailrace) -> None:
    """Unless told otherwise."""
    seen: list[int] = []

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=2, base_seconds=0.01))
    async def handle(event: Event[Any]) -> None:
        if event.data["n"] == 1:
            raise ValueError("never")
        seen.append(event.data["n"])

    async with working(tail):
        for n in range(4):
            await tail.run("r").emit("order.paid", {"n": n})
        await until(lambda: seen == [0, 2, 3], "the others are handled")
    assert await dead_of(tail, "g") == [("r", 1, "error")]


async def test_a_stopped_run_goes_on_when_its_letters_are_requeued(tail: Tailrace) -> None:
    """on_dead="stop": what comes behind a dead letter is one too, also for the next owner, until it is requeued."""
    seen: list[int] = []
    broken = {1}

    @tail.on("order.*", group="g", ordered=True, retry=1, on_dead="stop")
    async def handle(event: Event[Any]) -> None:
        if event.data["n"] in broken:
            raise ValueError("broken")
        seen.append(event.data["n"])

    async def letters() -> list[tuple[str, int, str]]:
        return await dead_of(tail, "g")

    async with working(tail):
        for n in range(3):
            await tail.run("r").emit("order.paid", {"n": n})
        await tail.run("other").emit("order.paid", {"n": 7})
        await until(lambda: seen == [0, 7] or seen == [7, 0], "what may be handled is")
        await until(lambda: has(letters, 2), "the rest are letters")
    async with working(tail):
        await tail.run("r").emit("order.paid", {"n": 3})
        await until(lambda: has(letters, 3), "the next owner knows that it stopped")
        assert await letters() == [("r", 1, "error"), ("r", 2, "stopped"), ("r", 3, "stopped")]
        await requeue_all(tail)  # still broken: what was requeued behind it stays behind it
        await until(lambda: has(letters, 3), "all are letters again")
        assert await letters() == [("r", 1, "error"), ("r", 2, "stopped"), ("r", 3, "stopped")]
        broken.clear()
        await requeue_all(tail)
        await until(lambda: seen[-3:] == [1, 2, 3], "they are handled in their order")
        await tail.run("r").emit("order.paid", {"n": 4})
        await until(lambda: seen[-1] == 4, "the run goes on")
    assert await letters() == []


async def requeue_all(tail: Tailrace) -> None:
    session = await tail.session()
    redis: Any = session.redis
    for keys in session.keys.partitions:
        dead = keys.dead_group("g")
        ids = [entry for entry, _ in await redis.xrange(dead)]
        if ids:
            await session.scripts.call("requeue_reaction", [*partition_keys(keys), dead, keys.lease("g")], ["g", *ids])


async def test_a_batch_is_of_one_run(tail: Tailrace) -> None:
    """Consecutive events of it; when a batch fails they go one by one, so that only one of them fails for good."""
    batches: list[tuple[set[str], list[int]]] = []

    @tail.on("order.*", group="g", ordered=True, batch=10, retry=Retry(attempts=2, base_seconds=0.01))
    async def handle(events: list[Event[Any]]) -> None:
        if any(event.run == "a" and event.data["n"] == 5 for event in events):
            raise ValueError("that one")
        batches.append(({event.run for event in events}, [event.data["n"] for event in events]))

    await (await tail.session()).bind_groups()
    for n in range(30):
        for run in ("a", "b"):
            await tail.run(run).emit("order.paid", {"n": n})

    def numbers_of(run: str) -> list[int]:
        return [n for runs, numbers in batches for n in numbers if runs == {run}]

    async with working(tail):
        await until(lambda: sum(len(numbers) for _, numbers in batches) == 59, "all but one are handled")
    assert all(len(runs) == 1 for runs, _ in batches)
    assert numbers_of("b") == list(range(30))
    assert numbers_of("a") == [n for n in range(30) if n != 5]
    assert len([1 for runs, _ in batches if runs == {"b"}]) < 10
    assert await dead_of(tail, "g") == [("a", 5, "error")]


async def test_an_output_that_is_refused_fails_its_event_in_place(tail: Tailrace) -> None:
    """What stands behind it in the same call is settled all the same, and its run goes on in order."""
    seen: list[tuple[str, int]] = []

    @tail.on("order.*", group="g", ordered=True, retry=Retry(attempts=2, base_seconds=0.01))
    async def handle(event: Event[Any], run: Run[Any]) -> None:
        seen.append((event.run, event.data["n"]))
        if event.data["n"] == 1 and event.run == "done~a":
            tail.run("done").emit("order.sent", {})
        else:
            run.emit("handled", event.data)

    await (await tail.session()).bind_groups()
    for end in ("run.started", "run.finished"):
        await tail.run("done").emit(end)
    for n in range(5):
        for name in ("done~a", "done~b", "done~c"):
            await tail.run(name).emit("order.paid", {"n": n})
    async with working(tail):
        await until(lambda: seen.count(("done~a", 4)) == 1 and len(seen) == 16, "all are handled")
    assert [n for run, n in seen if run == "done~a"] == [0, 1, 1, 2, 3, 4]
    assert await dead_of(tail, "g") == [("done~a", 1, "error")]
    for name in ("done~b", "done~c"):
        assert await handled(tail, name) == list(range(5))
