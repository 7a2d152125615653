"""What a producer costs: the calls that it made are made again by hand, prebuilt, and both are compared.

The floor sends the very bytes of the producer's calls, under other run IDs, over one raw connection with eight in flight: the
same script, the same batches, no Python but the loop that reads the answers.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import uvloop

from bench.report import Report
from bench.server import running_server
from processor.client.run import Run
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.store.connection import Address, Wire
from processor.store.embedded import Aof

__all__ = ["bench"]

FLOOR_IN_FLIGHT: Final = 8
TOKEN: Final = "token "
BLOCK: Final = 100
BEHIND: Final = 2_000  # how many events a producer is ahead of what it knows to be stored
WAIT_EVERY: Final = 64  # handles of one of many runs


@dataclass(slots=True)
class Round:
    """One way of writing, measured once."""

    events: int
    seconds: float
    cpu_seconds: float
    calls: list[bytes] = field(default_factory=list)  # as they were sent

    @property
    def per_second(self) -> float:
        return self.events / self.seconds

    @property
    def cpu_us(self) -> float:
        return self.cpu_seconds / self.events * 1e6

    @property
    def batch(self) -> float:
        return self.events / max(1, len(self.calls))


async def _stream(run: Run[Any], events: int) -> None:
    """Tokens as fast as they go, BEHIND of them unacknowledged."""
    behind = deque([run.write(TOKEN)])
    for written in range(1, events):
        behind.append(run.write(TOKEN))
        if written % BLOCK == 0:
            await asyncio.sleep(0)
            while len(behind) > BEHIND:
                await behind[BLOCK]
                for _ in range(BLOCK):
                    behind.popleft()
    await behind[-1]


async def _tokens(run: Run[Any], events: int) -> None:
    """Tokens of one of many runs, each WAIT_EVERY-th awaited."""
    for written in range(1, events + 1):
        sent = run.write(TOKEN)
        if written % WAIT_EVERY == 0 or written == events:
            await sent


Writing = Callable[[list[Run[Any]], int], Awaitable[None]]


async def _one_run(runs: list[Run[Any]], events: int) -> None:
    await _stream(runs[0], events)


async def _many_runs(runs: list[Run[Any]], events: int) -> None:
    await asyncio.gather(*(_tokens(run, events // len(runs)) for run in runs))


async def _by_producer(tail: Tailrace, writing: Writing, ids: list[str], events: int) -> Round:
    """Also records what goes to the server."""
    session = await tail.session()
    wire: Any = session.appender._wire
    runs = [tail.run(id) for id in ids]
    for run in runs:
        await run.write(TOKEN)  # opens the message
    await asyncio.sleep(0)
    calls: list[bytes] = []
    send = wire.send

    def record(packed: bytes) -> None:
        calls.append(packed)
        send(packed)

    wire.send = record
    cpu, begin = time.process_time(), time.perf_counter()
    await writing(runs, events)
    round = Round(events, time.perf_counter() - begin, time.process_time() - cpu, calls)
    del wire.send
    return round


async def _by_hand(address: Address, calls: list[bytes], events: int) -> Round:
    """The same calls again. Raises RuntimeError unless each of their events was taken."""
    left = iter(calls)
    taken = 0
    answered = 0
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    replies: list[Any] = []

    def on_reply(reply: Any) -> None:
        nonlocal answered
        answered += 1
        replies.append(reply)
        following = next(left, None)
        if following is not None:
            wire.send(following)
        elif answered == len(calls):
            done.set_result(None)

    wire = await Wire.connect(address, on_reply=on_reply, on_lost=lambda error: None, name="bench-floor")
    cpu, begin = time.process_time(), time.perf_counter()
    for _ in range(min(FLOOR_IN_FLIGHT, len(calls))):
        wire.send(next(left))
    await done
    round = Round(events, time.perf_counter() - begin, time.process_time() - cpu, calls)
    wire.close()
    for reply in replies:
        if not isinstance(reply, list) or reply[0] != b"ok":
            raise RuntimeError(f"the floor's call was refused: {reply!r}")
        taken += sum(
            int(outcome.split()[1]) for batch in reply[1] for outcome in batch if outcome.startswith(b"appended")
        )
    if taken != events:
        raise RuntimeError(f"the floor appended {taken} of {events} events")
    return round


async def _pair(tail: Tailrace, writing: Writing, count: int, events: int, number: int) -> tuple[Round, Round]:
    """A producer's round, and the same calls by hand."""
    ids = [f"a{number:03}-{i:03}-0000" for i in range(count)]
    session = await tail.session()
    twins = [await _twin(tail, id) for id in ids]
    produced = await _by_producer(tail, writing, ids, events)
    calls = produced.calls
    for id, twin in zip(ids, twins, strict=True):
        calls = [call.replace(id.encode(), twin.encode()) for call in calls]
    floor = await _by_hand(session.server.address, calls, events)
    produced.calls = []
    return produced, floor


async def _twin(tail: Tailrace, id: str) -> str:
    """Another run of the same partition, prepared as the producer's is: an open message and one token of the same producer."""
    session = await tail.session()
    partition = session.keys.number(id)
    names = (f"b{id[1:-4]}{n:04}" for n in range(10_000))
    twin = next(name for name in names if session.keys.number(name) == partition)
    await tail.run(twin).write(TOKEN)
    return twin


async def _call_cost(tail: Tailrace, blocks: int) -> list[float]:
    """Microseconds of one `run.write`, mean of each block."""
    run = tail.run()
    await run.write(TOKEN)
    costs = []
    for _ in range(blocks):
        begin = time.perf_counter()
        for _ in range(BLOCK - 1):
            run.write(TOKEN)
        sent = run.write(TOKEN)
        costs.append((time.perf_counter() - begin) / BLOCK * 1e6)
        await sent
    return costs


async def _measure(report: Report, url: str, aof: Aof, *, quick: bool) -> None:
    events, rounds = (4_000, 2) if quick else (100_000, 7)
    async with Tailrace(settings=Settings(redis_url=url)) as tail:
        await _pair(tail, _one_run, 1, events // 4, 0)  # warm: allocators, the server's script
        pairs: dict[str, list[tuple[Round, Round]]] = {"one run": [], "50 runs": []}
        for n in range(rounds):
            pairs["one run"].append(await _pair(tail, _one_run, 1, events, 2 * n + 1))
            pairs["50 runs"].append(await _pair(tail, _many_runs, 50, events, 2 * n + 2))
        costs = await _call_cost(tail, 20 if quick else 300)
    for name, measured in pairs.items():
        for who, those in (("producer", [p for p, _ in measured]), ("floor", [f for _, f in measured])):
            rate, cpu = statistics.median(r.per_second for r in those), statistics.median(r.cpu_us for r in those)
            batch = f", {measured[0][1].batch:.0f} events a call"
            report.row(
                f"{name}, {who}",
                f"{rate:,.0f} events/s",
                f"{cpu:.2f} us of process CPU an event{batch}",
                key=f"{name}, {who}",
                figure={"events_per_second": rate, "cpu_us": cpu, "batch": measured[0][1].batch},
            )
    report.row(
        "run.write, the call",
        f"{statistics.median(costs):.2f} us",
        "median of blocks of 100",
        key="write_us",
        figure=costs,
    )
    one, many = pairs["one run"], pairs["50 runs"]
    report.judge("append.50_runs_of_floor", [p.per_second / f.per_second for p, f in many], "at least", 0.8)
    report.judge("append.one_run_of_floor", [p.per_second / f.per_second for p, f in one], "at least", 0.7)
    report.judge("append.write_call", costs, "at most", 2, "us")
    report.judge("append.cpu_an_event_50_runs", [p.cpu_us for p, _ in many], "at most", 4, "us")
    report.judge("append.cpu_an_event_one_run", [p.cpu_us for p, _ in one], "at most", 4, "us")


def bench(*, aof: Aof, quick: bool, only: str | None = None) -> Report:
    """only: this bench has one part."""
    report = Report.begin("append", aof=aof, loop="uvloop")
    with running_server(aof) as url, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure(report, url, aof, quick=quick))
    return report
