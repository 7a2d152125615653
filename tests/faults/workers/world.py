"""What the faults happen to: a server with an AOF, workers and producers as processes, and the evidence of what they did."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import pytest
import redis.asyncio

from processor.core.keys import Keyspace, topology_key
from tests.faults.workers.oracle import Happened, History, judge
from tests.faults.workers.processes import Forked
from tests.faults.workers.program import Produce, Work, accepted_in, produce, work
from tests.faults.workers.tasks import JOURNAL, SINKS, begun_in, gate_of
from tests.support.servers import Daemon
from tests.support.until import until

__all__ = ["LONG_SECONDS", "NAMESPACE", "SHORT_OR_LONG", "World", "seed_of_day", "the_world"]

NAMESPACE: Final = "default"
WORKERS: Final = Keyspace(NAMESPACE, "1 any").workers  # a key of the namespace, whatever its layout
TERMINAL: Final = (b"succeeded", b"failed", b"cancelled")
SHORT_SECONDS: Final = 2.5  # of faults, in each scenario
LONG_SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "600")) / 10  # in its long form
LOOK_SECONDS: Final = 0.05  # between two looks at the whole namespace
WORK_LIMIT: Final = 40  # producers wait while so much work is queued in a partition: machines differ
JOURNAL_LINE: Final = 50  # bytes, about
SHORT_OR_LONG: Final = pytest.mark.parametrize(
    "seconds",
    [SHORT_SECONDS, pytest.param(LONG_SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
    ids=["short", "long"],
)
T = TypeVar("T")
Fsync = Literal["always", "everysec"]


def seed_of_day() -> str:
    """FAULTS_SEED repeats a run's plan; FAULTS_KEEP names a folder that gets the logs."""
    seed = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
    print(f"FAULTS_SEED={seed}")
    return seed


class World:
    """Use it by `the_world`."""

    def __init__(self, folder: Path, server: Daemon, *, fsync: Fsync, settings: Mapping[str, object]) -> None:
        self.folder, self.server = folder, server
        self.fsync = fsync
        self.forgets = False  # it did not keep all that it acknowledged
        self.url = server.url
        self.seed = seed_of_day()
        self.rng = random.Random(self.seed)
        settings = {"work_limit": WORK_LIMIT, **settings}
        self.env = {
            "TAILRACE_REDIS_URL": self.url,
            "TAILRACE_LOG": "json",
            "FAULTS_FOLDER": str(folder),
            **{f"TAILRACE_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self.workers: dict[str, Forked] = {}  # that live, or should
        self.producers: list[tuple[Produce, Forked]] = []
        self.gone: list[Forked] = []
        self._names = 0
        self._thread = ThreadPoolExecutor(1)

    async def blocking(self, function: Callable[..., T], *args: Any) -> T:
        """In the one thread: a server's parent-death signal fires when the thread that started it ends."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    # The server.

    async def start_server(self) -> None:
        await self.blocking(self.server.start)

    async def kill_server(self) -> None:
        """kill -9. With everysec a write waits while the disk is busy, though it was acknowledged: some may be lost."""
        await self.blocking(self.server.kill)
        self.forgets = self.fsync == "everysec"

    @property
    def _aof(self) -> Path:
        (path,) = (self.folder / "appendonlydir").glob("*.incr.aof")
        return path

    def aof_bytes(self) -> int:
        """What is on its way to the disk by now."""
        return self._aof.stat().st_size

    async def lose_tail(self, kept: int) -> None:
        """As after a crash with everysec: the server dies, and comes back with so many bytes of its AOF."""
        await self.kill_server()
        os.truncate(self._aof, kept)
        await self.start_server()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Any]:
        """For looking: redis-py, bytes in, bytes out."""
        client = redis.asyncio.Redis.from_url(self.url, protocol=2, socket_timeout=5)
        try:
            yield client
        finally:
            await client.aclose()

    # Workers.

    async def begin_worker(
        self, name: str = "", *, url: str | None = None, concurrency: int = 20, consumer: str | None = None
    ) -> Forked:
        """Returns when it has begun to work. url: another way to the server."""
        if not name:
            self._names += 1
            name = f"w{self._names}"
        env = {**self.env, "FAULTS_NAME": name, **({"TAILRACE_REDIS_URL": url} if url else {})}
        order = Work(concurrency=concurrency, consumer=consumer)
        forked = Forked(name, work, order, folder=self.folder, env=env)
        self.workers[name] = forked
        await self.blocking(forked.start)
        await forked.says("worker_begins")
        (consumer,) = re.findall(r'"consumer": "([^"]+)"', forked.said)[:1]
        await until(lambda: self._at_work(forked, consumer), f"{name} is at work", 20)
        return forked

    async def _at_work(self, worker: Forked, consumer: str) -> bool:
        """Whether it has told the others; one that died since then was."""
        if worker.code is not None:
            return True
        async with self.client() as client:
            return bool(await client.hexists(WORKERS, consumer))

    async def begin_workers(self, count: int, **options: Any) -> list[Forked]:
        return list(await asyncio.gather(*(self.begin_worker(**options) for _ in range(count))))

    async def kill_worker(self, worker: Forked) -> None:
        """kill -9."""
        await self.blocking(worker.kill)
        self._forget(worker)

    async def stop_worker(self, worker: Forked, deadline: float = 20) -> None:
        """SIGTERM: it drains."""
        worker.send(signal.SIGTERM)
        code = await worker.ended(deadline)
        assert code == 0, f"{worker.name} ended with {code}: {worker.said[-3000:]}"
        self._forget(worker)

    def _forget(self, worker: Forked) -> None:
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
        self.gone.append(worker)

    async def replace_dead(self) -> int:
        """A new worker for each that ended by itself, as a supervisor does. How many."""
        dead = [worker for worker in self.workers.values() if worker.code is not None]
        for worker in dead:
            self._forget(worker)
        await self.begin_workers(len(dead))
        return len(dead)

    # Producers.

    async def begin_producer(self, name: str = "", **options: Any) -> Produce:
        name = name or f"p{len(self.producers) + 1}"
        order = Produce(name=name, seed=f"{self.seed}/{name}", journal=str(self.folder / f"{name}.journal"), **options)
        forked = Forked(name, produce, order, folder=self.folder, env={**self.env, "FAULTS_NAME": name})
        self.producers.append((order, forked))
        await self.blocking(forked.start)
        return order

    async def runs_of(self, task: str, count: int, **input: Any) -> list[str]:
        """Starts so many runs and waits until all are accepted; their IDs."""
        order = await self.begin_producer(task=task, count=count, input=input, burst=count, pause=0.0)
        _, forked = self.producers[-1]
        assert await forked.ended() == 0, f"producer {order.name}: {forked.said[-3000:]}"
        return accepted_in(order)

    async def stop_producers(self) -> None:
        for order, forked in self.producers:
            if not order.count:  # others end by themselves
                forked.send(signal.SIGTERM)
        for order, forked in self.producers:
            code = await forked.ended(60)
            assert code == 0, f"producer {order.name} ended with {code}: {forked.said[-3000:]}"

    @property
    def accepted(self) -> list[str]:
        return [run for order, _ in self.producers for run in accepted_in(order)]

    def begun(self, *runs: str) -> int:
        """How often functions of these runs were begun."""
        return sum(begun.run in runs for begun in begun_in(self.folder))

    @property
    def progress(self) -> int:
        """Grows by one, about, with each function that is begun: cheap to ask."""
        journal = self.folder / JOURNAL
        return journal.stat().st_size // JOURNAL_LINE if journal.exists() else 0

    async def goes_on(self, functions: int, deadline: float = 20) -> None:
        """Waits until so many more functions were begun."""
        before = self.progress
        await until(lambda: self.progress >= before + functions, f"{functions} more functions are begun", deadline)

    def open_gate(self, name: str) -> None:
        gate_of(self.folder, name).touch()

    # Evidence.

    async def keys(self, client: Any) -> Keyspace:
        layout: bytes = await client.hget(topology_key(NAMESPACE), "layout")
        return Keyspace(NAMESPACE, layout.decode())

    async def runs(self, client: Any) -> list[str]:
        """Runs of tasks, whoever started them."""
        found = [key.decode().partition(":run:")[2] async for key in client.scan_iter("tr:{*}:run:*", count=1000)]
        return [run for run in found if run not in SINKS]

    async def statuses(self, client: Any) -> dict[str, bytes]:
        keys, runs = await self.keys(client), await self.runs(client)
        pipeline = client.pipeline(transaction=False)
        for run in runs:
            pipeline.hget(keys.of(run).run(run), "status")
        return dict(zip(runs, await pipeline.execute(), strict=True))

    async def field(self, run: str, name: str) -> str:
        """Of the run's hash, "" where absent."""
        async with self.client() as client:
            value: bytes | None = await client.hget((await self.keys(client)).of(run).run(run), name)
        return value.decode() if value else ""

    async def now_ms(self) -> int:
        """By the server's clock."""
        async with self.client() as client:
            seconds, micros = await client.time()
        return int(seconds * 1000 + micros // 1000)

    async def claims_again(self, since_ms: int, deadline: float = 20) -> None:
        """Waits until every partition noticed a silence after since_ms (a jump of the clock), its quiet time is over, and
        others had half as long again to claim what they can."""
        visibility_ms = float(self.env["TAILRACE_VISIBILITY_SECONDS"]) * 1000

        async def again() -> bool:
            await asyncio.sleep(LOOK_SECONDS)
            async with self.client() as client:
                keys = await self.keys(client)
                known = [await client.hmget(p.meta, "claims_quiet", "claimed") for p in keys.partitions]
            quiet = [int(value or 0) for value, _ in known]
            return all(
                since_ms <= q and q + 1.5 * visibility_ms < int(last) for q, (_, last) in zip(quiet, known, strict=True)
            )

        await until(again, "entries were claimed again for a while", deadline)

    async def left(self, client: Any) -> dict[str, int]:
        """What must be empty in the end, by key, with how much is in it."""
        found: dict[str, int] = {}
        async for key in client.scan_iter("tr:{*}:work:*", count=1000):
            name = key.decode()
            found[name] = await client.xlen(key)
            if any(group["name"] == b"workers" for group in await client.xinfo_groups(key)):
                found[f"{name} pending"] = (await client.xpending(key, "workers"))["pending"]
        for partition in (await self.keys(client)).partitions:
            found[partition.delayed] = await client.zcard(partition.delayed)
            found[partition.delayed_body] = await client.hlen(partition.delayed_body)
        return found

    async def effects(self, client: Any) -> int:
        keys = await self.keys(client)
        return sum([await client.xlen(keys.of(sink).feed(sink)) for sink in SINKS])

    async def succeeded(self) -> int:
        async with self.client() as client:
            return sum(status == b"succeeded" for status in (await self.statuses(client)).values())

    async def at_rest(self, deadline: float = 30) -> None:
        """Waits until every run has ended, its effects are where they belong, and nothing is left. A busy machine may take
        its time: the deadline counts from the last run that ended."""
        words, ended, end = "", -1, 0.0

        async def rests() -> bool:
            nonlocal words, ended, end
            await asyncio.sleep(LOOK_SECONDS)
            async with self.client() as client:
                statuses, left, effects = (
                    await self.statuses(client),
                    await self.left(client),
                    await self.effects(client),
                )
            going = [run for run, status in statuses.items() if status not in TERMINAL]
            finished = sum(status == b"succeeded" for status in statuses.values())
            full = {key: count for key, count in left.items() if count}
            words = f"{len(going)} go on ({going[:5]}), {effects} effects of {finished}, left: {full}"
            if len(statuses) - len(going) + effects > ended:
                ended, end = len(statuses) - len(going) + effects, time.monotonic() + deadline
            return (not going and not full and effects >= finished) or time.monotonic() > end

        await until(rests, "all is at rest", 3600)
        if time.monotonic() > end:
            print(f"  not at rest: {words}")  # the oracle says whose and what

    async def history(self, *, ends: Mapping[str, str] | None = None) -> History:
        async with self.client() as client:
            keys = await self.keys(client)

            async def feeds(runs: Collection[str]) -> dict[str, Sequence[Happened]]:
                pipeline = client.pipeline(transaction=False)
                for run in runs:
                    pipeline.xrange(keys.of(run).feed(run))
                return await self.blocking(_parsed, runs, await pipeline.execute())

            return History(
                accepted=self.accepted,
                feeds=await feeds(await self.runs(client)),
                sinks=await feeds(SINKS),
                begun=await self.blocking(begun_in, self.folder),
                left=await self.left(client),
                ends=ends or {},
                forgets=self.forgets,
            )

    def bugs(self) -> list[str]:
        """Exceptions that processes logged: a fault of the server is none, a function that was told to fail neither."""
        processes = [*self.gone, *self.workers.values(), *(forked for _, forked in self.producers)]
        return [f"{forked.name} logged: {found[:3000]}" for forked in processes for found in _tracebacks(forked.said)]

    async def verdict(self, *, ends: Mapping[str, str] | None = None, deadline: float = 30) -> History:
        """Ends the producers, waits for rest, and asserts that all was done as promised. The history, for more."""
        begin = time.monotonic()
        await self.stop_producers()
        await self.at_rest(deadline)
        print(f"  at rest {time.monotonic() - begin:.1f} s after the last order")
        history = await self.history(ends=ends)
        starts = sum(event.type == "run.started" for feed in history.feeds.values() for event in feed)
        print(f"  {len(history.accepted)} accepted, {starts} executions, {len(history.begun)} functions begun")
        complaints = await self.blocking(judge, history) + await self.blocking(self.bugs)
        assert not complaints, f"FAULTS_SEED={self.seed}: {len(complaints)} complaints\n" + "\n".join(complaints[:60])
        return history

    def kill_all(self) -> None:
        for forked in [*self.workers.values(), *(forked for _, forked in self.producers)]:
            forked.kill()
        self.server.kill()

    def close(self) -> None:
        self._thread.shutdown()


def _parsed(runs: Collection[str], feeds: Sequence[Any]) -> dict[str, Sequence[Happened]]:
    """run → its feed, from what XRANGE gives for each."""
    return {
        run: [Happened.of(id, fields[b"e"]) for id, fields in entries] for run, entries in zip(runs, feeds, strict=True)
    }


def _tracebacks(said: str) -> list[str]:
    """Lines with an exception, and what was printed behind them until the next line of the log."""
    found: list[str] = []
    for line in said.splitlines():
        if ("Traceback" in line or "never retrieved" in line) and "as it was told to" not in line:
            found.append(line)
        elif found and not line.startswith("{"):
            found[-1] += f"\n{line}"
    return found


@asynccontextmanager
async def the_world(
    *, server: Callable[[Path], Daemon] | None = None, fsync: Fsync = "everysec", **settings: object
) -> AsyncIterator[World]:
    """A server; workers and producers are begun by the test. settings: as TAILRACE_… of all processes, without the prefix."""
    with tempfile.TemporaryDirectory(prefix="tailrace-work-") as path:
        folder = Path(path)
        aof = ("--appendonly", "yes", "--appendfsync", fsync)
        world = World(
            folder, server(folder) if server else Daemon("valkey", folder, aof), fsync=fsync, settings=settings
        )
        try:
            await world.start_server()
            yield world
        finally:
            await world.blocking(world.kill_all)
            world.close()
            if keep := os.environ.get("FAULTS_KEEP"):
                shutil.copytree(folder, Path(keep) / world.seed, ignore=shutil.ignore_patterns("s", "appendonlydir"))
