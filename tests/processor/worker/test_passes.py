"""What a worker does from time to time, through whatever happens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import structlog
from redis.exceptions import ConnectionError as RedisConnectionError

from processor import Run, Tailrace
from processor.client.session import Session
from processor.core.keys import PartitionKeys
from processor.core.settings import Settings
from processor.store.executing import GROUP, Taken
from processor.worker import passes as passes_module
from processor.worker.passes import Passes, Step
from tests.support.servers import Daemon, TestServer
from tests.support.until import until

VISIBILITY_SECONDS = 0.4


class Place:
    """One partition with a task `build`, and a worker's passes over it."""

    def __init__(self, tail: Tailrace, session: Session, client: Any) -> None:
        self.tail = tail
        self.session = session
        self.client = client
        self.keys: PartitionKeys = session.keys.partitions[0]
        self.work = self.keys.work("build")
        self.taken: list[Taken] = []
        self.room = 100

        @tail.task
        async def build(run: Run) -> None: ...

        self.build = build
        client.xgroup_create(self.work, GROUP, id="0", mkstream=True)

    def passes(self, **also: Step) -> Passes:
        return Passes(self.session, "me", ["build"], self.taken.extend, free=lambda task: self.room, also=also)

    async def given(self, consumer: str) -> str:
        """Starts a run whose entry the consumer is given. Returns the entry's ID."""
        await self.build.start()
        [[_, [(entry, _)]]] = self.client.xreadgroup(GROUP, consumer, {self.work: ">"}, count=1)
        return str(entry.decode())


@asynccontextmanager
async def placed(url: str, namespace: str, client: Any) -> AsyncIterator[Place]:
    settings = Settings(redis_url=url, namespace=namespace, visibility_seconds=VISIBILITY_SECONDS, partitions=1)
    async with Tailrace(settings=settings) as tail:
        yield Place(tail, await tail.session(), client)


@pytest.fixture
async def place(server: TestServer, namespace: str) -> AsyncIterator[Place]:
    client = server.client()
    async with placed(server.url, namespace, client) as place:
        yield place
    client.close()


@asynccontextmanager
async def running(passes: Passes) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(passes.run(stop))
    try:
        yield
        assert not task.done(), "passes ended by themselves"
    finally:
        stop.set()
        with anyio.fail_after(5):
            await task


def events(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


def counted(step: Callable[[], object]) -> tuple[list[None], Step]:
    """A step, and as many items as it was called."""
    calls: list[None] = []

    async def counting() -> None:
        calls.append(None)
        step()

    return calls, counting


async def test_what_a_dead_worker_held_is_taken(place: Place) -> None:
    """After the time that everybody is given to renew, and its own."""
    entry = await place.given("gone")
    async with running(place.passes()):
        await until(lambda: place.taken, "the entry is taken over")
    assert [taken.entry for taken in place.taken] == [entry]


async def test_what_is_due_is_queued(place: Place) -> None:
    """A late start, within the half second that lies between two looks."""
    await place.build.options(delay_seconds=0.2).start()
    async with running(place.passes()):
        await until(lambda: place.client.xlen(place.work) == 1, "the run is queued", deadline=2)


async def test_without_room_nothing_is_taken(place: Place) -> None:
    """A worker that is full, or drains, leaves entries to others, and takes them as soon as it has room."""
    await place.given("gone")
    place.room = 0
    looks, count = counted(lambda: None)
    async with running(place.passes(count=count)):
        await until(lambda: len(looks) > 8, "it looked for more than twice the time after which it might claim")
        assert place.taken == []
        place.room = 1
        await until(lambda: place.taken, "the entry is taken over")


async def test_a_look_cuts_logs_and_looks_after_owners(place: Place) -> None:
    """The other passes over a partition are made as well."""
    await place.session.scripts.bind(place.keys, "g")
    await place.build.start()
    await place.build.start()
    [[_, entries]] = place.client.xreadgroup("g", "c", {place.keys.log: ">"})
    place.client.xack(place.keys.log, "g", *(id for id, _ in entries))
    assert not place.client.hexists(place.keys.meta, "seen")
    await place.passes().look_once()
    assert place.client.xlen(place.keys.log) == 0
    assert place.client.hexists(place.keys.meta, "seen")


async def test_no_error_ends_them(place: Place) -> None:
    """One step's fault is logged once, the other steps go on, and that it is over is logged too."""
    faulty = True

    def fail() -> None:
        if faulty:
            raise RuntimeError("no")

    failed, broken = counted(fail)
    fine, whole = counted(lambda: None)
    with structlog.testing.capture_logs() as logs:
        async with running(place.passes(broken=broken, whole=whole)):
            await until(lambda: len(failed) > 2 and len(fine) > 2, "both were tried three times")
            faulty = False
            await until(lambda: events(logs, "pass_recovered"), "it is told as over")
    [told] = events(logs, "pass_failed")
    assert (told["step"], told["exc_info"]) == ("broken", True)


async def test_a_cancelled_step_does_not_end_them(place: Place) -> None:
    """Something that a step waited for was cancelled; nobody cancelled the passes."""

    def cancelled() -> None:
        raise asyncio.CancelledError

    calls, step = counted(cancelled)
    with structlog.testing.capture_logs() as logs:
        async with running(place.passes(step=step)):
            await until(lambda: len(calls) > 2, "it was tried three times")
    assert [told["step"] for told in events(logs, "pass_failed")] == ["step"]


async def test_cancelling_ends_them(place: Place) -> None:
    """At once, and everything that they began."""
    calls, step = counted(lambda: None)
    task = asyncio.create_task(place.passes(step=step).run(asyncio.Event()))
    await until(lambda: calls, "they run")
    task.cancel()
    with anyio.fail_after(5):
        await asyncio.wait([task])
    assert task.cancelled()
    assert not [other for other in asyncio.all_tasks() if other.get_name() in ("tailrace-look", "tailrace-promote")]


async def test_what_takes_entries_may_fail(place: Place) -> None:
    """The worker's own fault does not end the passes either; the entries are its own, for `own` to find."""
    entry = await place.given("gone")

    def take(taken: list[Taken]) -> None:
        raise RuntimeError("no")

    passes = Passes(place.session, "me", ["build"], take, free=lambda task: 1)
    with structlog.testing.capture_logs() as logs:
        async with running(passes):
            await until(lambda: events(logs, "pass_failed"), "the fault is told")
    [pending] = place.client.xpending_range(place.work, GROUP, "-", "+", 10)
    assert (pending["message_id"].decode(), pending["consumer"]) == (entry, b"me")


async def test_they_never_spin(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails at once is tried at its pace and no sooner."""

    async def away(*_: object) -> int:
        tries.append(asyncio.get_running_loop().time())
        raise RedisConnectionError("no")

    tries: list[float] = []
    monkeypatch.setattr(passes_module, "promote_all", away)
    with structlog.testing.capture_logs() as logs:
        async with running(place.passes()):
            await until(lambda: len(tries) > 3, "it was tried four times")
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert min(pauses) >= 0.8 * passes_module.PROMOTE_SECONDS - 0.01
    assert len(events(logs, "pass_failed")) == 1


async def test_a_step_that_hangs_holds_up_no_other(place: Place) -> None:
    """Least of all the claims: a gap between them counts as a silence, and nobody would ever claim."""
    await place.given("gone")
    begun, forever = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        begun.set()
        await forever.wait()

    async with running(place.passes(hang=hang)):
        await until(lambda: place.taken, "the entry is taken over")
        assert begun.is_set()
        forever.set()


async def test_stopping_waits_for_what_is_under_way(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim that was sent is heard, if it does not take for ever."""
    monkeypatch.setattr(passes_module, "STOP_SECONDS", 0.1)
    began, go, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        began.set()
        await go.wait()
        done.set()

    for is_answered in (True, False):
        for event in (began, go, done):
            event.clear()
        stop = asyncio.Event()
        task = asyncio.create_task(place.passes(slow=slow).run(stop))
        with anyio.fail_after(5):
            await began.wait()
            stop.set()
            if is_answered:
                go.set()
            await task
        assert done.is_set() == is_answered


async def test_virtual_time(every_server: TestServer, namespace: str) -> None:
    """A sandbox moves the clock and takes each step by hand: what was due long ago is queued by one."""
    if every_server.clock is None:
        pytest.skip("a real server's time is real")
    client = every_server.client()
    async with placed(every_server.url, namespace, client) as place:
        await place.build.options(delay_seconds=3600).start()
        passes = place.passes()
        await passes.promote_all()
        assert place.client.xlen(place.work) == 0
        every_server.clock.ahead += 3600
        await passes.promote_all()
        assert place.client.xlen(place.work) == 1
    client.close()


# -- a server of the test's own


@pytest.mark.holds_loop
async def test_they_go_on_when_the_server_is_back(daemon: Daemon, namespace: str) -> None:
    """Killed and started again: nothing is claimed before everybody could renew, then what nobody renewed is."""
    client: Any = TestServer("valkey", daemon.url).client()
    async with placed(daemon.url, namespace, client) as place:
        await place.given("gone")
        with structlog.testing.capture_logs() as logs:
            async with running(place.passes()):
                await until(lambda: place.client.hexists(place.keys.meta, "claimed"), "it looked")
                daemon.kill()
                await until(lambda: events(logs, "pass_failed"), "the outage is told", deadline=20)
                daemon.start()
                await until(lambda: place.taken, "the entry is taken over", deadline=20)
        assert events(logs, "pass_recovered")
    client.close()
