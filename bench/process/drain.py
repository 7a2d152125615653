"""How many no-ops a second one worker process drains, from queued to finished with every event in the feeds.

Floor, tailrace and the other libraries take turns, each with a fresh server of the same setting, and everything is enqueued before
the clock starts. Tailrace's clock is the feeds': from the first `run.started` to the last `run.finished`.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvloop
from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.floor import drain_floor
from bench.process.hired import hired_worker
from bench.process.oracle import Drained, Meanwhile, faults, nothing_else, read_feeds, read_left, seconds
from bench.process.peers import Peer
from bench.process.tasks import Tasks, start_many
from bench.report import Report
from bench.server import Served, served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["drain_tailrace", "in_turn", "measure_drain", "ratios"]

FLOOR: Final = "floor: redis-py, 200 a script"
COUNTING: Final = "floor with a counter an entry"
OURS: Final = "tailrace"
OF_FLOOR: Final = 0.15
OF_PEER: Final = {"off": 4.0, "everysec": 2.5, "always": 2.5}
PYTHON_US: Final = 40.0

Drain = Callable[[Served], Drained]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each drains in a round: about a second of it."""

    floor: int = 100_000
    tailrace: int = 30_000
    peer: int = 5_000
    rounds: int = 5


QUICK: Final = Sizes(2_000, 400, 200, 2)


def measure_drain(
    report: Report, aof: Aof, *, quick: bool, peers: Sequence[str], cache: Path, jemalloc: bool = False
) -> None:
    """peers: names of PEERS; none: that target is skipped. jemalloc: all of them with a server that has it."""
    sizes = QUICK if quick else Sizes()
    others = [Peer(name, cache) for name in peers]
    for peer in others:
        peer.install()
    drains: dict[str, Drain] = {
        FLOOR: lambda server: drain_floor(server, sizes.floor),
        COUNTING: lambda server: drain_floor(server, sizes.floor, count=True),
        OURS: lambda server: drain_tailrace(server, sizes.tailrace),
        **{peer.name: _drain_of(peer, sizes.peer) for peer in others},
    }
    drained = in_turn(drains, lambda: served_by_tcp(aof, jemalloc=jemalloc), sizes.rounds)
    titles = {peer.name: peer.title for peer in others}
    for name, rounds in drained.items():
        _row(report, name, titles.get(name, name), rounds)
    _judge(report, aof, drained, [peer.name for peer in others])


def _drain_of(peer: Peer, tasks: int) -> Drain:
    return lambda server: peer.drain(server.url, tasks)


def in_turn(
    drains: Mapping[str, Drain], serve: Callable[[], AbstractContextManager[Served]], rounds: int
) -> dict[str, list[Drained]]:
    """Every second round the other way round: what one leaves behind (caches, a warm core) hits another."""
    drained: dict[str, list[Drained]] = {name: [] for name in drains}
    for number in range(rounds):
        for name in list(drains) if number % 2 == 0 else reversed(list(drains)):
            with serve() as server:
                drained[name].append(drains[name](server))
    return drained


def drain_tailrace(server: Served, tasks: int, *, meanwhile: Meanwhile = nothing_else) -> Drained:
    """Raises RuntimeError with what the oracle found."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        keys, runs = runner.run(_queued(server.url, tasks))
    with hired_worker(server.url, "nothing", burst=True) as worker:
        meanwhile(True)
        server_cpu = cpu_seconds(server.pid)
        worker.begin()
        told = worker.wait()
        meanwhile(False)
        server_cpu = cpu_seconds(server.pid) - server_cpu
    with Redis.from_url(server.url) as redis:
        feeds = read_feeds(redis, keys, runs)
        found = faults(feeds, read_left(redis, keys, "nothing"))
    if found:
        raise RuntimeError("; ".join(found))
    return Drained(tasks, seconds(feeds), told["cpu_seconds"], server_cpu)


async def _queued(url: str, count: int) -> tuple[Keyspace, list[str]]:
    """Starts no-ops; returns their runs, each of which the server has accepted."""
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        runs = await start_many(Tasks(tail).nothing, count)
        return (await tail.session()).keys, runs


def _row(report: Report, name: str, title: str, rounds: Sequence[Drained]) -> None:
    rate = statistics.median(one.per_second for one in rounds)
    cpu = statistics.median(one.cpu_us for one in rounds)
    server = statistics.median(one.server_us for one in rounds)
    note = f"{cpu:.1f} us of Python's CPU each" + (f", {server:.1f} of the server's" if server else "")
    report.row(
        title,
        f"{rate:,.0f}/s",
        note,
        key=f"drain, {name}",
        figure={"per_second": [one.per_second for one in rounds], "cpu_us": cpu, "server_us": server},
    )


def _judge(report: Report, aof: Aof, drained: Mapping[str, Sequence[Drained]], peers: Sequence[str]) -> None:
    ours = drained[OURS]
    report.judge("process.of_floor", ratios(ours, drained[FLOOR]), "at least", OF_FLOOR)
    if peers:
        fastest = max(peers, key=lambda name: statistics.median(one.per_second for one in drained[name]))
        report.row("fastest of the others", fastest)
        report.judge("process.of_fastest_peer", ratios(ours, drained[fastest]), "at least", OF_PEER[aof])
    else:
        report.skip("process.of_fastest_peer", "--peers all runs the other libraries", "at least", OF_PEER[aof])
    report.judge("process.python_cpu", [one.cpu_us for one in ours], "at most", PYTHON_US, "us")


def ratios(ours: Sequence[Drained], theirs: Sequence[Drained]) -> list[float]:
    return [our.per_second / their.per_second for our, their in zip(ours, theirs, strict=True)]
