"""What shipping a log file costs, against the least that puts the same bytes into a stream.

The floor reads the file in blocks as large as our events, cut behind a line, and sends each by one XADD of redis-py, several in
a pipeline: no entries that stay together, no JSON, no number that tells what is stored, nobody told. Beside it, what is usually
written: one XADD a line, in pipelines. All three write to the same server, and the file is in the page cache.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from redis import Redis

from bench.report import Report
from bench.server import running_server
from processor.client.tailrace import Tailrace
from processor.core.settings import Settings
from processor.ship.entries import MAX_ENTRY_BYTES
from processor.ship.following import Follower, Options
from processor.ship.packing import bytes_of_payload
from processor.store.embedded import Aof
from processor.store.runs import read_feed

__all__ = ["bench"]

BLOCKS: Final = 8  # of the floor in a pipeline
LINES: Final = 500  # of the usual way in a pipeline
LIVE_LINES_A_SECOND: Final = 2_000
LIVE_SECONDS: Final = 5.0
SHOWN: Final = 6  # functions of the profile


@dataclass(frozen=True, slots=True)
class Round:
    lines: int
    seconds: float
    cpu_seconds: float  # of this process

    @property
    def per_second(self) -> float:
        return self.lines / self.seconds


def write_log(path: Path, lines: int) -> int:
    """A log as web servers and their applications write them; each hundredth entry is a trace of eight lines. Its bytes."""
    rng = random.Random(5)
    paths = ["/", "/api/runs", "/static/app.css", "/products/1234/reviews?page=2", "/login"]
    agents = ["Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0", "curl/8.9.1"]
    trace = "\n".join(
        ["Traceback (most recent call last):", *(f'  File "app/{i}.py", line {i}, in f' for i in range(6))]
    )
    written = 0
    with path.open("w") as file:
        while written < lines:
            second = written // 1000
            stamp = f"2026-11-24T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}.{written % 1000:03}Z"
            if written % 100 == 99:
                file.write(f"{stamp} ERROR request failed\n{trace}\n")
                written += 8
            else:
                request = (
                    f'"GET {rng.choice(paths)} HTTP/1.1" {rng.choice((200, 200, 304, 404))} {rng.randrange(90_000)}'
                )
                file.write(f'{stamp} 10.0.{rng.randrange(256)}.{rng.randrange(256)} {request} "{rng.choice(agents)}"\n')
                written += 1
    return written


def _timed(lines: int, work: Callable[[], object]) -> Round:
    cpu, begin = time.process_time(), time.perf_counter()
    work()
    return Round(lines, time.perf_counter() - begin, time.process_time() - cpu)


def _blocks(path: Path) -> Iterator[bytes]:
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(MAX_ENTRY_BYTES):
            whole, lf, rest = (rest + chunk).rpartition(b"\n")
            yield whole + lf
    if rest:
        yield rest


def _send_blocks(redis: Redis, path: Path, key: str) -> None:
    with redis.pipeline(transaction=False) as pipe:
        for at, block in enumerate(_blocks(path), 1):
            pipe.xadd(key, {"e": block})
            if at % BLOCKS == 0:
                pipe.execute()
        pipe.execute()


def _send_lines(redis: Redis, path: Path, key: str) -> None:
    with redis.pipeline(transaction=False) as pipe, path.open("rb") as file:
        for at, line in enumerate(file, 1):
            pipe.xadd(key, {"e": line})
            if at % LINES == 0:
                pipe.execute()
        pipe.execute()


async def _ship(tail: Tailrace, path: Path, run: str, lines: int) -> Round:
    session = await tail.session()
    follower = Follower(session, str(path), run, Options(host="bench", once=True))
    cpu, begin = time.process_time(), time.perf_counter()
    await follower.run()
    round = Round(lines, time.perf_counter() - begin, time.process_time() - cpu)
    await _compare(tail, path, run)
    await session.redis.delete(session.keys.of(run).feed(run), session.keys.of(run).run(run))
    return round


async def _compare(tail: Tailrace, path: Path, run: str) -> None:
    """Raises RuntimeError unless the feed is the file."""
    at, first = 0, 1
    with path.open("rb") as file:
        while entries := await read_feed(await tail.session(), run, first, count=50):
            for id, payload in entries:
                part = bytes_of_payload(payload)
                if file.read(len(part)) != part:
                    raise RuntimeError(f"event {id} of {run} is not what stands in the file at {at}")
                at, first = at + len(part), id.seq + 1
        if file.read(1):
            raise RuntimeError(f"{run} ends at {at}, within the file")


async def _live(tail: Tailrace, path: Path, seconds: float) -> float:
    """Part of one core that following takes, while LIVE_LINES_A_SECOND are written line by line by this process as well."""
    follower = Follower(await tail.session(), str(path), "live", Options(host="bench"))
    task = asyncio.create_task(follower.run())
    line = b"2026-11-24T16:00:00Z INFO " + b"x" * 90 + b"\n"
    loop = asyncio.get_running_loop()
    cpu, begin = time.process_time(), loop.time()
    written = 0
    with path.open("ab", buffering=0) as file:
        while (now := loop.time() - begin) < seconds:
            due = int(now * LIVE_LINES_A_SECOND)
            file.write(line * (due - written))
            written = due
            await asyncio.sleep(0.02)
    used = time.process_time() - cpu
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return used / seconds


async def _profile(tail: Tailrace, path: Path, lines: int) -> list[tuple[str, float]]:
    """Where the time of a round goes: functions with their own share of it, the largest first."""
    profile = cProfile.Profile()
    profile.enable()
    session = await tail.session()
    await Follower(session, str(path), "profiled", Options(host="bench", once=True)).run()
    profile.disable()
    found = pstats.Stats(profile)
    rows: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = found.stats  # type: ignore[attr-defined]
    whole = sum(row[2] for row in rows.values())
    shares = [
        (f"{Path(file).name}:{name}" if file != "~" else name, row[2] / whole) for (file, _, name), row in rows.items()
    ]
    return sorted(shares, key=lambda share: -share[1])[:SHOWN]


def bench(*, aof: Aof, quick: bool) -> Report:
    lines, rounds = (20_000, 2) if quick else (500_000, 5)
    report = Report.begin("ship", aof=aof, loop="asyncio, as the command's")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, running_server(aof) as url:
        path = Path(folder) / "app.log"
        lines = write_log(path, lines)
        report.row("the file", f"{lines:,} lines", f"{path.stat().st_size / lines:.0f} bytes a line")
        shipped, floors, usual = [], [], []
        with Redis.from_url(url) as redis, asyncio.Runner() as runner:
            tail = Tailrace(settings=Settings(redis_url=url))
            runner.run(_ship(tail, path, "warm", lines))
            for n in range(rounds):
                shipped.append(runner.run(_ship(tail, path, f"ship-{n}", lines)))
                floors.append(_timed(lines, lambda: _send_blocks(redis, path, "floor")))
                usual.append(_timed(lines, lambda: _send_lines(redis, path, "usual")))
                redis.delete("floor", "usual")
            live = runner.run(_live(tail, Path(folder) / "live.log", 0.5 if quick else LIVE_SECONDS))
            shares = runner.run(_profile(tail, path, lines))
            runner.run(tail.close())
    _tell(report, shipped, floors, usual, live, shares)
    return report


def _tell(
    report: Report,
    shipped: list[Round],
    floors: list[Round],
    usual: list[Round],
    live: float,
    shares: list[tuple[str, float]],
) -> None:
    for name, those in (("ship", shipped), ("floor: XADD a block", floors), ("usual: XADD a line", usual)):
        rate = statistics.median(round.per_second for round in those)
        cpu = statistics.median(round.cpu_seconds / round.lines * 1e6 for round in those)
        report.row(name, f"{rate:,.0f} lines/s", f"{cpu:.2f} us of process CPU a line", key=name, figure=rate)
    report.row(
        "following live", f"{live:.1%} of a core", f"at {LIVE_LINES_A_SECOND:,} lines/s, writing them included", key="live",
        figure=live,
    )  # fmt: skip
    for name, share in shares:
        report.row("profile", f"{share:.0%}", name)
    report.judge("ship.lines_a_second", [round.per_second for round in shipped], "at least", 100_000)
    ratios = [ours.per_second / theirs.per_second for ours, theirs in zip(shipped, floors, strict=True)]
    report.judge("ship.of_floor", ratios, "at least", 0.1)
    ratios = [ours.per_second / theirs.per_second for ours, theirs in zip(shipped, usual, strict=True)]
    report.judge("ship.of_one_xadd_a_line", ratios, "at least", 3)
