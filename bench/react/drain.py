"""How many events a second one worker process reacts to, each reaction a no-op with one settled output event.

Floor and tailrace take turns, each with a fresh server of the same setting; everything is in the log before the clock starts. It goes
from the first line of the first handler to the last output in the feeds. A round counts only if its oracle finds as many outputs as
events in every feed, and the log read to its end. Behind its events a partition's log holds their outputs, which are facts as well:
the group is given them, has nothing for them and acknowledges them, and the processes' CPU includes that.
"""

from __future__ import annotations

import asyncio
import functools
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import uvloop
from redis import Redis

from bench.fleet import cpu_seconds
from bench.process.drain import in_turn, ratios
from bench.process.hired import hired
from bench.process.oracle import Drained, Meanwhile, nothing_else, read_feeds
from bench.react.events import append_facts, even_runs, in_blocks, own_runs
from bench.react.handlers import CONCURRENCY, GROUP, Handlers
from bench.react.oracle import check_handled, faults, last_output, until_read
from bench.report import Report
from bench.server import Served, served_by_tcp
from processor.client.tailrace import Tailrace
from processor.core.keys import Keyspace
from processor.core.settings import Settings
from processor.store.embedded import Aof

__all__ = ["FEW_RUNS", "Shape", "drain_reactions", "measure_drain", "queued", "row"]

FEW_RUNS: Final = 8
OF_FLOOR: Final = {"own": 0.5, "few": 1.0}
FLOOR: Final = "floor"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is drained how. runs: 0: one an event."""

    title: str
    kind: str  # of Handlers
    runs: int
    concurrency: int = CONCURRENCY


SHAPES: Final = {
    "own": Shape("a run an event", "one", 0),
    "few": Shape(f"events of {FEW_RUNS} runs", "one", FEW_RUNS),
    "own, default": Shape("a run an event, 64 at once (a group's default)", "one", 0, 64),
    "few, default": Shape(f"events of {FEW_RUNS} runs, 64 at once", "one", FEW_RUNS, 64),
    "own, ordered": Shape("a run an event, ordered", "ordered", 0),
    "few, ordered": Shape(f"events of {FEW_RUNS} runs, ordered", "ordered", FEW_RUNS),
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each drains in a round: about a second of it."""

    floor: int = 200_000
    reactions: int = 60_000
    ordered: int = 16_000
    rounds: int = 5


QUICK: Final = Sizes(2_000, 1_000, 400, 2)


def measure_drain(report: Report, aof: Aof, *, quick: bool) -> None:
    """Two shapes are judged, the others are for information."""
    sizes = QUICK if quick else Sizes()
    drains: dict[str, Callable[[Served], Drained]] = {FLOOR: lambda server: _floor(server, sizes.floor)}
    for name, shape in SHAPES.items():
        events = sizes.ordered if shape.kind == "ordered" else sizes.reactions
        drains[name] = functools.partial(drain_reactions, shape=shape, events=events)
    drained = in_turn(drains, lambda: served_by_tcp(aof), sizes.rounds)
    row(report, "drain, floor", "floor: redis-py, 200 a script, own process", drained[FLOOR])
    for name, shape in SHAPES.items():
        row(report, f"drain, {name}", shape.title, drained[name], drained[FLOOR])
    for name, limit in OF_FLOOR.items():
        report.judge(f"react.{name}_of_floor", ratios(drained[name], drained[FLOOR]), "at least", limit)


def _floor(server: Served, entries: int) -> Drained:
    """Raises RuntimeError with its last words."""
    command = [sys.executable, "-m", "bench.react.floor", server.url, str(server.pid), str(entries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the floor ended with {done.returncode}: {done.stderr[-2000:]}")
    return Drained(**json.loads(done.stdout))


def drain_reactions(
    server: Served, shape: Shape, events: int, *, outputs: int = 1, meanwhile: Meanwhile = nothing_else
) -> Drained:
    """outputs: of each event, 0 or 1. Raises RuntimeError with what the oracle found."""
    keys, expected = queued(server.url, shape, events)
    arguments = ("bench.react.working", server.url, shape.kind, "--concurrency", str(shape.concurrency))
    with hired(arguments) as worker, Redis.from_url(server.url) as redis:
        meanwhile(True)
        cpu, server_cpu = cpu_seconds(worker.pid), cpu_seconds(server.pid)
        worker.begin()
        until_read(redis, keys, [GROUP], worker)
        ended = time.time()
        cpu, server_cpu = cpu_seconds(worker.pid) - cpu, cpu_seconds(server.pid) - server_cpu
        meanwhile(False)
        told = worker.end()
        check_handled(told["handled"], events)
        if outputs:
            feeds = read_feeds(redis, keys, list(expected))
            if found := faults(feeds, expected):
                raise RuntimeError("; ".join(found))
            ended = last_output(feeds)
    return Drained(events, ended - told["began"], cpu, server_cpu)


def queued(url: str, shape: Shape, events: int) -> tuple[Keyspace, Mapping[str, int]]:
    """Binds the group and appends its events; how many each run has."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_queued(url, shape, events))


async def _queued(url: str, shape: Shape, events: int) -> tuple[Keyspace, Mapping[str, int]]:
    tail = Tailrace(settings=Settings(redis_url=url))
    Handlers(tail, shape.kind, shape.concurrency)  # bound as it opens
    async with tail:
        keys = (await tail.session()).keys
        runs = list(in_blocks(even_runs(keys, shape.runs), events, 1)) if shape.runs else own_runs(events)
        await append_facts(tail, runs)
        return keys, Counter(runs)


def row(
    report: Report,
    key: str,
    title: str,
    rounds: Sequence[Drained],
    against: Sequence[Drained] = (),
    of: str = "of the floor",
) -> None:
    """Rate, ratio to what it is compared with, and CPU on both sides."""
    rates = [one.per_second for one in rounds]
    note = f"{min(rates):,.0f} to {max(rates):,.0f}; {statistics.median(one.cpu_us for one in rounds):.1f} us of Python's CPU"
    if server := statistics.median(one.server_us for one in rounds):
        note += f", {server:.1f} of the server's"
    if against:
        note += f"; {statistics.median(ratios(rounds, against)):.2f} {of}"
    report.row(
        title,
        f"{statistics.median(rates):,.0f}/s",
        note,
        key=key,
        figure={"per_second": rates, "cpu_us": [o.cpu_us for o in rounds], "server_us": [o.server_us for o in rounds]},
    )
