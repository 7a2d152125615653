"""A shared group by itself: what it holds, takes over and hands out, with a server that it may lose at any point."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from processor import Tailrace
from processor.client.run import Run
from processor.core.events import Event
from processor.store import reacting
from processor.store.connection import execute
from processor.store.reacting import Claimed
from processor.worker import log_reader
from processor.worker.lanes import Call, Lanes
from processor.worker.shared_group import SharedGroup
from processor.worker.window import MOST, Window
from processor.worker.worker import Worker
from tests.processor.worker.conftest import events_of, is_settled, working
from tests.support.until import until


@asynccontextmanager
async def reading(tail: Tailrace, group: str, consumer: str = "c1") -> AsyncIterator[SharedGroup]:
    """A group without a worker around it: a test takes its steps."""
    session = await tail.session()
    worker = SimpleNamespace(session=session, consumer=consumer, stopping=asyncio.Event())
    shared = SharedGroup(cast("Worker", worker), tail.reactions[group], lambda: None)
    await shared.open()
    try:
        yield shared
    finally:
        await shared.close()


async def pending(tail: Tailrace, group: str) -> int:
    session = await tail.session()
    redis: Any = session.redis
    return sum([(await redis.xpending(keys.log, group))["pending"] for keys in session.keys.partitions])


async def leave_behind(tail: Tailrace, group: str, consumer: str) -> None:
    """A consumer that reads what is there, and is never heard of again."""
    session = await tail.session()
    for keys in session.keys.partitions:
        await execute(session.redis, "XREADGROUP", "GROUP", group, consumer, "STREAMS", keys.log, ">")


async def test_an_event_is_handled_once_though_its_answer_was_asked_for_again(
    tail: Tailrace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is settled while own pending entries are listed is not handed out again by that list, which is older."""
    gate, calls = asyncio.Event(), Counter[str]()
    listed = 0

    @tail.on("order.paid")
    async def waits(event: Event[Any], run: Run[Any]) -> None:
        calls[event.id] += 1
        await gate.wait()
        run.emit("order.seen")

    genuine = reacting.claim

    async def late(*args: Any, own: bool = False, **options: Any) -> Claimed:
        nonlocal listed
        answer = await genuine(*args, own=own, **options)
        if own and answer.deliveries:
            listed += len(answer.deliveries)
            gate.set()
            await until(lambda: pending_is_none(), "what was listed is settled")
        return answer

    async def pending_is_none() -> bool:
        return not await pending(tail, "waits")

    monkeypatch.setattr(log_reader, "claim", late)
    async with working(tail):
        for _ in range(20):
            await tail.run("r").emit("order.paid")
        await until(lambda: len(calls) == 20, "all run")
        session = await tail.session()
        for line in (await execute(session.redis, "CLIENT", "LIST")).decode().splitlines():
            if "name=tailrace-react-read" in line:
                await execute(session.redis, "CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
        await until(lambda: listed > 0, "own pending entries were asked for")
        await until(lambda: is_settled(tail, "waits"), "all is settled")
    assert set(calls.values()) == {1}


async def test_nothing_is_taken_over_that_there_is_no_room_for(tail: Tailrace) -> None:
    """What another worker left behind goes to one that has room; what was taken over is renewed as long as it waits."""
    gate = asyncio.Event()

    @tail.on("order.paid", concurrency=1)
    async def waits(event: Event[Any]) -> None:
        await gate.wait()

    async with reading(tail, "waits") as group:
        for n in range(6):
            await tail.run("r").emit("order.paid", n)
        while group.held < 2:  # one runs, one waits for its lane
            await group.step()
        await until(lambda: group.running == 1, "one runs")
        await leave_behind(tail, "waits", "gone")
        for _ in range(2):
            await until_idle(tail, "waits")
            await group.look()
        assert group.held == 2
        gate.set()
        await until(lambda: not group.held, "it is settled")

        async def takes() -> bool:
            await group.look()
            return group.held > 0

        await until(takes, "there is room, and one is taken over")
        assert group.held <= 2
        assert len(list(group.renewals())) == 1


async def until_idle(tail: Tailrace, group: str) -> None:
    """Every pending entry of the consumer that is gone may be taken over."""
    session = await tail.session()
    redis: Any = session.redis

    async def is_old() -> bool:
        ages: list[int] = []
        for keys in session.keys.partitions:
            listed = await redis.xpending_range(keys.log, group, "-", "+", 100, "gone")
            ages += [one["time_since_delivered"] for one in listed]
        return min(ages, default=0) >= session.settings.visibility_seconds * 1000

    await until(is_old, "nobody renews them")


@pytest.mark.parametrize("labels", [b'"labels":["x"],', b'"labels":"x",', b'"labels":7,', b'{"broken'])
async def test_labels_that_are_none_end_no_group(tail: Tailrace, labels: bytes) -> None:
    """An event whose labels cannot be read has none: it goes past reactions that ask for some, and the next events come."""
    got: list[Any] = []

    @tail.on("order.paid", group="g", where={"land": "fr"})
    async def french(event: Event[Any]) -> None:
        got.append("french")

    async with working(tail):
        session = await tail.session()
        keys = session.keys.of("r")
        await tail.run("r").emit("order.paid", 1, labels={"land": "fr"})
        await until(lambda: got == ["french"], "the first")
        redis: Any = session.redis
        last = (await redis.xinfo_stream(keys.log))["last-generated-id"]
        payload = b'"type":"order.paid",' + labels + b'"data":1}'
        after = b"%d-%d" % (int(last.split(b"-")[0]), int(last.split(b"-")[1]) + 1)
        await execute(session.redis, "XADD", keys.log, after, "r", "r", "i", "2-1", "e", payload)
        await execute(session.redis, "HINCRBY", keys.meta, "logged", 1)
        await tail.run("r").emit("order.paid", 3, labels={"land": "fr"})
        await until(lambda: got == ["french"] * 2, "the one behind it")
        await until(lambda: is_settled(tail, "g"), "all is settled")


async def test_a_cancellation_that_was_swallowed_leaves_the_lane_as_it_was(tail: Tailrace) -> None:
    """A handler that ends as if nothing had been is a success, and the next call's task groups see no cancellation."""
    ended: list[str] = []

    @tail.on("order.paid", concurrency=1, timeout_seconds=0.1)
    async def stubborn(event: Event[Any]) -> None:
        if event.data == 0:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("swallowed")
            return
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        ended.append("whole")

    async with working(tail):
        await tail.run("r").emit("order.paid", 0)
        await tail.run("r").emit("order.paid", 1)
        await until(lambda: ended == ["swallowed", "whole"], "both ended")
        await until(lambda: is_settled(tail, "stubborn"), "both are settled")


async def test_closing_ends_a_call_that_swallows_a_cancellation(tail: Tailrace) -> None:
    """It is cancelled again, and nothing of the group is left running."""
    swallowed = 0

    @tail.on("order.paid")
    async def stubborn(event: Event[Any]) -> None:
        nonlocal swallowed
        while swallowed < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1

    async with reading(tail, "stubborn") as group:
        await tail.run("r").emit("order.paid", 0)
        await group.step()
        await until(lambda: group.running == 1, "it runs")
        async with asyncio.timeout(10):
            await group.crash()
        assert not group.running
        assert not group.held
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert not [name for name in names if name.startswith(("tailrace-react", "tailrace-emit", "tailrace-skip"))]


async def test_what_ends_behind_the_close_is_not_settled(tail: Tailrace) -> None:
    """A worker that is gone writes nothing: its entries stay pending, for whoever claims them."""
    gate = asyncio.Event()

    @tail.on("order.paid")
    async def late(event: Event[Any], run: Run[Any]) -> None:
        try:
            await gate.wait()
        except asyncio.CancelledError:
            run.emit("order.seen")

    async with reading(tail, "late") as group:
        await tail.run("r").emit("order.paid", 0)
        await group.step()
        await until(lambda: group.running == 1, "it runs")
        await group.crash()
        assert await pending(tail, "late") == 1
    assert [event.type for event in await events_of(tail, "r")] == ["order.paid"]


async def test_what_nobody_handles_is_acknowledged_once_the_server_is_back(tail: Tailrace) -> None:
    """A skip that fails loses nothing: its entries are found among own pending ones."""

    @tail.on("order.paid")
    async def one(event: Event[Any]) -> None: ...

    async with working(tail) as worker:
        await tail.run("r").emit("order.paid", 0)
        await until(lambda: is_settled(tail, "one"), "the first")
        session = await tail.session()
        for line in (await execute(session.redis, "CLIENT", "LIST")).decode().splitlines():
            if "name=tailrace-react " in line:
                await execute(session.redis, "CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
        for n in range(50):
            await tail.run("r").emit("order.cancelled", n)
        await until(lambda: is_settled(tail, "one"), "all is acknowledged")
        assert worker.reacting.held == 0


async def test_a_batch_is_whole_before_its_lane_has_it(tail: Tailrace) -> None:
    """Nothing is added to a batch that was handed out."""
    seen: list[Sequence[int]] = []

    @tail.on("order.paid", batch=10, concurrency=1)
    async def many(events: list[Event[Any]]) -> None:
        seen.append([event.data for event in events])
        events.clear()  # it is the handler's own

    async with working(tail):
        for n in range(30):
            tail.run("r").emit("order.paid", n)
        await until(lambda: sum(map(len, seen)) == 30, "all came")
        await until(lambda: is_settled(tail, "many"), "all is settled")
    assert [n for batch in seen for n in batch] == list(range(30))
    assert max(map(len, seen)) <= 10


def test_a_window_grows_while_calls_are_over_at_once() -> None:
    """It doubles up to its most while nothing waits or runs, and falls back to its lanes when a call waits for one."""
    window = Window(64)
    for _ in range(10):
        window.judge(is_slow=False, is_idle=True)
    assert window.size == MOST
    window.judge(is_slow=True, is_idle=False)
    assert window.size == 64
    assert window.room(64) == 0
    assert window.room(60) == 4


def test_a_large_window_is_filled_by_halves() -> None:
    """So that each read is a large one; a small window is filled at once."""
    window = Window(64)
    for _ in range(10):
        window.judge(is_slow=False, is_idle=True)
    assert window.room(0) == MOST
    assert window.room(MOST // 2) == MOST // 2
    assert window.room(MOST // 2 + 1) == 0


async def test_a_lane_lets_others_have_their_turn(tail: Tailrace) -> None:
    """Handlers that wait for nothing do not keep the event loop for as long as there are events."""
    turns: list[int] = []
    done = 0

    @tail.on("order.paid")
    async def quick(event: Event[Any]) -> None:
        nonlocal done
        done += 1

    await tail.session()
    [reaction] = tail.reactions["quick"].reactions
    lanes = Lanes(reaction, 1000, lambda call, ended: None)
    delivery = cast("Any", SimpleNamespace(run="r"))
    event: Event[Any] = Event("r", "1-1", b'"type":"order.paid","data":1}')
    for _ in range(1000):
        lanes.put(Call((delivery,), (event,)))
    while done < 1000:
        turns.append(done)
        await asyncio.sleep(0)
    assert len(turns) >= 4
    await lanes.close()
