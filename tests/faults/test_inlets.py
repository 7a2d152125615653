"""Inlets while their owners are killed and frozen, and their server loses its tail: each entry once, in order per run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from processor.core.keys import Keyspace, topology_key
from tests.faults.crew import SHORT_OR_LONG, seed_of_day
from tests.support.program import Program
from tests.support.servers import Daemon, TestServer
from tests.support.until import until

STREAM: Final = "orders"
RUNS: Final = 12
BURST: Final = 40  # entries added at a time


class World:
    """Others add to a stream on one server; owners, as processes, take it into runs on another one that keeps an AOF."""

    def __init__(self, source: TestServer, home: Daemon, program: Callable[..., Program]) -> None:
        self.home, self._program = home, program
        self.source: Any = source.client()
        self.client: Any = redis.Redis.from_url(home.url, protocol=2, socket_timeout=10)
        self.rng = random.Random(seed_of_day())
        self._source_url = source.url
        self.owners: list[Program] = []
        self.added = 0

    def begin_owner(self) -> Program:
        args = (self.home.url, self._source_url, STREAM)
        self.owners.append(self._program("python", "-m", "tests.faults.inlet_owner", *args))
        return self.owners[-1]

    def kill(self, owner: Program) -> None:
        owner.kill()
        self.owners.remove(owner)

    def add(self, count: int = BURST) -> None:
        pipe = self.source.pipeline(transaction=False)
        for _ in range(count):
            self.added += 1
            # from time to time several in a row are for the same run
            run = f"r{self.added // self.rng.choice([1, 1, 1, 7]) % RUNS}"
            pipe.xadd(STREAM, {"run": run, "type": "order.paid", "data": str(self.added)})
        pipe.execute()

    def feeds(self) -> dict[str, list[int]]:
        layout: bytes | None = self.client.hget(topology_key("default"), "layout")
        if layout is None:
            return {}
        keys = Keyspace("default", layout.decode())
        found = {}
        for n in range(RUNS):
            entries = self.client.xrange(keys.of(f"r{n}").feed(f"r{n}"))
            found[f"r{n}"] = [int(fields[b"e"].rpartition(b":")[2][:-1]) for _, fields in entries]
        return found

    @property
    def arrived(self) -> int:
        return sum(map(len, self.feeds().values()))

    async def goes_on(self, entries: int) -> None:
        """While more is added, so many more arrive."""
        before = self.arrived

        def done() -> bool:
            if self.added - self.arrived < 20 * BURST:
                self.add()
            return self.arrived >= before + entries

        await until(done, f"{entries} more entries arrive", 30)

    async def verdict(self) -> None:
        """Everything arrives, each entry once and in the order of the stream."""
        await until(lambda: self.arrived >= self.added, "all arrived", 30)
        expected: dict[str, list[int]] = {f"r{n}": [] for n in range(RUNS)}
        for _, fields in self.source.xrange(STREAM):
            expected[fields[b"run"].decode()].append(int(fields[b"data"]))
        assert self.feeds() == expected
        print(f"  {self.added} entries")

    def close(self) -> None:
        self.client.close()
        self.source.delete(STREAM)
        self.source.close()


@pytest.fixture
def world(server: TestServer, program: Callable[..., Program]) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="tailrace-test-") as folder:
        home = Daemon("valkey", Path(folder), ["--appendonly", "yes", "--appendfsync", "always"])
        home.start()
        world = World(server, home, program)
        try:
            yield world
        finally:
            for owner in world.owners:
                owner.kill()
            if keep := os.environ.get("FAULTS_KEEP"):
                shutil.copytree(folder, Path(keep) / "inlets", dirs_exist_ok=True)
            home.kill()
            world.close()


@SHORT_OR_LONG
async def test_killed_owners(world: World, seconds: float) -> None:
    """kill -9 of whoever is there, again and again: the next one goes on where the last one was."""
    world.add()
    world.begin_owner()
    world.begin_owner()
    end, killed = time.monotonic() + seconds, 0
    while time.monotonic() < end or killed < 4:
        await world.goes_on(world.rng.randint(1, 2000))
        world.kill(world.rng.choice(world.owners))
        world.begin_owner()
        killed += 1
    await world.verdict()
    print(f"  {killed} owners killed")


@SHORT_OR_LONG
async def test_frozen_owners(world: World, seconds: float) -> None:
    """SIGSTOP for longer than the lock, then SIGCONT, with whatever was in its hands: it takes nothing away and adds nothing."""
    world.add()
    world.begin_owner()
    world.begin_owner()
    end, frozen = time.monotonic() + seconds, 0
    while time.monotonic() < end or frozen < 4:
        await world.goes_on(world.rng.randint(1, 1000))
        owner = world.owners[frozen % 2]
        owner.send(signal.SIGSTOP)
        await world.goes_on(world.rng.randint(500, 1500))  # the other one goes on, or had it before
        owner.send(signal.SIGCONT)
        frozen += 1
    await world.verdict()
    print(f"  owners were frozen {frozen} times")


@SHORT_OR_LONG
async def test_lost_tails(world: World, seconds: float) -> None:
    """The server of the runs comes back without the last part of its AOF, the stream is elsewhere: what was lost is taken again."""
    world.add()
    world.begin_owner()
    world.begin_owner()
    (aof,) = (world.home.folder / "appendonlydir").glob("*.incr.aof")
    end, lost = time.monotonic() + seconds, 0
    while time.monotonic() < end or lost < 3:
        await world.goes_on(world.rng.randint(200, 1500))
        kept = aof.stat().st_size
        await world.goes_on(world.rng.randint(1, 1500))
        had = world.arrived
        world.home.kill()
        os.truncate(aof, kept)
        world.home.start()
        lost += max(0, had - world.arrived) > 0
    await world.verdict()
    print(f"  {lost} tails were lost")
