"""Inlets at work on a real server: everything arrives once and in order, whatever happens to owners, streams and runs."""

from __future__ import annotations

import asyncio
import functools
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from processor import Tailrace
from processor.client.inlet import Entry, Inlet, Into, Map
from processor.core.settings import Settings
from processor.observe import metrics
from processor.store.connection import execute
from processor.store.dead import Wanted
from processor.store.dead import letters as find_letters
from processor.worker import inlets as module
from processor.worker.inlets import Taking
from processor.worker.singletons import Singletons
from tests.processor.worker.conftest import has, working
from tests.support.proxy import fault_proxy
from tests.support.servers import TestServer, running
from tests.support.until import until

STREAM = "orders-of-others"


class Shop:
    """Adds entries to a foreign stream, and looks at what became of them."""

    def __init__(self, tail: Tailrace) -> None:
        self.tail = tail
        self.count = 0

    async def ask(self, *command: bytes | str | int) -> Any:
        return await execute((await self.tail.session()).redis, *command)

    async def add(self, count: int, *, runs: int = 5) -> None:
        """Numbered entries for runs in turn."""
        redis = (await self.tail.session()).redis
        async with redis.pipeline(transaction=False) as pipe:
            for _ in range(count):
                self.count += 1
                run = f"r{self.count % runs}"
                pipe.xadd(STREAM, {"run": run, "type": "order.paid", "data": str(self.count)})
            await pipe.execute()

    async def data(self, run: str) -> list[int]:
        session = await self.tail.session()
        entries = await self.ask("XRANGE", session.keys.of(run).feed(run), "-", "+")
        return [json.loads(b"{" + fields[b"e"])["data"] for _, fields in entries]

    async def arrived(self, runs: int = 5) -> int:
        return sum([len(await self.data(f"r{n}")) for n in range(runs)])

    async def all_arrived(self, runs: int = 5) -> None:
        await until(lambda: self._are(self.count, runs), f"{self.count} entries arrived", 20)
        await self.check(runs)

    async def _are(self, count: int, runs: int) -> bool:
        return await self.arrived(runs) >= count

    async def some_arrived(self, count: int, runs: int = 5) -> None:
        await until(functools.partial(self._are, count, runs), f"{count} entries arrived", 20)

    async def check(self, runs: int = 5) -> None:
        """Each once, in the order of the stream."""
        for n in range(runs):
            assert await self.data(f"r{n}") == [i for i in range(1, self.count + 1) if i % runs == n]

    async def letters(self, name: str = STREAM) -> list[dict[bytes, bytes]]:
        found = []
        for keys in (await self.tail.session()).keys.partitions:
            found += [fields for _, fields in await self.ask("XRANGE", keys.dead_group(name), "-", "+")]
        return found

    async def noted(self, name: str = STREAM) -> dict[bytes, bytes]:
        held: dict[bytes, bytes] = await self.ask("HGETALL", (await self.tail.session()).keys.inlet(name))
        return held


@pytest.fixture
async def shop(tail: Tailrace) -> AsyncIterator[Shop]:
    shop = Shop(tail)
    yield shop
    await shop.ask("DEL", STREAM)


@asynccontextmanager
async def taking(
    tail: Tailrace, map: Map | None = None, *, crash: bool = False, **options: Any
) -> AsyncIterator[Taking]:
    """An owner while the block runs. crash: at the end it is gone, whatever it was doing."""
    one = Taking(Inlet(STREAM, map, **options), await tail.session())
    stop = asyncio.Event()
    running = asyncio.create_task(one.run(stop))
    try:
        yield one
    finally:
        if crash:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        else:
            stop.set()
            await asyncio.wait_for(running, 5)


async def test_everything_arrives_in_order(shop: Shop) -> None:
    """What was there, in many pages, and what comes later."""
    await shop.add(2000)
    async with taking(shop.tail):
        await shop.all_arrived()
        await shop.add(3)
        await shop.all_arrived()


async def test_a_stream_may_come_later(shop: Shop) -> None:
    """An inlet waits for a stream that is not there yet."""
    async with taking(shop.tail):
        await until(shop.noted, "it has begun")
        await shop.add(10)
        await shop.all_arrived()


async def test_the_next_owner_goes_on_where_the_last_one_stopped(shop: Shop) -> None:
    """It reads nothing from the beginning again, and its note says how far it is."""
    seen: list[str] = []

    def map(entry: Entry) -> Into:
        seen.append(entry.id)
        return Into(entry.text("run"), entry.text("type"), entry.json("data"))

    await shop.add(300)
    async with taking(shop.tail, map):
        await shop.all_arrived()
    assert (await shop.noted())[b"added"] == b"300"
    await shop.add(5)
    seen.clear()
    async with taking(shop.tail, map):
        await shop.all_arrived()
    assert len(seen) == 5


async def test_now_begins_behind_what_is_there(shop: Shop) -> None:
    """Once: the next owner goes on, and does not begin anew."""
    await shop.add(10)
    async with taking(shop.tail, start="now"):
        await until(shop.noted, "it has begun")
        await shop.add(5, runs=1)
        await shop.some_arrived(5, 1)
    await shop.add(5, runs=1)
    async with taking(shop.tail, start="now"):
        await shop.some_arrived(10, 1)
    assert await shop.data("r0") == [*range(11, 21)]


async def test_what_the_function_says(shop: Shop) -> None:
    """Nothing, one event, several in one step."""

    def map(entry: Entry) -> Into | list[Into] | None:
        n = entry.json("data")
        if n % 3 == 0:
            return None
        if n % 3 == 1:
            return Into("r0", "a", n)
        return [Into("r1", "a", n), Into("r1", "b", -n)]

    await shop.add(300)
    async with taking(shop.tail, map):
        await shop.some_arrived(300, 2)
    assert await shop.data("r0") == [*range(1, 300, 3)]
    assert await shop.data("r1") == [sign * n for n in range(2, 300, 3) for sign in (1, -1)]


async def test_bad_entries_are_set_aside_and_it_goes_on(shop: Shop) -> None:
    """In partition 0, with reason and raw fields, once for all owners; counted and logged."""

    def map(entry: Entry) -> Into:
        if entry.json("data") % 10 == 0:
            raise ValueError("tens are not taken")
        return Into("r0", "a", entry.json("data"))

    before = metrics.inlet_entries_total.labels(STREAM, "set_aside")._value.get()
    await shop.add(100)
    with structlog.testing.capture_logs() as logs:
        async with taking(shop.tail, map):
            await shop.some_arrived(90, 1)
    async with taking(shop.tail, map):
        await shop.add(1)
        await shop.some_arrived(91, 1)
    session = await shop.tail.session()
    assert await shop.ask("XLEN", session.keys.partitions[0].dead_group(STREAM)) == 10
    letters = await shop.letters()
    assert [letter[b"f:data"] for letter in letters] == [b"%d" % n for n in range(10, 101, 10)]
    whys = [json.loads(letter[b"f"]) for letter in letters]
    assert {(why["error"], why["reason"]) for why in whys} == {("ValueError: tens are not taken", "error")}
    assert all("tens are not taken" in why["traceback"] for why in whys)
    dead = [letter async for letter in find_letters(session, Wanted(group=STREAM))]
    assert {(letter.group, letter.error, letter.reason) for letter in dead} == {(STREAM, whys[0]["error"], "error")}
    assert metrics.inlet_entries_total.labels(STREAM, "set_aside")._value.get() == before + 10
    assert sum(line.get("entries", 0) for line in logs if line["event"] == "inlet_entries_set_aside") == 10


async def test_what_a_run_refuses_is_set_aside(shop: Shop) -> None:
    """In the run's own partition, with what the run said; entries of other runs are taken, those of the same run behind it too."""
    await shop.add(50)
    ended = shop.tail.run("r3")
    await ended.emit("order.paid", -1)
    await ended.emit("run.finished", {"result": None})
    async with taking(shop.tail):
        await shop.some_arrived(42)
        await until(lambda: has(shop.letters, 10), "ten are set aside")
    assert await shop.data("r3") == [-1, {"result": None}]
    assert await shop.data("r4") == [*range(4, 51, 5)]
    letters = await shop.letters()
    assert [letter[b"f:data"] for letter in letters] == [b"%d" % n for n in range(3, 51, 5)]
    whys = [json.loads(letter[b"f"]) for letter in letters]
    assert all(why["error"].startswith("run r3 ended as succeeded") and why["reason"] == "refused" for why in whys)
    session = await shop.tail.session()
    assert await shop.ask("XLEN", session.keys.of("r3").dead_group(STREAM)) == 10


async def test_a_broken_run_is_set_aside(shop: Shop) -> None:
    """Somebody broke its hash: nothing else waits for it, or comes twice."""
    session = await shop.tail.session()
    await shop.ask("SET", session.keys.of("r3").run("r3"), "no hash")
    await shop.add(50)
    async with taking(shop.tail):
        await until(lambda: has(shop.letters, 10), "ten are set aside")
        await shop.some_arrived(40)
    assert [await shop.data(f"r{n}") for n in (0, 4)] == [[*range(5, 51, 5)], [*range(4, 51, 5)]]
    await shop.ask("DEL", session.keys.of("r3").run("r3"))


async def test_a_full_backlog_is_waited_for(server: TestServer, namespace: str) -> None:
    """Nothing is lost, doubled or set aside; it goes on as soon as there is room."""
    settings = Settings(redis_url=server.url, namespace=namespace, partitions=1, log_limit=100)
    async with Tailrace(settings=settings) as tail:
        shop, session = Shop(tail), await tail.session()
        log = session.keys.partitions[0].log
        await session.scripts.bind(session.keys.partitions[0], "slow", start="now", when_behind="refuse")
        await shop.add(350)
        with structlog.testing.capture_logs() as logs:
            async with taking(tail):
                for arrived in (100, 200, 300, 350):
                    await shop.some_arrived(arrived)
                    await shop.ask("XREADGROUP", "GROUP", "slow", "me", "STREAMS", log, ">")
                    await shop.ask("XACK", log, "slow", *[id for id, _ in await shop.ask("XRANGE", log, "-", "+")])
                await shop.all_arrived()
        assert await shop.letters() == []
        waits = [line for line in logs if line["event"] == "inlet_waits"]
        assert {(line["error"], line["group"]) for line in waits} == {("full", "slow")}
        await shop.ask("DEL", STREAM)


async def test_it_stops_while_it_waits_for_a_backlog(server: TestServer, namespace: str) -> None:
    """What was not taken is not noted as done: the next owner sends it."""
    settings = Settings(redis_url=server.url, namespace=namespace, partitions=1, log_limit=100)
    async with Tailrace(settings=settings) as tail:
        shop, session = Shop(tail), await tail.session()
        await session.scripts.bind(session.keys.partitions[0], "slow", start="now", when_behind="refuse")
        await shop.add(150)
        async with taking(tail):
            await shop.some_arrived(100)
        await shop.ask("XGROUP", "DESTROY", session.keys.partitions[0].log, "slow")
        async with taking(tail):
            await shop.all_arrived()
        await shop.ask("DEL", STREAM)


async def test_two_owners_at_once(shop: Shop) -> None:
    """An election may be wrong: nothing comes twice or out of order, whatever they do to each other."""
    async with taking(shop.tail), taking(shop.tail):
        for _ in range(20):
            await shop.add(100)
            await asyncio.sleep(0)
        await shop.all_arrived()


@pytest.mark.parametrize("seed", range(6))
async def test_owners_come_and_crash(shop: Shop, seed: int) -> None:
    """Again and again, while entries are added: each once and in order."""
    adding = asyncio.create_task(_keep_adding(shop))
    for n in range(15):
        async with taking(shop.tail, crash=True):
            begun = await shop.arrived()
            await shop.some_arrived(begun + 20 * (seed + n % 3))
    adding.cancel()
    await asyncio.gather(adding, return_exceptions=True)
    async with taking(shop.tail):
        await shop.all_arrived()


async def _keep_adding(shop: Shop) -> None:
    while True:
        await shop.add(50)
        await asyncio.sleep(0.001)


async def test_a_partition_that_lost_its_tail_is_refilled(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner notices it by itself, though nothing new comes; the others get nothing twice."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    session = await shop.tail.session()
    keys = session.keys.of("r1")
    async with taking(shop.tail):
        await shop.add(100)
        await shop.all_arrived()
        await until(lambda: _noted_all(shop), "it is noted")
        saved = {key: await shop.ask("DUMP", key) for key in (keys.run("r1"), keys.feed("r1"), keys.marks)}
        await shop.add(100)
        await shop.all_arrived()
        await until(lambda: _noted_all(shop), "it is noted")
        with structlog.testing.capture_logs() as logs:
            for key, dump in saved.items():
                await shop.ask("RESTORE", key, 0, dump, "REPLACE")
            await shop.all_arrived()
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["inlet_goes_back"]


async def _noted_all(shop: Shop) -> bool:
    return (await shop.noted()).get(b"added") == b"%d" % shop.count


async def test_todays_code_may_send_entries_elsewhere(shop: Shop) -> None:
    """A rolling deploy: what is done stays done, what comes goes where the new function says."""
    await shop.add(100)
    async with taking(shop.tail):
        await shop.all_arrived()
    await shop.add(10)

    def elsewhere(entry: Entry) -> Into:
        return Into(f"new-{entry.text('run')}", "a", entry.json("data"))

    async with taking(shop.tail, elsewhere):
        await until(lambda: _elsewhere(shop), "ten arrived elsewhere")
    assert await shop.arrived() == 100
    assert await shop.data("new-r1") == [101, 106]


async def _elsewhere(shop: Shop) -> bool:
    return sum([len(await shop.data(f"new-r{n}")) for n in range(5)]) >= 10


async def test_entries_that_were_trimmed_are_told(shop: Shop) -> None:
    """With how many, also what went while nobody owned the inlet."""
    await shop.add(100)
    async with taking(shop.tail):
        await shop.all_arrived()
    await shop.add(100)
    await shop.ask("XTRIM", STREAM, "MAXLEN", 30)
    before = metrics.inlet_missed_total.labels(STREAM)._value.get()
    with structlog.testing.capture_logs() as logs:
        async with taking(shop.tail):
            await shop.some_arrived(130)
            await until(lambda: metrics.inlet_missed_total.labels(STREAM)._value.get() == before + 70, "it is told")
    assert [line["entries"] for line in logs if line["event"] == "inlet_missed"] == [70]
    assert [line["inlet"] for line in logs if line["event"] == "inlet_missed"] == [STREAM]


async def test_the_stream_may_be_on_another_server(shop: Shop) -> None:
    """By its URL; everything else stays where the namespace is."""
    with running("valkey") as other:
        client = other.client()
        for n in range(1, 101):
            client.xadd(STREAM, {"run": "r0", "type": "a", "data": str(n)})
        async with taking(shop.tail, url=other.url):
            await shop.some_arrived(100, 1)
        assert await shop.data("r0") == [*range(1, 101)]
        assert client.keys("tr:*") == []
        client.close()


async def test_another_stream_under_the_same_name(shop: Shop) -> None:
    """Its entry IDs have nothing to do with those that were taken: it is refused and told."""
    await shop.add(5)
    async with taking(shop.tail):
        await shop.all_arrived()
    one = Taking(Inlet("elsewhere", name=STREAM), await shop.tail.session())
    with pytest.raises(
        Exception, match=rf"inlet {STREAM} takes entries of {STREAM}, and is told to take those of elsewhere"
    ):
        await one.run(asyncio.Event())


async def test_a_server_that_forgot_everything(
    server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream is elsewhere: all of it is taken again."""
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.2)
    with running("valkey") as home:
        async with Tailrace(home.url, namespace=namespace) as tail, Tailrace(server.url, namespace=namespace) as others:
            writing, shop = Shop(others), Shop(tail)
            await writing.add(500)
            shop.count = writing.count
            async with taking(tail, url=server.url):
                await shop.all_arrived()
                await shop.ask("FLUSHALL")
                await shop.all_arrived()
                await writing.add(100)
                shop.count = writing.count
                await shop.all_arrived()
            await writing.ask("DEL", STREAM)


async def test_a_server_without_memory_is_waited_for(server: TestServer, namespace: str) -> None:
    """It refuses before it writes anything; when there is room again the inlet goes on."""
    with running("valkey") as home:
        async with Tailrace(home.url, namespace=namespace) as tail, Tailrace(server.url, namespace=namespace) as others:
            writing, shop = Shop(others), Shop(tail)
            await writing.add(10)
            shop.count = writing.count
            with structlog.testing.capture_logs() as logs:
                async with taking(tail, url=server.url):
                    await shop.all_arrived()
                    await shop.ask("CONFIG", "SET", "maxmemory", 1)
                    await writing.add(100)
                    await until(lambda: any(line["event"] == "inlet_waits" for line in logs), "it waits")
                    assert await shop.arrived() == 10
                    await shop.ask("CONFIG", "SET", "maxmemory", 0)
                    shop.count = writing.count
                    await shop.all_arrived()
            assert [line["error"] for line in logs if line["event"] == "inlet_waits"] == ["server-full"]
            assert [line["event"] for line in logs if line["event"] == "inlet_goes_on"] == ["inlet_goes_on"]
            await writing.ask("DEL", STREAM)


async def test_connections_that_break(server: TestServer, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers get lost again and again: everything arrives once and in order."""
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.1)
    async with fault_proxy(Path(server.url.removeprefix("unix://"))) as proxy:
        direct = Settings(redis_url=server.url, namespace=namespace)
        async with Tailrace(settings=direct) as tail, Tailrace(proxy.url, namespace=namespace) as shaky:
            shop = Shop(tail)
            async with taking(shaky):
                for _ in range(15):
                    await shop.add(100)
                    await shop.some_arrived(await shop.arrived() + 20)
                    proxy.break_all(random.choice(["close", "reset"]))
                await shop.all_arrived()
            await shop.ask("DEL", STREAM)


async def test_a_worker_takes_it_by_election(shop: Shop) -> None:
    """One of two workers has the inlet; it hands it over when it stops. A worker needs no task for that."""
    shop.tail.inlet(STREAM)
    async with working(shop.tail):
        await shop.add(100)
        await shop.all_arrived()
    async with working(shop.tail):
        await shop.add(100)
        await shop.all_arrived()


async def test_the_owner_is_one_of_many(shop: Shop) -> None:
    """Whoever is elected ends the one before it."""
    session = await shop.tail.session()
    owner = Taking(Inlet(STREAM), session)
    stops = [asyncio.Event() for _ in range(3)]
    standing = [
        asyncio.create_task(Singletons(session, {f"inlet:{STREAM}": owner.run}, ttl_ms=500).run(stop)) for stop in stops
    ]
    await shop.add(50)
    await shop.all_arrived()
    for stop in stops:
        stop.set()
    await asyncio.gather(*standing)
