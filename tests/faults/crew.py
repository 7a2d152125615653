"""Who works on a server while things fail: workers and producers as processes, begun, killed, stopped, and what they logged."""

from __future__ import annotations

import asyncio
import os
import random
import re
import secrets
import shutil
import signal
import tempfile
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

import pytest

from processor.core.keys import Keyspace
from tests.faults.forked import Forked
from tests.faults.served import NAMESPACE, Fsync, Served, aof
from tests.support.servers import Daemon
from tests.support.until import until

__all__ = ["LONG_SECONDS", "LOOK_SECONDS", "SHORT_OR_LONG", "Crew", "a_crew", "seed_of_day", "short_or_long"]

WORKERS: Final = Keyspace(NAMESPACE, "1 any").workers  # a key of the namespace, whatever its layout
SHORT_SECONDS: Final = 2.5  # of faults, in each scenario
LONG_SECONDS: Final = float(os.environ.get("SOAK_SECONDS", "600")) / 10  # in its long form
LOOK_SECONDS: Final = 0.05  # between two looks at the whole namespace


def short_or_long(short_seconds: float) -> pytest.MarkDecorator:
    """Parametrizes a test by `seconds`."""
    return pytest.mark.parametrize(
        "seconds",
        [short_seconds, pytest.param(LONG_SECONDS, marks=[pytest.mark.soak, pytest.mark.timeout(0)])],
        ids=["short", "long"],
    )


SHORT_OR_LONG: Final = short_or_long(SHORT_SECONDS)


def seed_of_day() -> str:
    """FAULTS_SEED repeats a run's plan; FAULTS_KEEP names a folder that gets the logs."""
    seed = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
    print(f"FAULTS_SEED={seed}")
    return seed


class Crew(Served, ABC):
    """Use it by `a_crew`."""

    defaults: Mapping[str, object] = MappingProxyType({})  # settings

    def __init__(self, folder: Path, server: Daemon, *, fsync: Fsync, settings: Mapping[str, object]) -> None:
        super().__init__(folder, server, fsync=fsync)
        self.seed = seed_of_day()
        self.rng = random.Random(self.seed)
        self.env = {
            "TAILRACE_REDIS_URL": self.url,
            "TAILRACE_LOG": "json",
            "FAULTS_FOLDER": str(folder),
            **{f"TAILRACE_{name.upper()}": str(value) for name, value in {**self.defaults, **settings}.items()},
        }
        self.workers: dict[str, Forked] = {}  # that live, or should
        self.producers: list[tuple[Any, Forked]] = []  # with their orders
        self.gone: list[Forked] = []
        self._names = 0

    # Workers.

    @staticmethod
    @abstractmethod
    def program(order: Any, /) -> None:
        """What a worker's process does with its order; a function of a module."""

    @abstractmethod
    def order(self, **options: Any) -> Any:
        """A worker's."""

    @property
    def visibility_seconds(self) -> float:
        """The setting of all processes. Raises KeyError in a scenario that leaves it as it is."""
        return float(self.env["TAILRACE_VISIBILITY_SECONDS"])

    async def begin_worker(self, name: str = "", *, url: str | None = None, **options: Any) -> Forked:
        """Returns when it has begun to work. url: another way to the server. options: of its order."""
        if not name:
            self._names += 1
            name = f"w{self._names}"
        env = {**self.env, "FAULTS_NAME": name, **({"TAILRACE_REDIS_URL": url} if url else {})}
        forked = Forked(name, type(self).program, self.order(**options), folder=self.folder, env=env)
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

    async def freeze_worker(self, worker: Forked, seconds: float) -> None:
        """It stands still for so long."""
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)  # the fault itself
        worker.send(signal.SIGCONT)

    def _forget(self, worker: Forked) -> None:
        if self.workers.get(worker.name) is worker:
            del self.workers[worker.name]
        self.gone.append(worker)

    async def replace_dead(self, **options: Any) -> int:
        """A new worker for each that ended by itself, as a supervisor does. How many."""
        dead = [worker for worker in self.workers.values() if worker.code is not None]
        for worker in dead:
            self._forget(worker)
        await self.begin_workers(len(dead), **options)
        return len(dead)

    def any_worker(self) -> Forked:
        return self.rng.choice([*self.workers.values()])

    # Producers.

    async def send_producer(self, function: Callable[[Any], None], order: Any) -> None:
        """order: with its name, and `count`: 0 until it is stopped."""
        env = {**self.env, "FAULTS_NAME": order.name}
        forked = Forked(order.name, function, order, folder=self.folder, env=env)
        self.producers.append((order, forked))
        await self.blocking(forked.start)

    async def stop_producers(self) -> None:
        for order, forked in self.producers:
            if not order.count:  # others end by themselves
                forked.send(signal.SIGTERM)
        for order, forked in self.producers:
            code = await forked.ended(60)
            assert code == 0, f"producer {order.name} ended with {code}: {forked.said[-3000:]}"

    @property
    @abstractmethod
    def progress(self) -> int:
        """Grows by one, about, with each function that is begun: cheap to ask."""

    async def goes_on(self, functions: int, deadline: float = 20) -> None:
        """Waits until so many more functions were begun."""
        before = self.progress
        await until(lambda: self.progress >= before + functions, f"{functions} more functions are begun", deadline)

    @abstractmethod
    async def all_there(self) -> bool:
        """Whether all that was accepted by now is on the server."""

    async def lose_last(self, seconds: float) -> int:
        """The server forgets what it is told from now on for so long, and dies of it; returns when producers have made up for
        it. How many bytes it forgot."""
        kept = self.aof_bytes()
        await asyncio.sleep(seconds)
        forgotten = self.aof_bytes() - kept
        await self.lose_tail(kept)
        await until(self.all_there, "what producers know of is there again", 20)
        return forgotten

    # Evidence.

    def bugs(self) -> list[str]:
        """Exceptions that processes logged: a fault of the server is none, a function that was told to fail neither."""
        processes = [*self.gone, *self.workers.values(), *(forked for _, forked in self.producers)]
        return [f"{forked.name} logged: {found[:3000]}" for forked in processes for found in _tracebacks(forked.said)]

    def kill_all(self) -> None:
        for forked in [*self.workers.values(), *(forked for _, forked in self.producers)]:
            forked.kill()
        self.server.kill()


def _tracebacks(said: str) -> list[str]:
    """Lines with an exception, and what was printed behind them until the next line of the log."""
    found: list[str] = []
    for line in said.splitlines():
        if ("Traceback" in line or "never retrieved" in line) and "as it was told to" not in line:
            found.append(line)
        elif found and not line.startswith("{"):
            found[-1] += f"\n{line}"
    return found


W = TypeVar("W", bound=Crew)


@asynccontextmanager
async def a_crew(
    kind: type[W], *, server: Callable[[Path], Daemon] | None = None, fsync: Fsync = "everysec", **settings: object
) -> AsyncIterator[W]:
    """A server; workers and producers are begun by the test. settings: as TAILRACE_… of all processes, without the prefix."""
    with tempfile.TemporaryDirectory(prefix="tailrace-work-") as path:
        folder = Path(path)
        daemon = server(folder) if server else Daemon("valkey", folder, aof(fsync))
        crew = kind(folder, daemon, fsync=fsync, settings=settings)
        try:
            await crew.start_server()
            yield crew
        finally:
            await crew.blocking(crew.kill_all)
            crew.close()
            if keep := os.environ.get("FAULTS_KEEP"):
                shutil.copytree(folder, Path(keep) / crew.seed, ignore=shutil.ignore_patterns("s", "appendonlydir"))
