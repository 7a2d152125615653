"""Reactions in a worker: which events they get, what they emit, and what becomes of those that fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.backoff import Retry
from processor.core.events import Event
from processor.store.connection import execute
from tests.processor.worker.conftest import events_of, is_settled, working
from tests.support.until import until


async def test_what_a_reaction_emits_is_settled_with_its_event(tail: Tailrace) -> None:
    """Each fact that the pattern matches is handled once, and what its handler emits is there once, in any partition."""

    @tail.on("tool.*")
    async def audit(event: Event[Any], run: Run[Any]) -> None:
        tail.run("audit").emit("seen", {"run": run.id, "type": event.type})
        tail.run(f"audit-{run.id}").emit("seen", event.data)

    async with working(tail):
        for n in range(20):
            run = tail.run(f"r{n}")
            run.emit("tool.started", {"n": n})
            run.emit("order.paid", {"n": n})
            await run.emit("tool.result", {"n": n})
        await until(lambda: is_settled(tail, "audit"), "all is handled")
        session = await tail.session()
        await session.relaying.look()
        await until(lambda: session.relaying.is_busy is False, "all is relayed")
    seen = Counter((event.data["run"], event.data["type"]) for event in await events_of(tail, "audit"))
    assert seen == Counter((f"r{n}", type) for n in range(20) for type in ("tool.started", "tool.result"))
    for n in range(20):
        assert [event.data for event in await events_of(tail, f"audit-r{n}")] == [{"n": n}, {"n": n}]


async def test_groups_are_a_fan_out_and_a_group_handles_once(tail: Tailrace) -> None:
    """Every group gets each event; of a group the first reaction that fits, by pattern and labels."""
    got: list[tuple[str, int]] = []

    @tail.on("order.#", group="one", where={"land": "fr"})
    async def french(event: Event[Any]) -> None:
        got.append(("french", event.data))

    @tail.on("order.#", group="one")
    async def others(event: Event[Any]) -> None:
        got.append(("others", event.data))

    @tail.on("#", group="two")
    async def everything(event: Event[Any]) -> None:
        got.append(("everything", event.data))

    async with working(tail):
        run = tail.run("r")
        await run.emit("order.paid", 1, labels={"land": "fr"})
        await run.emit("order.paid", 2)
        await run.emit("tool.result", 3)
        await until(lambda: is_settled(tail, "one"), "one is through")
        await until(lambda: is_settled(tail, "two"), "two is through")
    assert sorted(got) == [("everything", 1), ("everything", 2), ("everything", 3), ("french", 1), ("others", 2)]


async def test_a_failed_reaction_is_tried_again_by_its_group_alone(tail: Tailrace) -> None:
    """Its outputs are those of the try that succeeded; the other group has had the event."""
    tries: list[int] = []
    others: list[str] = []

    @tail.on("order.paid", retry=Retry(attempts=3, base_seconds=0.01))
    async def flaky(event: Event[Any], run: Run[Any]) -> None:
        tries.append(len(tries))
        tail.run("out").emit("tried", len(tries))
        if len(tries) < 3:
            raise ValueError("not yet")

    @tail.on("order.paid")
    async def steady(event: Event[Any]) -> None:
        others.append(event.id)

    async with working(tail):
        await tail.run("r").emit("order.paid", 1)
        await until(lambda: len(tries) == 3, "the third try")
        await until(lambda: is_settled(tail, "flaky"), "it is settled")
        await until(lambda: is_settled(tail, "steady"), "the other, too")
        session = await tail.session()
        await session.relaying.look()
    assert [event.data for event in await events_of(tail, "out")] == [3]
    assert len(others) == 1


async def test_what_fails_for_good_becomes_a_dead_letter(tail: Tailrace) -> None:
    """With its event, its reason and its traceback; nothing that it emitted is there."""

    @tail.on("order.paid", retry=1)
    async def broken(event: Event[Any], run: Run[Any]) -> None:
        run.emit("never", None)
        raise ValueError("no such order")

    async with working(tail):
        run = tail.run("r")
        await run.emit("order.paid", 1)
        await until(lambda: is_settled(tail, "broken"), "it is settled")
        session = await tail.session()
        keys = session.keys.of("r")
        [(_, fields)] = await execute(session.redis, "XRANGE", keys.dead_group("broken"), "-", "+")
        letter = fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True))
    assert letter[b"r"] == b"r"
    assert b"no such order" in letter[b"f"]
    assert b'"attempts":1' in letter[b"f"]
    assert [event.type for event in await events_of(tail, "r")] == ["order.paid"]


async def test_a_batch_is_one_call(tail: Tailrace) -> None:
    """With batch events come as a list, and are acknowledged together with what the call emits."""
    sizes: list[int] = []

    @tail.on("order.paid", batch=50)
    async def many(events: list[Event[Any]]) -> None:
        sizes.append(len(events))
        tail.run("sums").emit("sum", sum(event.data for event in events))

    runs = [tail.run(f"r{n % 3}") for n in range(100)]
    async with tail:
        session = await tail.session()
        await session.bind_groups()  # as where reactions are defined before their Tailrace is opened
        for n, run in enumerate(runs):
            await run.emit("order.paid", n)
        async with working(tail):
            await until(lambda: is_settled(tail, "many"), "all is handled")
            session = await tail.session()
            await session.relaying.look()
    assert sum(sizes) == 100
    assert max(sizes) > 1
    assert sum(event.data for event in await events_of(tail, "sums")) == sum(range(100))


async def test_a_call_that_takes_too_long_is_a_failure(tail: Tailrace) -> None:
    """It is cancelled, and tried again."""
    calls: list[str] = []

    @tail.on("order.paid", timeout_seconds=0.1, retry=Retry(attempts=2, base_seconds=0.01))
    async def slow(event: Event[Any]) -> None:
        calls.append(event.id)
        if len(calls) == 1:
            await asyncio.Event().wait()

    async with working(tail):
        await tail.run("r").emit("order.paid", 1)
        await until(lambda: len(calls) == 2, "the second try")
        await until(lambda: is_settled(tail, "slow"), "it is settled")


async def test_calls_run_beside_each_other(tail: Tailrace) -> None:
    """As many at once as `concurrency` says, and no more."""
    gate = asyncio.Event()
    now: list[str] = []
    most = 0

    @tail.on("order.paid", concurrency=3)
    async def waits(event: Event[Any]) -> None:
        nonlocal most
        now.append(event.id)
        most = max(most, len(now))
        await gate.wait()
        now.remove(event.id)

    async with working(tail):
        for n in range(8):
            await tail.run(f"r{n}").emit("order.paid", n)
        await until(lambda: most == 3, "three run")
        gate.set()
        await until(lambda: is_settled(tail, "waits"), "all is handled")
    assert most == 3


async def test_increments_come_where_they_are_bound(tail: Tailrace) -> None:
    """A token reaches the log for a group that names its type; `#` means facts alone."""
    got: list[str] = []

    @tail.on("message.delta", group="tokens")
    async def token(event: Event[Any]) -> None:
        got.append(event.text)

    @tail.on("#", group="facts")
    async def fact(event: Event[Any]) -> None:
        got.append(event.type)

    async with working(tail):
        run = tail.run("r")
        run.write("a")
        await run.write("b")
        await until(lambda: is_settled(tail, "tokens"), "tokens are through")
        await until(lambda: is_settled(tail, "facts"), "facts are through")
    assert sorted(got) == ["a", "b", "message.started"]


@pytest.mark.parametrize("drains", [True, False])
async def test_what_was_not_handled_goes_to_another_worker(tail: Tailrace, drains: bool) -> None:
    """A worker that drains gives back what it has not begun; one that is gone has it taken over."""
    first, second = asyncio.Event(), Counter[str]()
    stuck = asyncio.Event()

    @tail.on("order.paid", concurrency=1)
    async def once(event: Event[Any]) -> None:
        if not first.is_set():
            first.set()
            await stuck.wait()
        second[event.id] += 1
        tail.run("out").emit("done", event.data)

    from processor.worker.worker import Worker

    one = Worker(tail)
    running = asyncio.create_task(one.run())
    for n in range(5):
        await tail.run("r").emit("order.paid", n)
    await first.wait()
    if drains:
        stuck.set()
        one.stop()
        await running
    else:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        stuck.set()
    async with working(tail):
        await until(lambda: is_settled(tail, "once"), "all is handled", 15)
        session = await tail.session()
        await session.relaying.look()
    assert sorted(event.data for event in await events_of(tail, "out")) == list(range(5))


async def test_output_that_breaks_the_script_ends_as_a_dead_letter(tail: Tailrace) -> None:
    """Somebody broke the run that a reaction writes to: its event is tried again and set aside, also where one worker is all."""

    @tail.on("order.paid", retry=Retry(attempts=2, base_seconds=0.01))
    async def books(event: Event[Any], run: Run[Any]) -> None:
        run.emit("booked")

    async with working(tail):
        session = await tail.session()
        keys = session.keys.of("r")
        await tail.run("r").emit("order.paid", 1)
        await until(lambda: is_settled(tail, "books"), "it is settled")
        await execute(session.redis, "SET", keys.run("r~x"), "no hash")
        await execute(
            session.redis, "XADD", keys.log, "*", "r", "r~x", "i", "1-1", "e", '"type":"order.paid","data":1}'
        )
        await until(lambda: execute(session.redis, "EXISTS", keys.dead_group("books")), "it is a dead letter", 15)
        await until(lambda: is_settled(tail, "books"), "nothing of it is left")
        await execute(session.redis, "DEL", keys.run("r~x"))
